"""Memory: asked of a process of its own, as the settings last as long as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SIZES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

PROGRAM = """
import torch
from bench.learning.allocation import tune_allocator

tune_allocator()
kept = torch.ones(20_000_000)
for line in open("/proc/self/smaps_rollup"):
    if line.startswith("AnonHugePages:"):
        print(line.split()[1])
"""


@pytest.mark.skipif(
    not SIZES.is_file() or "[never]" in SIZES.read_text(), reason="this system has no huge pages for its programs"
)
def test_large_tensors_are_on_huge_pages() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 > 0.3 * 80_000_000  # memory that is in pieces has few
