"""Timing in a separate process, without Ray and with the environment that a user's program has.

``python -m bench.learning.timing_process`` reads pickled arguments from standard input, and writes its progress and,
last, its result to standard output, pickled one after the other.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

from bench.learning.timing import Subject, time_models
from bench.spec import Timed, TimingProgress


def time_in_a_process(
    subjects: Sequence[Subject],
    *,
    backends: Sequence[str],
    device: str,
    threads: int,
) -> Iterator[TimingProgress | Timed]:
    """Run :func:`bench.learning.timing.time_models` in a new process; yield its progress and, last, its result.

    Args:
        subjects: as for ``time_models``.
        backends: as for ``time_models``.
        device: as for ``time_models``.
        threads: as for ``time_models``.

    Raises:
        RuntimeError: the new process failed; the message is the last line of its standard error, or its exit code.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", "bench.learning.timing_process"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C reaches the command only; the new process ends with it
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for mypy
        with contextlib.suppress(BrokenPipeError), process.stdin:  # if it failed, its errors say why
            pickle.dump((list(subjects), tuple(backends), device, threads), process.stdin)
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # it ended
            while True:
                yield pickle.load(process.stdout)  # noqa: S301 - from our own process
        if process.wait() != 0:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").split("\n")
            reason = next((line for line in reversed(lines) if line.strip()), f"exit code {process.returncode}")
            raise RuntimeError(reason)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """Time the models given on standard input, and write progress and result to standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the result
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    subjects, backends, device, threads = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own process

    def tell(what: TimingProgress | Timed) -> None:
        pickle.dump(what, answers)
        answers.flush()

    tell(time_models(subjects, backends=backends, device=device, threads=threads, report=tell))
    answers.close()


if __name__ == "__main__":
    main()
