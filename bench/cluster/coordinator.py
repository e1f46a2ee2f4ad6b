"""The actor that passes progress and outcomes from the workers to the driver, and keeps the states to resume from.

Ray Train's local mode stores no checkpoints and passes no reports on. This small actor does both, without storage that
all nodes share, so results reach the driver's machine from any cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import ray
from ray.actor import ActorHandle

from bench.spec import Begun, Measured, Outcome, Progress, Run, Saved, Status

Report = Begun | Progress | Saved | Outcome
"""An event that a worker sends."""


class Coordinator:
    """The class of the actor. Its methods are coroutines, so that a waiting driver blocks no worker.

    It outlives the workers, so it counts the attempts of each run and ends runs whose workers died too often.
    """

    def __init__(self, states: dict[str, bytes], max_failures: int) -> None:
        self._events: list[Report] = []
        self._arrived = asyncio.Event()
        self._states = states
        self._max_failures = max_failures
        self._begun: dict[str, Begun] = {}
        self._ended: dict[str, Status] = {}
        self._stopped: set[str] = set()
        self._closed = False
        self._kept: list[ray.ObjectRef] = []

    async def put(self, event: Report) -> None:
        """Take an event; only the first outcome of a run counts."""
        if isinstance(event, Saved):
            if event.run_id in self._ended:  # sent twice, and late
                return
            self._states[event.run_id] = event.state
        elif isinstance(event, Outcome):
            if event.run_id in self._ended:
                return
            self._ended[event.run_id] = event.measured.status
            self._states.pop(event.run_id, None)
        self._events.append(event)
        self._arrived.set()

    async def begin(self, run: Run, node_id: str, pid: int) -> bool:
        """Note that a worker is about to train ``run``, and return True; return False if it must not train it.

        It must not if the run or the command has ended, or if the workers of the run were lost too often. A worker that
        did not get the answer may ask again.
        """
        if self._closed or run.id in self._ended:
            return False
        before = self._begun.get(run.id)
        if before is not None and (before.node_id, before.pid) == (node_id, pid):
            return True
        attempt = before.attempt + 1 if before else 1
        if attempt > self._max_failures + 1:
            times = f", {attempt - 1} times" if attempt > 2 else ""
            await self.end(run, Status.FAILED, f"its worker was lost{times}: the process died, or its machine did")
            return False
        begun = self._begun[run.id] = Begun(run.id, attempt, datetime.now(UTC), node_id, pid)
        await self.put(begun)
        return True

    async def end(self, run: Run, status: Status, reason: str) -> None:
        """Give a run an outcome that its worker cannot send."""
        now = datetime.now(UTC)
        begun = self._begun.get(run.id)
        started_at = begun.at if begun else now
        measured = Measured(status=status, started_at=started_at, ended_at=now, reason=reason)
        await self.put(Outcome(run.id, measured))

    async def end_active(self, runs: Sequence[Run], status: Status, reason: str) -> None:
        """End the run among ``runs`` that was being trained or, if none was, the first that has not ended."""
        unfinished = await self.unfinished(runs)
        for run in [run for run in unfinished if run.id in self._begun] or unfinished[:1]:
            await self.end(run, status, reason)

    async def unfinished(self, runs: Sequence[Run]) -> list[Run]:
        """Return the ``runs`` that have no outcome."""
        return [run for run in runs if run.id not in self._ended]

    async def stop(self, run_id: str) -> None:
        """Let a trial end after the epoch that it has just reported."""
        self._stopped.add(run_id)

    async def should_continue(self, run_id: str) -> bool:
        """Return False if the trial is to end early."""
        return run_id not in self._stopped

    async def status(self, run_id: str) -> Status | None:
        """Return how a run ended; None if it has not."""
        return self._ended.get(run_id)

    async def close(self) -> None:
        """Let no further run begin."""
        self._closed = True

    async def keep(self, content: bytes, arrays: Sequence[object]) -> list[ray.ObjectRef]:
        """Put a value into Ray's object store as its owner; see :class:`bench.cluster.shared.Shared`."""
        reference = ray.put((content, arrays))
        self._kept.append(reference)
        return [reference]

    async def state(self, run_id: str) -> bytes | None:
        """Return the state that was saved last for a run; None if none was."""
        return self._states.get(run_id)

    async def take(self, wait_seconds: float) -> list[Report]:
        """Return the events since the last call; of a run's progress the ends of epochs, and the latest in a phase.

        Wait up to ``wait_seconds`` for the first.
        """
        if not self._events:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), wait_seconds)
            except TimeoutError:
                return []
        events, self._events = self._events, []
        latest = {_moment(event): event for event in events if isinstance(event, Progress)}
        return [
            event
            for event in events
            if not isinstance(event, Progress) or event.ends_epoch or event is latest[_moment(event)]
        ]


def _moment(progress: Progress) -> tuple[str, int, str]:
    return progress.run_id, progress.epoch, progress.phase


def start_coordinator(states: dict[str, bytes], max_failures: int) -> ActorHandle:
    """Start the actor on the driver's node, with the states that interrupted runs resume from."""
    here = ray.get_runtime_context().get_node_id()
    return ray.remote(num_cpus=0, label_selector={"ray.io/node-id": here})(Coordinator).remote(states, max_failures)
