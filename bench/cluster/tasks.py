"""A group of runs as a Ray task: the code of the task, and of the Ray Train workers that it may start.

Ray queues, places and retries the task. With one worker per run it trains in the task's own process, under Ray Train's
local mode; with several, the task reserves nothing itself and starts a Ray Train run whose workers reserve.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import ray

from bench.cluster.placement import Group
from bench.cluster.shared import Shared, asked
from bench.errors import first_line
from bench.learning.data.dataset import Dataset
from bench.learning.inputs import Inputs
from bench.learning.user_code import UserCode
from bench.spec import Outcome, Progress, Run, Saved, Status

if TYPE_CHECKING:
    from ray.actor import ActorHandle


GRACE_SECONDS = 5.0
"""Seconds that one of several workers waits before it reports that its run failed. If another worker's death was the
cause, Ray Train ends this one meanwhile, and the run is tried again."""
LEAST_REPORT_SECONDS = 0.5
_REPORTS_A_SECOND = 500
"""The reports of all workers together that the coordinator takes without delay, on one slow core: measured by
experiments/speed/scale.py."""
OUT_OF_MEMORY = "ended by Ray because the machine ran out of memory"
"""The reason in the record of a run whose process Ray ended."""


class WorkersLostError(Exception):
    """The loss of workers of a Ray Train run; Ray is to start the task again."""


@dataclass(frozen=True)
class SharedInputs:
    """The inputs of runs, shared through Ray's object store."""

    dataset: Shared
    weights: Shared
    code: UserCode | None

    @staticmethod
    def put(inputs: Mapping[str, Inputs], coordinator: ActorHandle, *, mapped: bool) -> dict[str, SharedInputs]:
        """Share inputs, by their keys: each data set once, the weights of each model once.

        With ``mapped``, workers map the files of pictures that the driver has mapped.
        """
        shared: dict[int, Shared] = {}
        for each in inputs.values():
            for value in (each.dataset, each.weights):
                if id(value) not in shared:
                    sent = value if mapped or not isinstance(value, Dataset) else value.in_memory()
                    shared[id(value)] = Shared.put(sent, coordinator)
        return {
            key: SharedInputs(shared[id(each.dataset)], shared[id(each.weights)], each.code)
            for key, each in inputs.items()
        }

    def read(self) -> Inputs:
        """Return the inputs that a worker trains with."""
        return Inputs(self.dataset.get(), self.weights.get(), self.code)


class WorkerStorage(Protocol):
    """A results folder that workers write to themselves. None of its methods raises: what fails goes by the driver."""

    def load(self, run_id: str) -> bytes | None:
        """Return the state that a run goes on from; None if there is none."""

    def save(self, run_id: str, state: bytes) -> bool:
        """Store the state that a run goes on from; return whether that succeeded."""

    def keep(self, run: Run, outcome: Outcome) -> Outcome:
        """Store a run's large files; return the outcome without what was stored."""


@dataclass
class RayContext:
    """The context of a run in a Ray worker."""

    coordinator: ActorHandle
    rank: int
    world_size: int
    device: str
    threads: int
    report_seconds: float
    storage: WorkerStorage | None = None
    """The results folder, if workers write to it themselves."""

    def report(self, progress: Progress) -> None:
        """Send the progress to the driver; wait until it has arrived if it ends an epoch, as users read those lines."""
        if progress.ends_epoch:
            asked(self.coordinator.put, progress)
        else:
            self.coordinator.put.remote(progress)

    def save(self, run_id: str, state: bytes) -> None:
        """Store or send the state and wait until it has arrived, so that it is safe if this worker dies."""
        if self.storage is None or not self.storage.save(run_id, state):
            asked(self.coordinator.put, Saved(run_id, state))

    def load(self, run_id: str) -> bytes | None:
        """Return the state that was saved last; None if none was."""
        state: bytes | None = asked(self.coordinator.state, run_id)
        if self.storage is None:
            return state
        if state is None and self.rank == 0:
            state = self.storage.load(run_id)
        if self.world_size == 1:
            return state
        import torch.distributed

        states = [state]  # one that another worker cannot read must not set the workers apart
        torch.distributed.broadcast_object_list(states, src=0)
        return states[0]

    def goes_on(self, run_id: str, epoch: int, validation_accuracy: float | None) -> bool:
        """Return True: a benchmark ends no run because others are better."""
        return True


@dataclass(frozen=True)
class Work:
    """The arguments of a group's task."""

    group: Group
    inputs: SharedInputs
    coordinator: ActorHandle
    oom_backoff: bool
    report_seconds: float
    storage: WorkerStorage | None = None


def report_seconds(at_once: int) -> float:
    """Return the seconds between two reports of a worker when so many report at the same time."""
    return max(LEAST_REPORT_SECONDS, at_once / _REPORTS_A_SECOND)


def submit(work: Work, *, max_failures: int) -> ray.ObjectRef:
    """Queue a group's task; return a reference that is ready when the task ends."""
    need, runs = work.group.need, work.group.runs
    alone = need.workers == 1
    task = ray.remote(
        num_cpus=need.cpus if alone else 0,
        num_gpus=need.gpus if alone else 0,
        # The coordinator limits the failures of each run; Ray's limit must not stop the group before that.
        max_retries=(max_failures + 1) * len(runs),
        retry_exceptions=[WorkersLostError],
        max_calls=0,  # by default a process that has used a GPU ends with its task, and the next imports torch anew
    )(train_group)
    return task.options(name=work.group.name).remote(work)


def train_group(work: Work) -> None:
    """Train the runs of a group that have no outcome yet, one after the other. This is the Ray task.

    Raises:
        WorkersLostError: workers died; the task is to be started again.
    """
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    need, runs = work.group.need, work.group.runs
    if need.workers == 1:
        scaling = ScalingConfig(num_workers=0)  # Ray Train's local mode: in this process
    else:
        each = {"CPU": need.cpus, **({"GPU": need.gpus} if need.gpus else {})}
        scaling = ScalingConfig(num_workers=need.workers, use_gpu=need.gpus > 0, resources_per_worker=each)
    with tempfile.TemporaryDirectory(prefix="bench-train-", ignore_cleanup_errors=True) as storage:
        trainer = TorchTrainer(
            _train_loop,
            train_loop_config={"work": work},
            scaling_config=scaling,
            run_config=RunConfig(name=work.group.name, storage_path=storage),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            if need.workers == 1:
                raise
            lost = getattr(error, "worker_failures", {0: error}).values()  # ray.train.WorkerGroupError has them
            causes = [getattr(cause, "health_check_failure", cause) for cause in lost]
            if any(isinstance(cause, ray.exceptions.OutOfMemoryError) for cause in causes):
                ray.get(work.coordinator.end_active.remote(runs, Status.OOM, OUT_OF_MEMORY))
            if ray.get(work.coordinator.unfinished.remote(runs)):
                raise WorkersLostError("; ".join(first_line(cause) for cause in causes)) from None


def _train_loop(config: dict[str, Any]) -> None:
    """Train the runs of a group; called in each worker, or in the task itself."""
    from ray import train
    from ray.train.collective import broadcast_from_rank_zero

    from bench.learning.execute import execute, status_of

    worker = train.get_context()
    work: Work = config["work"]
    coordinator, several = work.coordinator, work.group.need.workers > 1
    inputs = work.inputs.read()
    context = RayContext(
        coordinator=coordinator,
        rank=worker.get_world_rank(),
        world_size=worker.get_world_size(),
        device=gpu_or_cpu(),
        threads=work.group.need.cpus,
        report_seconds=work.report_seconds,
        storage=work.storage,
    )
    node_id = ray.get_runtime_context().get_node_id()
    for run in work.group.runs:
        may_begin = asked(coordinator.begin, run, node_id, os.getpid()) if context.rank == 0 else None
        if several:
            may_begin = broadcast_from_rank_zero(may_begin)
        if not may_begin:
            continue
        try:
            outcome = execute(run, inputs, context, oom_backoff=work.oom_backoff)
        except Exception as error:  # raised only by a run with several workers, see execute()
            time.sleep(GRACE_SECONDS)
            reason = f"worker {context.rank}: {type(error).__name__}: {first_line(error)}"
            asked(coordinator.end, run, status_of(error), reason)
            raise
        if context.rank == 0:
            kept = outcome if work.storage is None else work.storage.keep(run, outcome)
            asked(coordinator.put, kept)


def gpu_or_cpu() -> str:
    """Return the device of this Ray worker, as torch names it: its one GPU if it was given one."""
    if not ray.get_gpu_ids():
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_device(0)  # Ray shows each worker only its own GPU
    return "cuda:0"
