"""Many groups side by side: start what fits, pass on what arrives, turn failures into records."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.cluster.mailbox import open_mailbox
from bench.cluster.placement import Admission, Group, worth_moving
from bench.cluster.session import ClusterLostError, Session
from bench.cluster.train import SharedInputs, Trainer, classify, first_line, trainer_of
from bench.learning.datasets import Dataset
from bench.learning.plugins import Plugin
from bench.learning.weights import Weights
from bench.spec import Begun, Event, Outcome, Record, Run, Status

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 3.0
_START_SECONDS = 5.0
"""What it takes about to start a group when Ray is there."""

Handler = Callable[[Event], None]


@dataclass
class _Training:
    """A group that is training: a thread waits for its Ray Train run."""

    group: Group
    trainer: Trainer
    thread: threading.Thread | None = None
    error: Exception | None = None

    @property
    def ended(self) -> bool:
        return self.thread is not None and not self.thread.is_alive()


@dataclass(frozen=True)
class Limits:
    """What a run may cost before it is ended."""

    max_failures: int = 2
    """How often a run is tried again after its worker or node was lost."""
    timeout_seconds: float | None = None
    """How long one attempt may take."""
    oom_backoff: bool = False
    """Halve the batch when memory runs out, instead of ending the run."""


class Scheduler:
    """Trains groups, as many at the same time as fit. Each run ends with exactly one :class:`Outcome`."""

    def __init__(
        self,
        session: Session,
        *,
        dataset: Dataset,
        weights: Mapping[str, Weights | None],
        plugin: Plugin | None,
        states: dict[str, bytes],
        limits: Limits,
        handle: Handler,
    ) -> None:
        """Put what runs read into Ray's object store: the data once, weights once for each model.

        Args:
            session: where to train.
            dataset: for all runs.
            weights: by model.
            plugin: the user's file that defines a model, if there is one.
            states: what interrupted runs go on from, by run id.
            limits: for each run.
            handle: called with every event, in the thread that calls :meth:`train`.
        """
        self._session = session
        self._limits = limits
        self._handle = handle
        self._mailbox: ActorHandle = open_mailbox(states, limits.max_failures)
        self._inputs = SharedInputs.of_models(dataset, weights, plugin, self._mailbox)
        self._begun: dict[str, Begun] = {}
        self._contended: set[str] = set()
        self._finished: dict[str, float] = {}  # run id to what it took, seconds

    def train(self, groups: Sequence[Group]) -> None:
        """Train all groups; they start in this order, as soon as there is room.

        Raises:
            KeyboardInterrupt: passed on, after the runs that were being trained got their outcomes.
            ClusterLostError: Ray ended or cannot be reached; the runs that were being trained got their outcomes.
        """
        admission = Admission(self._session.nodes)
        waiting = list(groups)
        training: list[_Training] = []
        expected = {run.id for group in groups for run in group.runs}
        if cpus := {group.name: group.need.cpus for group in groups if group.lends}:
            self._mailbox.lend.remote(cpus)
        try:
            # Until the last outcome, not until Ray Train has tidied up: that goes with the session.
            while not expected <= self._finished.keys():
                for group in [group for group in waiting if admission.admit(group.need)]:
                    waiting.remove(group)
                    training.append(self._start(group))
                if not waiting:
                    training += self._relieve(training, admission)
                self._take(_POLL_SECONDS)
                if len(training) > 1:
                    self._contended.update(run.id for one in training for run in self._active(one.group))
                for one in training:
                    self._end_what_takes_too_long(one.group)
                for one in [one for one in training if one.ended]:
                    self._take(0)
                    self._end(one)
                    admission.release(one.group.need)
                    training.remove(one)
        except KeyboardInterrupt:
            for one in training:
                self._fail(self._active(one.group), Status.INTERRUPTED, "interrupted from the keyboard")
            raise
        except ray.exceptions.RayError as error:
            for one in training:
                self._fail(self._active(one.group), Status.INTERRUPTED, "Ray was lost")
            raise ClusterLostError(first_line(error)) from None
        finally:
            self._stop(training)

    def _relieve(self, training: Sequence[_Training], admission: Admission) -> list[_Training]:
        """Where there is room for one more group, let it train some of what waits in another that would end later."""
        new = []
        for one in training:
            unbegun = [run for run in self._unfinished(one.group) if run.id not in self._begun]
            took = [self._finished[run.id] for run in one.group.runs if run.id in self._finished]
            count = worth_moving(len(unbegun), fmean(took), _START_SECONDS) if took else 0
            if not count or not admission.admit(one.group.need):
                continue
            moved = set(ray.get(self._mailbox.hand_over.remote([run.id for run in unbegun[-count:]])))
            if not moved:
                admission.release(one.group.need)
                continue
            new.append(self._start(replace(one.group, runs=tuple(run for run in unbegun if run.id in moved))))
            one.group = replace(one.group, runs=tuple(run for run in one.group.runs if run.id not in moved))
        return new

    def _stop(self, training: Sequence[_Training]) -> None:
        """End what is still there: a group that is being started again for nothing, or that was interrupted."""
        end = time.monotonic() + (_GRACE_SECONDS if all(not self._unfinished(one.group) for one in training) else 0)
        while time.monotonic() < end and not all(one.ended for one in training):
            time.sleep(0.05)
        for one in [one for one in training if not one.ended]:
            with contextlib.suppress(ray.exceptions.RayError):  # nothing to end where Ray was lost
                one.trainer.end()
        for one in training:  # a thread that still talks to Ray when the session ends would end the process
            if one.thread is not None:
                one.thread.join(_GRACE_SECONDS)

    def _start(self, group: Group) -> _Training:
        first = group.runs[0]
        trainer = trainer_of(
            group,
            self._inputs[first.model],
            self._mailbox,
            session=self._session,
            max_failures=self._limits.max_failures,
            oom_backoff=self._limits.oom_backoff,
        )
        one = _Training(group, trainer)

        def work() -> None:
            try:
                trainer.fit()
            except Exception as error:
                one.error = error

        one.thread = threading.Thread(target=work, daemon=True, name=first.id)
        one.thread.start()
        return one

    def _unfinished(self, group: Group) -> list[Run]:
        return [run for run in group.runs if run.id not in self._finished]

    def _active(self, group: Group) -> list[Run]:
        return [run for run in self._unfinished(group) if run.id in self._begun]

    def _take(self, wait_seconds: float) -> None:
        events: list[Event] = ray.get(self._mailbox.take.remote(wait_seconds))
        for event in events:
            if isinstance(event, Begun):
                self._begun[event.run_id] = event
            if isinstance(event, Outcome):
                self._finish(event)
            else:
                self._handle(event)

    def _finish(self, outcome: Outcome) -> None:
        run_id = outcome.record.run_id
        self._finished[run_id] = (outcome.record.ended_at - outcome.record.started_at).total_seconds()
        begun = self._begun.get(run_id)
        known = {"attempts": begun.attempt if begun else 1, "contended": run_id in self._contended}
        self._handle(replace(outcome, record=outcome.record.model_copy(update=known)))

    def _end_what_takes_too_long(self, group: Group) -> None:
        limit = self._limits.timeout_seconds
        for run in self._active(group) if limit is not None else []:
            begun = self._begun[run.id]
            if limit is not None and (datetime.now(UTC) - begun.at).total_seconds() > limit:
                reason = f"not done after {limit:g} s (--timeout)"
                ray.get(self._mailbox.end.remote(run, Status.TIMEOUT, reason))
                # Ray Train then starts the group again, which goes on with its next run.
                kill(begun)

    def _end(self, one: _Training) -> None:
        """Whatever a group that ended has not delivered becomes a failure; by way of the mailbox, which others ask."""
        for run in self._unfinished(one.group):
            ray.get(self._mailbox.end.remote(run, Status.FAILED, _reason(one.error)))
        self._take(0)

    def _fail(self, runs: Sequence[Run], status: Status, reason: str) -> None:
        now = datetime.now(UTC)
        for run in runs:
            begun = self._begun.get(run.id)
            started_at = begun.at if begun else now
            self._finish(Outcome(Record.of(run, status=status, started_at=started_at, ended_at=now, reason=reason)))


def kill(begun: Begun) -> None:
    """End the worker that trains a run, on whichever node it is; it may be hung, so it is not asked."""
    on_node = NodeAffinitySchedulingStrategy(begun.node_id, soft=False)
    ray.remote(num_cpus=0, scheduling_strategy=on_node)(_kill_here).remote(begun.pid)


def _kill_here(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _reason(error: Exception | None) -> str:
    """Why a Ray Train run ended early, in one line."""
    if error is None:
        return "the workers ended without a result"
    failures = getattr(error, "worker_failures", None)  # ray.train.WorkerGroupError
    if failures:
        return classify(failures)[1]
    return f"{type(error).__name__}: {first_line(error)}"
