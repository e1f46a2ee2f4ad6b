"""Ray with less around it, on a cluster of our own: what a benchmark on one machine does not need is not started.

A Ray Train run starts up to six processes beside its workers, and each costs one to three seconds of processor time
before the first step. On somebody else's cluster (``--address``) everything stays as Ray has it. All this reaches into
Ray's private parts; where a version of Ray has others, its own way is taken.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

_NOT_NEEDED = ("PlacementGroupCleanerCallback", "DatasetsCallback")
"""Callbacks that start actors: one cleans up after a controller on clusters that outlive it, one serves Ray Data."""


class LeanTrainer(DataParallelTrainer):  # type: ignore[misc]  # ray's types are not followed
    """A data-parallel trainer whose controller starts nothing but its workers."""

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        parts["callbacks"] = [
            _Lighten(alone=self.scaling_config.num_workers == 1),
            *(one for one in parts["callbacks"] if type(one).__name__ not in _NOT_NEEDED),
        ]
        if type(parts["scaling_policy"]) is FixedScalingPolicy:
            parts["scaling_policy"] = _FixedWorkers(self.scaling_config)
        # No environment of its own: the cluster was started with this one, and so idle processes can be used.
        controller = ray.remote(num_cpus=0)(TrainController).remote(**parts)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())


class _FixedWorkers(FixedScalingPolicy):  # type: ignore[misc]
    """Does not tell an autoscaler, by way of an actor, what is wanted: there is none."""

    def after_controller_start(self, *arguments: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _send_resource_request(self) -> None:
        pass


class _Lighten(ControllerCallback):  # type: ignore[misc]
    """In the controller."""

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone

    def after_controller_start(self, *arguments: Any) -> None:
        from ray.train.v2._internal.execution.worker_group import worker_group

        # its workers, too, have the cluster's environment
        worker_group.WorkerGroup._get_worker_runtime_env = staticmethod(_as_it_is)
        if self._alone:
            worker_group.SynchronizationActor = _NeverStarted


def _as_it_is(custom_runtime_env: Any) -> Any:
    return custom_runtime_env or None


class _NeverStarted:
    """In place of the actor by which workers wait for each other: where there is one worker, none does."""

    @staticmethod
    def options(**options: Any) -> Any:
        from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor

        return SynchronizationActor.options(**options, resources={"never": 1})
