"""Ray Train with less around it, on a cluster of our own: what a benchmark on one machine does not need is not started.

A Ray Train run starts up to seven processes beside its workers, and each costs one to three seconds of processor time
before the first step. Here its controller is a thread of the driver, and starts nothing but the workers. On somebody
else's cluster (``--address``) everything stays as Ray has it. All this reaches into Ray's private parts; where a
version of Ray has others, its own way is taken.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import worker_group
from ray.train.v2._internal.util import ObjectRefWrapper
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

_NOT_NEEDED = ("PlacementGroupCleanerCallback", "DatasetsCallback")
"""Callbacks that start actors: one cleans up after a controller on clusters that outlive it, one serves Ray Data."""


class EndedError(Exception):
    """A Ray Train run was ended by whoever started it."""


class LeanTrainer(DataParallelTrainer):  # type: ignore[misc]  # ray's types are not followed
    """A data-parallel trainer whose controller runs in the thread that calls :meth:`fit`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ending = threading.Event()
        self._controller: _Controller | None = None

    def end(self) -> None:
        """Make :meth:`fit` raise soon, whatever its workers are doing; called from another thread."""
        self._ending.set()
        for worker in self._controller.workers if self._controller is not None else ():
            ray.kill(worker.actor)

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        parts["train_fn_ref"] = _Carried.instead_of(parts["train_fn_ref"])
        parts["callbacks"] = [one for one in parts["callbacks"] if type(one).__name__ not in _NOT_NEEDED]
        if type(parts["scaling_policy"]) is FixedScalingPolicy:
            parts["scaling_policy"] = _FixedWorkers(self.scaling_config)
        # where there is one worker, none waits for others
        alone = self.scaling_config.num_workers == 1
        worker_group.SynchronizationActor = _NeverStarted if alone else SynchronizationActor
        controller = self._controller = _Controller(self._ending, **parts)
        asyncio.run(controller.run())
        return controller.get_result()


class _Carried:
    """The training function, sent with each call rather than by way of the object store: see bench.cluster.shared."""

    def __init__(self, function: Any) -> None:
        self._function = function

    @staticmethod
    def instead_of(reference: ObjectRefWrapper[Any]) -> _Carried:
        carried = _Carried(reference.get())
        reference._ref = None  # whoever called still has the wrapper
        return carried

    def get(self) -> Any:
        return self._function


class _Controller(TrainController):  # type: ignore[misc]
    """In the driver's process."""

    def __init__(self, ending: threading.Event, **parts: Any) -> None:
        self._ending = ending
        self.workers: Sequence[Any] = ()
        """What was started last, also while the start goes on."""
        controller = self

        class Workers(_Workers):
            def _create_workers(self, *arguments: Any, **options: Any) -> Any:
                controller.workers = super()._create_workers(*arguments, **options)
                return controller.workers

        self.worker_group_cls = Workers
        super().__init__(**parts)

    async def _run_control_loop_iteration(self) -> None:
        if self._ending.is_set():
            raise EndedError
        await super()._run_control_loop_iteration()

    def _start_worker_group(self, *arguments: Any, **options: Any) -> None:
        if not any(node["Alive"] for node in ray.nodes()):  # Ray would end this process, which has results to write
            self._ending.set()
            raise EndedError
        super()._start_worker_group(*arguments, **options)


class _Workers(worker_group.WorkerGroup):  # type: ignore[misc]
    """Workers of a controller that is no actor. They have the cluster's environment, so that idle processes do."""

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        return custom_runtime_env or None

    def _init_train_context_on_workers(
        self, workers: Sequence[Any], sync_actor: Any, train_context_args: Mapping[str, Sequence[Any]]
    ) -> None:
        shared = {
            "train_run_context": self._train_run_context,
            "synchronization_actor": sync_actor,
            "storage_context": self._storage_context,
            "worker_callbacks": self._worker_callbacks_to_propagate,
            "controller_actor": None,  # only asked for checkpoints, of which Ray has none here
        }
        begun = []
        for position, worker in enumerate(workers):
            own = {name: values[position] for name, values in train_context_args.items()}
            place = worker.distributed_context
            begun.append(worker.actor.init_train_context.remote(distributed_context=place, **shared, **own))
        ray.get(begun)


class _FixedWorkers(FixedScalingPolicy):  # type: ignore[misc]
    """Does not tell an autoscaler, by way of an actor, what is wanted: there is none."""

    def after_controller_start(self, *arguments: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _send_resource_request(self) -> None:
        pass


class _NeverStarted:
    """In place of the actor by which workers wait for each other."""

    @staticmethod
    def options(**options: Any) -> Any:
        return SynchronizationActor.options(**options, resources={"never": 1})
