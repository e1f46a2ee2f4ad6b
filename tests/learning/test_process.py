"""Memory and arithmetic: asked of a process of its own, as the settings last as long as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SIZES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

_HUGE_PAGES = """
import torch
from bench.learning.process import prepare_process

prepare_process(1)
kept = torch.ones(20_000_000)
for line in open("/proc/self/smaps_rollup"):
    if line.startswith("AnonHugePages:"):
        print(line.split()[1])
"""


@pytest.mark.skipif(
    not SIZES.is_file() or "[never]" in SIZES.read_text(), reason="this system has no huge pages for its programs"
)
def test_large_tensors_are_on_huge_pages() -> None:
    done = subprocess.run([sys.executable, "-c", _HUGE_PAGES], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 > 0.3 * 80_000_000  # memory that is in pieces has few


_SMALL_NUMBERS = """
import torch
from bench.learning.process import prepare_process, small_numbers_are_zero

prepare_process(2)
tiny = torch.finfo(torch.float32).tiny
for _ in range(2):
    with small_numbers_are_zero():
        print((torch.full((1_000_000,), tiny) / 2).count_nonzero().item())  # so many that both threads have some
    print((torch.full((10,), tiny) / 2).count_nonzero().item())
"""


def test_numbers_too_small_for_a_normalised_float_are_zero_in_every_thread_and_only_meanwhile() -> None:
    done = subprocess.run([sys.executable, "-c", _SMALL_NUMBERS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "10"] * 2
