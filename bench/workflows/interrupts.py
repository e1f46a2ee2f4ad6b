"""Interrupts: the first Ctrl-C ends a command in good order, the second at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130
"""The exit code after Ctrl-C, by the convention of shells: 128 + SIGINT."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on the first SIGINT or SIGTERM; end the process at once on the next.

    Ray's processes on this machine end with it: the kernel tells them.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    seen = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            os._exit(128 + number)
        raise KeyboardInterrupt

    before = [signal.signal(signum, stop) for signum in signals]
    try:
        yield
    finally:
        if not seen:  # after an interrupt a second one still ends the process while it tidies up
            for signum, handler in zip(signals, before, strict=True):
                signal.signal(signum, handler)
