"""Settings of a process that computes. Every process that trains or times calls :func:`prepare_process` first."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch

LARGEST_BLOCK = 32 * 2**20 - 2**16
"""Bytes: just below glibc's limit, with what it adds to a block."""


def prepare_process(threads: int) -> None:
    """Set the number of CPU threads that PyTorch computes with, and settle the allocator."""
    torch.set_num_threads(threads)
    settle_allocator()


def settle_allocator() -> None:
    """Let glibc hand out memory alike in every process, whatever it did before.

    glibc gives freed memory back to the system, page by page to be asked for anew, until the process has freed a large
    block once, of 32 MB at most (man mallopt, M_MMAP_THRESHOLD). Before that a training step or a batch takes up to
    twice as long as after it. So a block of that size is freed here.
    """
    torch.empty(LARGEST_BLOCK, dtype=torch.uint8)


@contextlib.contextmanager
def flush_denormals() -> Iterator[None]:
    """Treat denormal floats (below 1.2e-38) as zero while the context is open, in this thread and in new ones.

    Adam's averages become denormal where gradients stay zero, as for units that no image activates any more, and most
    processors take a hundred times as long for each denormal number.
    """
    already = sys.float_info.min / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished the work queued for it; a CPU has no such queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
