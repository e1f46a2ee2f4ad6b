"""A group of runs as one Ray Train run: what happens in each of its workers."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from bench.cluster.placement import Group
from bench.cluster.session import Session
from bench.cluster.shared import Shared
from bench.learning.plugins import Plugin
from bench.spec import Cost, Progress, Run, Saved, Status

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from bench.learning.datasets import Dataset
    from bench.learning.execute import Inputs
    from bench.learning.weights import Weights


@dataclass(frozen=True)
class SharedInputs:
    """What runs read."""

    dataset: Shared
    weights: Shared
    plugin: Plugin | None

    @staticmethod
    def of_models(
        dataset: Dataset, weights: Mapping[str, Weights | None], plugin: Plugin | None, mailbox: ActorHandle
    ) -> dict[str, SharedInputs]:
        """By model: the data is shared once, each model's weights once."""
        data = Shared.put(dataset, mailbox)
        return {model: SharedInputs(data, Shared.put(found, mailbox), plugin) for model, found in weights.items()}

    def read(self) -> Inputs:
        """What a worker trains with. This imports torch, as training does; so it is not for the driver."""
        from bench.learning.execute import Inputs

        return Inputs(self.dataset.get(), self.weights.get(), self.plugin)


@dataclass
class TrainContext:
    """The context of a run in a Ray Train worker."""

    mailbox: ActorHandle
    rank: int
    world_size: int
    device: str
    threads: int
    lends: bool
    """Whether this run's threads may change."""

    def report(self, progress: Progress) -> None:
        """Send and go on."""
        self.mailbox.put.remote(progress)

    def save(self, run_id: str, state: bytes) -> None:
        """Hand over before the next epoch begins, so that it is safe if this worker dies."""
        ray.get(self.mailbox.put.remote(Saved(run_id, state)))

    def load(self, run_id: str) -> bytes | None:
        """What was saved last."""
        state: bytes | None = ray.get(self.mailbox.state.remote(run_id))
        return state

    def goes_on(self, run_id: str, epoch: int, validation_accuracy: float | None) -> bool:
        """Always: a benchmark trains what was asked for."""
        return True

    def costs(self, run_id: str, cost: Cost) -> None:
        """Send and go on."""
        if self.lends:
            self.mailbox.costs.remote(run_id, cost)

    def threads_in(self, run_id: str, epoch: int, trained_seconds: float) -> int:
        """It waits no longer than it has trained: a run that hangs must not stop the others."""
        if epoch == 1 or not self.lends:
            return self.threads
        patience = max(_PATIENCE_SECONDS, trained_seconds)
        threads: int | None = ray.get(self.mailbox.threads_in.remote(run_id, epoch, patience))
        return self.threads if threads is None else threads


_PATIENCE_SECONDS = 10.0
"""How long a run waits at least for CPUs that another still uses, and until that one has said what it costs."""


class Trainer(Protocol):
    """A group's Ray Train run."""

    def fit(self) -> Any:
        """Train the group; returns when its last run is done. Its workers' results are in the mailbox.

        May be called from any thread.

        Raises:
            ray.train.TrainingFailedError: Ray Train gave up.
        """

    def end(self) -> None:
        """Make :meth:`fit` raise soon, whatever its workers are doing; called from another thread."""


class ClusterTrainer(DataParallelTrainer):  # type: ignore[misc]  # ray's types are not followed
    """A data-parallel trainer as Ray has it: its controller is an actor, which outlives a driver that waits no more."""

    def __init__(self, loop: Any, *, train_loop_config: dict[str, Any], run_config: RunConfig, **options: Any) -> None:
        self._mailbox: ActorHandle = train_loop_config["mailbox"]
        self._name: str = train_loop_config["group"]
        run_config.callbacks.append(_Introduce(self._mailbox, self._name))
        super().__init__(loop, train_loop_config=train_loop_config, run_config=run_config, **options)

    def end(self) -> None:
        """See :class:`Trainer`."""
        controller: bytes | None = ray.get(self._mailbox.controller.remote(self._name))
        if controller is not None:
            ray.kill(ray.cloudpickle.loads(controller))


OwnTrainer: type[DataParallelTrainer]
try:
    from bench.cluster.lean import LeanTrainer as OwnTrainer
except ImportError:  # another version of Ray has other private parts
    OwnTrainer = ClusterTrainer


def trainer_of(
    group: Group,
    inputs: SharedInputs,
    mailbox: ActorHandle,
    *,
    session: Session,
    max_failures: int,
    oom_backoff: bool,
) -> Trainer:
    """What trains a group."""
    need = group.need
    # Not TorchTrainer: it imports torch in the controller too, 3 s and 600 MB that do nothing.
    kind = OwnTrainer if session.own else ClusterTrainer
    trainer: Trainer = kind(
        _train_loop,
        train_loop_config={
            "runs": Shared.put(group.runs, mailbox),
            "group": group.name,
            "inputs": inputs,
            "mailbox": mailbox,
            "threads": need.cpus,
            "lends": group.lends,
            "oom_backoff": oom_backoff,
        },
        scaling_config=ScalingConfig(
            num_workers=need.workers,
            use_gpu=need.gpus > 0,
            resources_per_worker={"CPU": need.cpus, **({"GPU": need.gpus} if need.gpus else {})},
        ),
        run_config=RunConfig(
            name=group.name,
            storage_path=str(session.storage),
            # The mailbox counts the failures of each run; together they may not stop the group before.
            failure_config=FailureConfig(max_failures=(max_failures + 1) * len(group.runs)),
            callbacks=[_TellMailbox(group.runs, mailbox)],
        ),
    )
    return trainer


class _TellMailbox(UserCallback):  # type: ignore[misc]
    """In Ray Train's controller: tell apart a lost worker, which is started again, and an error, which is not."""

    def __init__(self, runs: Sequence[Run], mailbox: ActorHandle) -> None:
        self._runs = runs
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Before the workers are started again."""
        status, reason = classify(worker_exceptions)
        ray.get(self._mailbox.worker_failed.remote(self._runs, status, reason))


class _Introduce(ControllerCallback):  # type: ignore[misc]
    """In Ray Train's controller: leave its handle in the mailbox, so that the driver can end the run at once."""

    def __init__(self, mailbox: ActorHandle, group: str) -> None:
        self._mailbox = mailbox
        self._group = group

    def after_controller_start(self, *arguments: Any) -> None:
        """Before anything else."""
        # Packed: to unpack it the mailbox would import all of Ray Train, 0.8 s.
        handle = ray.cloudpickle.dumps(ray.get_runtime_context().current_actor)
        ray.get(self._mailbox.controller_started.remote(self._group, handle))


def classify(worker_exceptions: Mapping[int, Exception]) -> tuple[Status | None, str]:
    """(how the run that was being trained ends, None if it is to be tried again; what happened in one line).

    When one worker dies, those that were waiting for it fail too, so a death explains all other errors.
    """
    # Ray Train wraps what happened to a dead worker.
    errors = {rank: getattr(error, "health_check_failure", error) for rank, error in worker_exceptions.items()}
    for rank, error in errors.items():
        if isinstance(error, ray.exceptions.OutOfMemoryError) or _KILLED_FOR_MEMORY.search(str(error)):
            return Status.OOM, f"worker {rank}: ended by Ray because the machine ran out of memory"
    for rank, error in errors.items():
        if isinstance(error, (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError)):
            return None, f"worker {rank} died: {_death(error)}"
    for rank, error in errors.items():
        if not _LOST_PEER.search(str(error)):
            return Status.FAILED, f"worker {rank}: {first_line(error)}"
    return None, "; ".join(f"worker {rank}: {first_line(error)}" for rank, error in errors.items())


_KILLED_FOR_MEMORY = re.compile(r"running (low on|out of) memory|memory monitor|memory usage threshold")
"""What Ray says when it ends a worker before the kernel would."""

_LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset|refused)|peer|socket", re.IGNORECASE)
"""What torch.distributed says when another worker is gone."""


def _death(error: Exception) -> str:
    found = re.search(r"(SIG[A-Z]+|exit code \d+|Worker exit type: \w+)", str(error))
    return found.group(1) if found else first_line(error)


def first_line(error: BaseException) -> str:
    """The line of an error's message that says most: of a remote traceback the last, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "Traceback (most recent call last)" in str(error) else lines[0]


def _train_loop(config: dict[str, Any]) -> None:
    """Runs in each worker."""
    from ray import train

    from bench.learning.execute import execute

    worker = train.get_context()
    mailbox: ActorHandle = config["mailbox"]
    shared: SharedInputs = config["inputs"]
    inputs = shared.read()
    context = TrainContext(
        mailbox=mailbox,
        rank=worker.get_world_rank(),
        world_size=worker.get_world_size(),
        device=gpu_or_cpu(),
        threads=config["threads"],
        lends=config["lends"],
    )
    node_id = ray.get_runtime_context().get_node_id()
    with _process_group(context):
        for run in config["runs"].get():
            asked = mailbox.begin.remote(run, node_id, os.getpid(), config["group"]) if context.rank == 0 else None
            goes = ray.get(asked) if asked is not None else None
            if context.world_size > 1:
                goes = train.collective.broadcast_from_rank_zero(goes)
            if goes:
                outcome = execute(run, inputs, context, oom_backoff=config["oom_backoff"])
                if context.rank == 0:
                    ray.get(mailbox.put.remote(outcome))


def gpu_or_cpu() -> str:
    """The device of this Ray worker, as torch names it: its one GPU if it was given one."""
    if not ray.get_gpu_ids():
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_device(0)  # Ray shows each worker only its own GPU
    return "cuda:0"


@contextlib.contextmanager
def _process_group(context: TrainContext) -> Iterator[None]:
    """torch.distributed between the workers of a run, if there are several: NCCL on GPUs, Gloo on CPUs."""
    if context.world_size == 1:
        yield
        return
    import torch.distributed
    from ray.train.collective import broadcast_from_rank_zero

    address = None
    if context.rank == 0:
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            address = f"tcp://{host}:{probe.getsockname()[1]}"
    address = broadcast_from_rank_zero(address)
    backend = "nccl" if context.device.startswith("cuda") else "gloo"
    torch.distributed.init_process_group(backend, init_method=address, rank=context.rank, world_size=context.world_size)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
