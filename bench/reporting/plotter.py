"""A second process that draws plots while this one goes on: figures are most of what a report takes."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from threading import Thread
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:  # it is begun before its owner imports these
    from matplotlib.figure import Figure

    from bench.reporting.plots import Drawn

_BEGIN = "import sys; sys.path[:] = sys.argv[1:]; from bench.reporting.plotter import serve; serve()"


class Plotter:
    """Draws one list of figures. Its process begins at once to import what it needs, and ends with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # where no process can be had, all is drawn here
            # not a pool: its processes import the main module, which may be a user's script without a guard
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for its owner
            )
        self._figures: list[Callable[[], Figure]] = []
        self._left: deque[int] = deque()
        self._drawn: dict[int, Drawn] = {}
        self._asking = Thread(target=self._ask, name="plotter", daemon=True)

    def begin(self, figures: Sequence[Callable[[], Figure]]) -> None:
        """Draw them in the process, from the first on.

        Args:
            figures: each makes one; sent to the process, so :class:`functools.partial` rather than lambda.
        """
        self._figures = list(figures)
        self._left.extend(range(len(figures)))
        if not figures and self._process is not None:
            self._process.kill()  # it need not be ready first
        self._asking.start()

    def finish(self) -> list[Drawn]:
        """Draw what is left, from the last on, while the process goes on; gives all in order."""
        while len(self._left) > 1:  # one more is drawn sooner by who has drawn before
            self._draw_last()
        self._asking.join()
        while self._left:  # the process was lost
            self._draw_last()
        return [self._drawn[number] for number in range(len(self._figures))]

    def _draw_last(self) -> None:
        from bench.reporting.plots import drawn

        try:
            number = self._left.pop()
        except IndexError:  # the process has just been given it
            return
        self._drawn[number] = drawn(self._figures[number])

    def _ask(self) -> None:
        if self._process is None:
            return
        asked: list[int] = []  # what the process draws, and what it draws next
        try:
            with self._process as process:
                questions, answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
                pickle.dump(self._figures, questions)  # all at once: they share most of what they are drawn from
                while self._left or asked:
                    before = len(asked)
                    with contextlib.suppress(IndexError):  # the other thread took the last
                        asked.append(self._left.popleft())
                        pickle.dump(asked[-1], questions)
                    questions.flush()
                    if before:
                        self._drawn[asked[0]] = pickle.load(answers)  # noqa: S301 - from our own process
                        asked.pop(0)
        except Exception:  # mostly that the process was lost; who waits draws what it should have
            self._left.extendleft(reversed(asked))


@functools.cache
def plotter() -> Plotter:
    """The one that was begun in good time. It draws once: afterwards ``plotter.cache_clear()``."""
    return Plotter()


def serve() -> None:
    """What the process does, until its owner has no more to ask or has ended."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    try:
        from bench.reporting import plots

        plots.prepare()
        gc.disable()
        figures = pickle.load(sys.stdin.buffer)  # noqa: S301
        gc.freeze()  # looking for garbage among what stays takes longer than reading it
        gc.enable()
        while True:
            number = pickle.load(sys.stdin.buffer)  # noqa: S301
            pickle.dump(plots.drawn(figures[number]), answers)
            answers.flush()
    except Exception:  # its owner has ended; or draws itself what cannot be drawn, and fails where it can be seen
        os._exit(1)  # an answer that nobody reads stays unwritten
