"""Memory that a process has once asked for stays with it, as PyTorch's allocator on GPUs has it."""

from __future__ import annotations

import contextlib
import ctypes
import functools

# man 3 mallopt
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@functools.cache
def keep_memory() -> None:
    """Let the C library's allocator give nothing back to the system, where it is glibc's; once per process.

    A step frees tens of megabytes and asks for them again. By default glibc may return them each time, and the system
    then hands out zeroed pages anew; whether it does depends on where in the heap they lie, so that one process in ten
    is slower than the others by a quarter for as long as it lives.
    """
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
