"""Between the workers and the driver: progress and outcomes one way, the state to go on from the other way.

Ray Train's own reports wait on a poll of seconds and keep metrics only with a checkpoint on storage that all nodes
share; this small actor needs neither, so results reach the driver's machine from any cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import ray
from ray.actor import ActorHandle

from bench.cluster.lending import Lending
from bench.spec import Begun, Cost, Event, Outcome, Record, Run, Saved, Status


class Mailbox:
    """The actor. Its methods are coroutines, so that a driver that waits blocks no worker.

    It outlives the workers, so it also knows how often each run was begun, and ends those whose workers keep dying.
    """

    def __init__(self, states: dict[str, bytes], max_failures: int) -> None:
        self._events: list[Event] = []
        self._arrived = asyncio.Event()
        self._states = states
        self._max_failures = max_failures
        self._begun: dict[str, Begun] = {}
        self._owners: dict[str, str] = {}
        self._losses: dict[str, str] = {}
        self._done: dict[str, Status] = {}
        self._stopped: set[str] = set()
        self._closed = False
        self._controllers: dict[str, bytes] = {}
        self._kept: list[ray.ObjectRef] = []
        self._lending = Lending({})
        self._asking: dict[str, object] = {}
        self._changed = asyncio.Event()

    async def put(self, event: Event) -> None:
        """Take an event. A run's first outcome is its only one."""
        if isinstance(event, Saved):
            self._states[event.run_id] = event.state
        elif isinstance(event, Outcome):
            if event.record.run_id in self._done:
                return
            self._done[event.record.run_id] = event.record.status
            self._states.pop(event.record.run_id, None)
            self._asking.pop(event.record.run_id, None)
            self._lending.end(event.record.run_id)
            self._look_again()
        self._events.append(event)
        self._arrived.set()

    async def begin(self, run: Run, node_id: str, pid: int, group: str) -> bool:
        """A worker of a group, which has its first run's id as its name, is about to train ``run``.

        False if it must not: the run is done, another group's by now, or its workers were lost too often.
        """
        if self._closed or run.id in self._done or self._owners.setdefault(run.id, group) != group:
            return False
        before = self._begun.get(run.id)
        attempt = before.attempt + 1 if before else 1
        if attempt > self._max_failures + 1 and before is not None:
            times = f", {before.attempt} times" if before.attempt > 1 else ""
            await self.end(run, Status.FAILED, f"its worker was lost{times}: {self._losses.get(run.id, 'unknown why')}")
            return False
        self._asking.pop(run.id, None)
        self._lending.begin(run.id)
        self._look_again()
        begun = self._begun[run.id] = Begun(run.id, attempt, datetime.now(UTC), node_id, pid)
        await self.put(begun)
        return True

    async def hand_over(self, run_ids: Sequence[str]) -> list[str]:
        """Take runs that nobody has begun from their group, for a group that has the first of them as its name."""
        free = [run_id for run_id in run_ids if run_id not in self._owners and run_id not in self._done]
        self._owners.update(dict.fromkeys(free, free[0] if free else ""))
        return free

    async def end(self, run: Run, status: Status, reason: str) -> None:
        """End a run that its worker cannot end by itself."""
        now = datetime.now(UTC)
        begun = self._begun.get(run.id)
        started_at = begun.at if begun else now
        await self.put(Outcome(Record.of(run, status=status, started_at=started_at, ended_at=now, reason=reason)))

    async def worker_failed(self, runs: Sequence[Run], status: Status | None, reason: str) -> None:
        """A worker of the Ray Train run that trains ``runs`` is gone.

        Args:
            runs: of which at most one is being trained; others may be another group's by now.
            status: how that one ends; None if it is to be tried again because the worker was lost without its fault.
            reason: what happened, in one line.
        """
        for run in runs:
            own = self._owners.get(run.id) == runs[0].id
            if own and run.id in self._begun and run.id not in self._done:
                self._losses[run.id] = reason
                if status is not None:
                    await self.end(run, status, reason)

    async def lend(self, cpus: Mapping[str, int]) -> None:
        """The runs with these ids lend each other CPUs; each has so many at first."""
        self._lending = Lending(cpus)

    async def costs(self, run_id: str, cost: Cost) -> None:
        """What a run will cost."""
        self._lending.tell(run_id, cost)
        self._look_again()

    async def threads_in(self, run_id: str, epoch: int, patience: float) -> int | None:
        """Threads for an epoch of a run that lends; waits until it may have them, at most so many seconds.

        None if whoever asked was lost meanwhile.
        """
        asking = self._asking[run_id] = object()  # what a worker asked before it was lost is void
        end = time.monotonic() + patience
        threads = self._lending.ask(run_id, epoch)
        if threads is None:
            self._look_again()  # that this one waits too may be what another waits for
        while threads is None:
            try:
                await asyncio.wait_for(self._changed.wait(), end - time.monotonic())
            except TimeoutError:
                if self._asking.get(run_id) is asking:
                    self._lending.lose_patience(run_id)
            if self._asking.get(run_id) is not asking:
                return None
            threads = self._lending.ask(run_id, epoch)
        return threads

    def _look_again(self) -> None:
        """Wake the runs that wait for CPUs."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def stop(self, run_id: str) -> None:
        """A trial shall end after the epoch that it has just reported."""
        self._stopped.add(run_id)

    async def goes_on(self, run_id: str) -> bool:
        """Whether nobody has stopped the trial."""
        return run_id not in self._stopped

    async def status(self, run_id: str) -> Status | None:
        """How a run ended; None if it has not."""
        return self._done.get(run_id)

    async def close(self) -> None:
        """Let no further run begin."""
        self._closed = True

    async def controller_started(self, group: str, controller: bytes) -> None:
        """A group's Ray Train run has begun; its controller's handle, pickled."""
        self._controllers[group] = controller

    async def controller(self, group: str) -> bytes | None:
        """The pickled handle of a group's controller; None if it has not started."""
        return self._controllers.get(group)

    async def keep(self, content: bytes, arrays: Sequence[object]) -> list[ray.ObjectRef]:
        """Put a value into Ray's object store in the name of this actor; see :class:`bench.cluster.shared.Shared`."""
        reference = ray.put((content, arrays))
        self._kept.append(reference)
        return [reference]

    async def state(self, run_id: str) -> bytes | None:
        """What was saved last for a run."""
        return self._states.get(run_id)

    async def take(self, wait_seconds: float) -> list[Event]:
        """All events since the last call; waits up to ``wait_seconds`` for the first."""
        if not self._events:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), wait_seconds)
            except TimeoutError:
                return []
        events, self._events = self._events, []
        return events


def open_mailbox(states: dict[str, bytes], max_failures: int) -> ActorHandle:
    """Start the actor on the driver's node, with the states that interrupted runs go on from."""
    here = ray.get_runtime_context().get_node_id()
    return ray.remote(num_cpus=0, label_selector={"ray.io/node-id": here})(Mailbox).remote(states, max_failures)
