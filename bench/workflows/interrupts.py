"""Commands that end early: the first Ctrl-C ends one in good order, the second at once; or Ray is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from bench.cluster.session import ClusterLostError

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


def exit_code_of_training(train: Callable[[], None], what: str) -> int:
    """Call ``train`` and return 0; if Ctrl-C or the loss of Ray ends it, tell the user and return the exit code.

    Args:
        train: stores what it trains as it goes, so that the same command can go on from there.
        what: what it trains, in the plural.
    """
    kept = f"finished {what} are kept, and the same command goes on from here"
    try:
        with interruptible():
            train()
    except KeyboardInterrupt:
        print(f"interrupted; {kept}")
        return INTERRUPTED
    except ClusterLostError as error:
        print(f"error: Ray was lost ({error}); {kept}", file=sys.stderr)
        return 1
    return 0
