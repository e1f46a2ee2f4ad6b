"""The driver's side of training: it submits groups to Ray, passes events on, and turns failures into outcomes."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.cluster.coordinator import Report, start_coordinator
from bench.cluster.placement import Group, Need, at_once, groups_that_fit
from bench.cluster.session import ClusterLostError, Session
from bench.cluster.tasks import OUT_OF_MEMORY, SharedInputs, Work, WorkerStorage, report_seconds, submit
from bench.errors import first_line
from bench.learning.inputs import Inputs, inputs_of
from bench.spec import Begun, Ended, Event, Measured, Notice, Outcome, Run, Status

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 3.0

Handler = Callable[[Event], None]


@dataclass(frozen=True)
class Limits:
    """The limits that end a run."""

    max_failures: int = 2
    """The number of times that a run is tried again after its worker or node was lost."""
    timeout_seconds: float | None = None
    """The longest that one attempt may take; None for no limit."""
    oom_backoff: bool = False
    """True to halve the batch when memory runs out, instead of ending the run."""


class Driver:
    """The driver's view of the runs under way. Each run ends with exactly one :class:`Outcome`."""

    def __init__(
        self,
        session: Session,
        *,
        inputs: Mapping[str, Inputs],
        states: dict[str, bytes],
        limits: Limits,
        handle: Handler,
        storage: WorkerStorage | None = None,
    ) -> None:
        """Put the inputs of runs into Ray's object store: the data once, weights once for each model.

        Args:
            session: the cluster to train on.
            inputs: what the runs read, by :attr:`bench.spec.Run.inputs_key`.
            states: the states that interrupted runs resume from, by run id.
            limits: the limits of each run.
            handle: called with every event, in the thread that waits for the runs.
            storage: the results folder, if workers write to it themselves.
        """
        self._storage = storage
        self._session = session
        self._limits = limits
        self._handle = handle
        self._coordinator: ActorHandle = start_coordinator(states, limits.max_failures)
        self._inputs = SharedInputs.put(inputs, self._coordinator, mapped=session.shares_files)
        self._runs: dict[str, Run] = {}
        self._begun: dict[str, Begun] = {}
        self._contended: set[str] = set()
        self._watch = session.watch()
        self._finished: set[str] = set()

    def _active(self) -> list[Run]:
        return [self._runs[run_id] for run_id in self._begun if run_id not in self._finished]

    @contextlib.contextmanager
    def _until_the_end(self) -> Iterator[None]:
        """End the runs under way if, in this context, the command is interrupted or Ray is lost.

        Raises:
            KeyboardInterrupt: passed on.
            ClusterLostError: Ray ended or cannot be reached.
        """
        try:
            yield
        except KeyboardInterrupt:
            self._interrupt("interrupted from the keyboard")
            raise
        except ray.exceptions.OutOfMemoryError as error:  # on a cluster whose settings let the coordinator be killed
            blamed = Status.OOM if len(self._active()) == 1 else Status.INTERRUPTED
            self._fail(OUT_OF_MEMORY, blamed)
            raise ClusterLostError(first_line(error)) from None
        except ray.exceptions.RayError as error:
            self._fail("Ray was lost")
            raise ClusterLostError(first_line(error)) from None

    def _interrupt(self, reason: str) -> None:
        """End the runs under way. Their workers end with the session."""
        # ray.cancel would abort the driver if a task ends at the same time: Ray 2.60
        self._coordinator.close.remote()
        self._fail(reason)

    def _fail(self, reason: str, status: Status = Status.INTERRUPTED) -> None:
        """End the runs under way, without the coordinator."""
        for run in self._active():
            started_at, now = self._begun[run.id].at, datetime.now(UTC)
            measured = Measured(status=status, started_at=started_at, ended_at=now, reason=reason)
            self._finish(Outcome(run.id, measured))

    def _wait(self) -> None:
        """Pass on events for a quarter of a second, tell who waits for nodes, and end the runs that take too long."""
        self._take(_POLL_SECONDS)
        demand = self._demand() if self._watch is not None else None
        if self._watch is not None and demand is not None:
            for line in self._watch.lines(*demand):
                self._handle(Notice(line))
        limit = self._limits.timeout_seconds or math.inf
        for run in self._active():
            begun = self._begun[run.id]
            if (datetime.now(UTC) - begun.at).total_seconds() > limit:
                self._end(run, Status.TIMEOUT, f"not done after {limit:g} s (--timeout)")
                kill(begun)  # Ray starts its task or trial again, which finds this run ended

    def _demand(self) -> tuple[Need, int] | None:
        """Return (what each group reserves, the number of groups that have not ended); None if there is none."""
        return None

    def _take(self, wait_seconds: float) -> None:
        """Pass on the events since the last call; wait up to ``wait_seconds`` for the first."""
        self._pass_on(ray.get(self._coordinator.take.remote(wait_seconds)))

    def _pass_on(self, events: Sequence[Report]) -> None:
        for event in events:
            if isinstance(event, Begun):
                self._begun[event.run_id] = event
            if isinstance(event, Outcome):
                self._finish(event)
            else:
                self._handle(event)
        active = self._active()
        if len(active) > 1:
            self._contended.update(run.id for run in active)

    def _finish(self, outcome: Outcome) -> None:
        run_id = outcome.run_id
        self._finished.add(run_id)
        begun = self._begun.get(run_id)
        self._handle(Ended(outcome, begun.attempt if begun else 1, run_id in self._contended))

    def _end(self, run: Run, status: Status, reason: str) -> None:
        ray.get(self._coordinator.end.remote(run, status, reason))


class Scheduler(Driver):
    """A driver that trains groups, as many at the same time as Ray has room for."""

    _groups: Sequence[Group] = ()

    def train(self, groups: Sequence[Group]) -> None:
        """Train all groups; they start in this order, as soon as Ray has room.

        Raises:
            KeyboardInterrupt: passed on, after the runs that were being trained got their outcomes.
            ClusterLostError: Ray ended or cannot be reached; the runs that were being trained got their outcomes.
        """
        self._groups = groups
        self._runs = {run.id: run for group in groups for run in group.runs}
        waiting = list(groups)
        every = report_seconds(at_once(groups, self._session.nodes))
        submitted: dict[ray.ObjectRef, Group] = {}
        with self._until_the_end():
            while not self._runs.keys() <= self._finished:
                while waiting and len(submitted) < self._most_at_once(waiting[0]):
                    group = waiting.pop(0)
                    inputs = inputs_of(group.runs[0], self._inputs)
                    work = Work(group, inputs, self._coordinator, self._limits.oom_backoff, every, self._storage)
                    submitted[submit(work, max_failures=self._limits.max_failures)] = group
                self._wait()
                ended, _ = ray.wait(list(submitted), num_returns=len(submitted), timeout=0)
                for reference in ended:
                    again = self._after(reference, submitted.pop(reference))
                    waiting[:0] = [again] if again else []
            # every run has its outcome, so their tasks are about to end
            ray.wait(list(submitted), num_returns=len(submitted), timeout=_GRACE_SECONDS)

    def _demand(self) -> tuple[Need, int] | None:
        unfinished = [group for group in self._groups if any(run.id not in self._finished for run in group.runs)]
        return (unfinished[0].need, len(unfinished)) if unfinished else None

    def _most_at_once(self, group: Group) -> float:
        """Return how many groups may be submitted at once: all, or with several workers per group as many as fit.

        Ray and an autoscaler should see the whole demand. But a task of several workers reserves nothing itself: all of
        them would start at once, and wait for their workers until they time out.
        """
        return math.inf if group.need.workers == 1 else max(1, groups_that_fit(group.need, self._session.nodes))

    def _after(self, reference: ray.ObjectRef, group: Group) -> Group | None:
        """End the runs that a task left without an outcome; return the group of those to try again, if any."""
        status, reason = Status.FAILED, "its task ended without a result"
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:  # if to_blame() returns None, Ray has given up
            status, reason = to_blame(error) or (Status.FAILED, f"its worker was lost: {first_line(error)}")
        unfinished: list[Run] = ray.get(self._coordinator.unfinished.remote(group.runs))
        if status is Status.OOM:
            ray.get(self._coordinator.end_active.remote(unfinished, status, reason))
            unfinished = ray.get(self._coordinator.unfinished.remote(unfinished))
        else:
            for run in unfinished:
                self._end(run, status, reason)
            unfinished = []
        self._take(0)
        return replace(group, runs=tuple(unfinished)) if unfinished else None


def to_blame(error: object) -> tuple[Status, str] | None:
    """Return (status, reason) for the run that was being trained when its task or trial ended with ``error``.

    Return None if the run is not to blame, as its process was lost: it may be tried again.
    """
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return Status.OOM, OUT_OF_MEMORY
    if isinstance(error, ray.exceptions.RayTaskError):  # an exception of ours, or of the user's file
        return Status.FAILED, f"{type(error.cause).__name__}: {first_line(error.cause)}"
    return None


def kill(begun: Begun) -> None:
    """Kill the worker that trains a run, on its node; it may hang, so it is not asked to end."""
    on_node = NodeAffinitySchedulingStrategy(begun.node_id, soft=False)
    ray.remote(num_cpus=0, scheduling_strategy=on_node)(_kill_here).remote(begun.pid)


def _kill_here(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
