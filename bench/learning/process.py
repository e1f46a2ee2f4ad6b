"""Settings of a process that computes. Every process that trains or times calls :func:`prepare_process` first."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch


def prepare_process(threads: int) -> None:
    """Set the number of CPU threads that PyTorch computes with."""
    torch.set_num_threads(threads)


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
