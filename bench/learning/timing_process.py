"""Timing in a separate process, without Ray and with the environment that a user's program has.

``python -m bench.learning.timing_process`` reads pickled arguments from standard input, and writes its pickled result
to standard output.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from bench.learning.timing import Measured, Subject, time_models


def time_in_a_process(
    subjects: Sequence[Subject],
    *,
    backends: Sequence[str],
    device: str,
    threads: int,
) -> Measured:
    """Run :func:`bench.learning.timing.time_models` in a new process.

    Args:
        subjects: as for ``time_models``.
        backends: as for ``time_models``.
        device: as for ``time_models``.
        threads: as for ``time_models``.

    Raises:
        RuntimeError: the new process failed; the message is the last line of its standard error, or its exit code.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-m", "bench.learning.timing_process"],
        input=pickle.dumps((list(subjects), tuple(backends), device, threads)),
        env=environment,
        capture_output=True,
        start_new_session=True,  # Ctrl-C reaches the command only; the new process ends with it
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").split("\n")
        raise RuntimeError(next((line for line in reversed(lines) if line.strip()), f"exit code {done.returncode}"))
    measured: Measured = pickle.loads(done.stdout)  # noqa: S301 - from our own process
    return measured


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """Time the models given on standard input, and write the result to standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the result
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    subjects, backends, device, threads = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own process
    measured = time_models(subjects, backends=backends, device=device, threads=threads)
    pickle.dump(measured, answers)
    answers.close()


if __name__ == "__main__":
    main()
