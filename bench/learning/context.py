"""What a run needs from where it runs. This is all that keeps ``learning`` free of Ray."""

from __future__ import annotations

from typing import Protocol

from bench.spec import Progress


class Context(Protocol):
    """Where a run runs. ``execute`` cannot tell a test, a Ray Train worker and a Ray Tune trial apart."""

    rank: int
    """This worker's number, from 0."""
    world_size: int
    """How many workers train this run together. Above 1, torch.distributed is set up before the run starts."""
    device: str
    """As torch names it: 'cpu', 'cuda:0'."""
    threads: int
    """CPU threads to compute with, the same throughout the run."""

    def report(self, progress: Progress) -> None:
        """Say how far the run is. Called on rank 0 only; must not wait."""

    def save(self, run_id: str, state: bytes) -> None:
        """Keep what is needed to go on from here, in place of what was kept before. Called on rank 0 only."""

    def load(self, run_id: str) -> bytes | None:
        """What was kept last, or None. Called on every rank, with the same answer."""

    def goes_on(self, run_id: str, epoch: int, validation_accuracy: float | None) -> bool:
        """Whether to train on after an epoch. Called on every rank, with the same answer."""


class LocalContext:
    """A run in this process: for tests, notebooks and the debugger."""

    rank = 0
    world_size = 1

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        self.device = device
        self.threads = threads
        self.progress: list[Progress] = []
        self.saved: dict[str, bytes] = {}

    def report(self, progress: Progress) -> None:
        """Append to ``progress``."""
        self.progress.append(progress)

    def save(self, run_id: str, state: bytes) -> None:
        """Keep in memory."""
        self.saved[run_id] = state

    def load(self, run_id: str) -> bytes | None:
        """From memory."""
        return self.saved.get(run_id)

    def goes_on(self, run_id: str, epoch: int, validation_accuracy: float | None) -> bool:
        """Always."""
        return True
