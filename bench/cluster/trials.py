"""A trial of a sweep, in its process: the code of a benchmark run trains it, and each epoch is reported to Ray Tune."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from bench.cluster.shared import asked
from bench.cluster.tasks import LEAST_REPORT_SECONDS, RayContext, SharedInputs, WorkerStorage, gpu_or_cpu
from bench.learning.inputs import inputs_of
from bench.spec import EpochRecord, Job, Progress, Status

if TYPE_CHECKING:
    from ray.actor import ActorHandle


class TuneContext(RayContext):
    """The context of a run in a Tune trial: each epoch is reported to Tune, which may stop the trial after it."""

    def __init__(
        self, coordinator: ActorHandle, *, judged: bool, device: str, threads: int, storage: WorkerStorage | None
    ) -> None:
        super().__init__(coordinator, 0, 1, device, threads, LEAST_REPORT_SECONDS, storage)
        self.stopped_after: int | None = None
        """The epoch after which the trial was stopped, as others were better; None if it was not."""
        self._judged = judged
        self._latest: Progress  # the last report before goes_on() is that of the whole epoch

    def report(self, progress: Progress) -> None:
        """Send the progress to the driver, and keep it for Tune."""
        self._latest = progress
        super().report(progress)

    def goes_on(self, run_id: str, epoch: int, validation_accuracy: float | None) -> bool:
        """Report the epoch to Tune; return False if it stopped the trial."""
        latest, images = self._latest, self._latest.images_total / self._latest.epochs
        row = EpochRecord(
            run_id=run_id,
            epoch=epoch,
            train_loss=latest.loss,
            train_accuracy=latest.accuracy,
            seconds=images / latest.images_per_second if latest.images_per_second else math.nan,
            images_per_second=latest.images_per_second,
            validation_accuracy=validation_accuracy,
        )
        tune.report({"row": row.model_dump_json(), "judged": self._judged})
        # The report returns when Tune has judged it. Tune would end a trial before it can send its outcome, so a stop
        # goes through the coordinator and the trial ends by itself.
        if ray.get(self.coordinator.should_continue.remote(run_id)):
            return True
        self.stopped_after = epoch
        return False


def train_trial(
    config: dict[str, Any],
    inputs: dict[str, SharedInputs],
    coordinator: ActorHandle,
    threads: int,
    oom_backoff: bool,
    storage: WorkerStorage | None,
) -> None:
    """Train one trial: the runs of a job, one after the other, until one is not ok."""
    from bench.learning.execute import execute

    runs = Job.model_validate_json(config["job"]).runs()
    read = inputs_of(runs[0], inputs).read()
    node_id = ray.get_runtime_context().get_node_id()
    scores = []
    for run in runs:
        if not asked(coordinator.begin, run, node_id, os.getpid()):
            if asked(coordinator.status, run.id) is Status.OK:  # trained in a process that was lost
                continue
            break
        judged = run.seed == config["judged_seed"]
        context = TuneContext(coordinator, judged=judged, device=gpu_or_cpu(), threads=threads, storage=storage)
        outcome = execute(run, read, context, oom_backoff=oom_backoff)
        measured = outcome.measured
        if measured.status is Status.OK and context.stopped_after is not None:
            reason = f"others were better after epoch {context.stopped_after}"
            measured = measured.model_copy(update={"status": Status.STOPPED, "reason": reason})
        asked(coordinator.put, replace(outcome, measured=measured))
        scores.append(0.0 if measured.status is Status.DIVERGED else measured.validation_accuracy)
        if measured.status is not Status.OK:
            break
    valid = [score for score in scores if score is not None]
    tune.report({"score": sum(valid) / len(valid) if valid else math.nan})
