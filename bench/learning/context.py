"""The interface between a run and the place where it runs, which keeps ``learning`` free of Ray."""

from __future__ import annotations

from typing import Protocol

from bench.spec import Progress


class Context(Protocol):
    """The place where a run runs: to ``execute``, a test, a Ray Train worker and a Ray Tune trial look alike."""

    rank: int
    """This worker's number, from 0."""
    world_size: int
    """The number of workers that train this run. If above 1, torch.distributed is set up before the run starts."""
    device: str
    """The device as torch names it: 'cpu', 'cuda:0'."""
    threads: int
    """The number of CPU threads to compute with, the same throughout the run."""
    report_seconds: float
    """The time between two reports within an epoch; a report reads the loss, which waits for the device."""

    def report(self, progress: Progress) -> None:
        """Report how far the run is. Called on rank 0 only; must not wait."""

    def save(self, run_id: str, state: bytes) -> None:
        """Keep the state needed to resume from here, in place of the last one. Called on rank 0 only."""

    def load(self, run_id: str) -> bytes | None:
        """Return the state that was kept last, or None. Called on every rank, with the same answer."""

    def goes_on(self, run_id: str, epoch: int, validation_accuracy: float | None) -> bool:
        """Return whether to continue training after an epoch. Called on every rank, with the same answer."""


class LocalContext:
    """The context of a run in this process: for tests, notebooks and the debugger."""

    rank = 0
    world_size = 1

    def __init__(self, *, device: str = "cpu", threads: int = 1, report_seconds: float = 0.5) -> None:
        self.device = device
        self.threads = threads
        self.report_seconds = report_seconds
        self.progress: list[Progress] = []
        self.saved: dict[str, bytes] = {}

    def report(self, progress: Progress) -> None:
        """Append ``progress`` to the attribute of the same name."""
        self.progress.append(progress)

    def save(self, run_id: str, state: bytes) -> None:
        """Keep ``state`` in memory."""
        self.saved[run_id] = state

    def load(self, run_id: str) -> bytes | None:
        """Return the state kept in memory, or None."""
        return self.saved.get(run_id)

    def goes_on(self, run_id: str, epoch: int, validation_accuracy: float | None) -> bool:
        """Return True: training always continues."""
        return True
