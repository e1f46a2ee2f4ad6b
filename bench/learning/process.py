"""A process made ready to compute. Every process that trains or times calls it first."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch


def prepare_process(threads: int) -> None:
    """Compute with so many CPU threads from now on."""
    torch.set_num_threads(threads)


@contextlib.contextmanager
def flush_denormals() -> Iterator[None]:
    """Take numbers too small for a normalised float (below 1.2e-38) as zero meanwhile, in this thread and in new ones.

    Adam's averages of gradients that have become zero, as those of units that no image excites any more, end there,
    and most processors take a hundred times as long for each.
    """
    already = sys.float_info.min / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)
