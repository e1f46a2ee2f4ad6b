"""A process made ready to compute: threads, memory, arithmetic. Every process that trains or times calls it first."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator

import torch

from bench.learning.eager import postpone_compiler

# man 3 mallopt
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare_process(threads: int) -> None:
    """Set up what PyTorch leaves to its user, before the first tensor is made.

    Args:
        threads: CPU threads to compute with.
    """
    postpone_compiler()
    _tune_allocator()
    torch.set_num_threads(threads)


@contextlib.contextmanager
def small_numbers_are_zero() -> Iterator[None]:
    """Numbers too small for a normalised float (below 1.2e-38) count as zero meanwhile.

    Adam's averages of gradients that have become zero, as those of units that no image excites any more, end there,
    and most processors take a hundred times as long for each: a quarter of the time of training a head on features.
    """
    already = sys.float_info.min / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


@functools.cache
def _tune_allocator() -> None:
    """Let the C library's allocator (glibc's) give nothing back to the system; once per process.

    A step frees tens of megabytes and asks for them again. By default glibc may return them each time, and the system
    then hands out zeroed pages anew; whether it does depends on where in the heap they lie, so that one process in ten
    is slower than the others by a quarter for as long as it lives.

    On Linux, tensors of 2 MB and more are put on huge pages too, where the system leaves that to its programs: a tenth
    less time for the CNN's training step. PyTorch asks for it once, with the first tensor.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
