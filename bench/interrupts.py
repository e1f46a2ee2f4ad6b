"""Ctrl-C once: stop in good order. Twice: at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The first SIGINT or SIGTERM raises KeyboardInterrupt; one more ends the process at once.

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

    before = [signal.signal(one, stop) for one in signals]
    try:
        yield
    finally:
        if not seen:  # after an interrupt a second one still ends the process while it tidies up
            for one, handler in zip(signals, before, strict=True):
                signal.signal(one, handler)
