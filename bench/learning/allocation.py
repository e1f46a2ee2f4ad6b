"""How a process gets its memory: huge pages, and what it has once asked for stays with it, as on GPUs."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os

# man 3 mallopt
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@functools.cache
def tune_allocator() -> None:
    """Let the C library's allocator (glibc's) give nothing back to the system; once per process.

    A step frees tens of megabytes and asks for them again. By default glibc may return them each time, and the system
    then hands out zeroed pages anew; whether it does depends on where in the heap they lie, so that one process in ten
    is slower than the others by a quarter for as long as it lives.

    On Linux, tensors of 2 MB and more are put on huge pages too, where the system leaves that to its programs: a tenth
    less time for the CNN's training step. PyTorch asks for it once, so this must come before the first tensor.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
