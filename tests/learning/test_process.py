"""Arithmetic: asked of a process of its own, as the settings last as long as a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.heavy

_SMALL_NUMBERS = """
import torch
from bench.learning.process import flush_denormals, prepare_process

prepare_process(2)
tiny = torch.finfo(torch.float32).tiny
for _ in range(2):
    with flush_denormals():
        print((torch.full((1_000_000,), tiny) / 2).count_nonzero().item())  # so many that both threads have some
    print((torch.full((10,), tiny) / 2).count_nonzero().item())
"""


def test_numbers_too_small_for_a_normalised_float_are_zero_in_every_thread_and_only_meanwhile() -> None:
    done = subprocess.run([sys.executable, "-c", _SMALL_NUMBERS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "10"] * 2
