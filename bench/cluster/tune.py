"""Sweeps with Ray Tune: the trials of all models side by side, each trained by the same code as a benchmark run.

A trial is a function that trains in its own process, so it reserves what it uses and never waits for further
workers. Tune decides which trial starts, on which node, and which is stopped; the results of a trial go through the
coordinator, as in a benchmark.
"""

from __future__ import annotations

import math
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import Searcher

from bench.cluster.coordinator import Report
from bench.cluster.placement import Need
from bench.cluster.proposals import OptunaProposals
from bench.cluster.schedule import Driver, kill, to_blame
from bench.cluster.session import Session
from bench.cluster.trials import train_trial
from bench.spec import EpochRecord, Event, Job, Status

# Read by Tune when it starts.
_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table whatever the verbosity
}
_GRACE_SECONDS = 10.0

Handler = Callable[[Event | EpochRecord | Job], None]
"""A function that takes the events of a sweep: a Job is a trial about to be trained, an EpochRecord an epoch of it."""


@dataclass(frozen=True)
class Halving:
    """The settings of asynchronous successive halving, which stops trials early.

    Li et al., A System for Massively Parallel Hyperparameter Tuning, 2018.
    """

    epochs: int
    """The most epochs of a trial."""
    grace_period: int
    """Epochs that every trial gets."""
    reduction_factor: float
    """Of so many trials that reach a rung, one goes on."""


@dataclass
class ModelSweep:
    """One model's share of a search."""

    model: str
    waiting: list[Job]
    """Trials to train, in this order; each with the seeds that it still lacks."""
    judged_seed: int
    """The seed whose run decides whether a trial is stopped; the other seeds are trained only if it is not."""
    halving: Halving | None = None
    """The settings of early stopping; None stops no trial early."""
    proposals: OptunaProposals | None = None
    """The source of further trials; None if all of them are in ``waiting``."""
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The trials of an earlier command by job id: validation accuracies after each epoch of the judged seed."""


# --- in the driver ---------------------------------------------------------------------------------------------------


class _NotKept:
    """A part that Tune's snapshots leave out, as a sweep resumes from the store."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (SimpleNamespace, ())


class _SideBySide(_NotKept, Searcher):  # type: ignore[misc]  # ray's types are not followed
    """The order of trials: next is the model with the fewest under way, so that all models are tuned side by side."""

    def __init__(self, sweeps: Sequence[ModelSweep], announce: Callable[[Job], None]) -> None:
        super().__init__()
        self._sweeps = sweeps
        self._announce = announce
        self._under_way: dict[str, tuple[ModelSweep, str]] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial as the configuration of its function; FINISHED when there is none."""

        def busy(sweep: ModelSweep) -> tuple[int, int]:
            remaining = len(sweep.waiting) + (sweep.proposals.remaining if sweep.proposals else 0)
            return sum(other is sweep for other, _ in self._under_way.values()), -remaining

        for sweep in sorted(self._sweeps, key=busy):
            job = sweep.waiting.pop(0) if sweep.waiting else None
            if job is None and sweep.proposals is not None:
                job = sweep.proposals.propose()
            if job is not None:
                self._under_way[trial_id] = (sweep, job.job_id)
                self._announce(job)
                return {"job": job.model_dump_json(), "judged_seed": sweep.judged_seed}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note the end of a trial, and tell Optuna its score."""
        sweep, job_id = self._under_way.pop(trial_id)
        if sweep.proposals is not None:
            sweep.proposals.told(job_id, (result or {}).get("score"))

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing: a sweep resumes from the store."""


class _Judge(_NotKept, FIFOScheduler):  # type: ignore[misc]
    """The scheduler that stops trials early: one successive halving for each model."""

    def __init__(
        self,
        sweeps: Sequence[ModelSweep],
        *,
        stop: Callable[[str], None],
        tell: Callable[[EpochRecord], None],
        lost: Callable[[Any, bool], None],
    ) -> None:
        super().__init__()
        self._stop, self._tell, self._lost = stop, tell, lost
        self._halving: dict[str, tuple[AsyncHyperBandScheduler, dict[str, SimpleNamespace]]] = {}
        for sweep in sweeps:
            if sweep.halving is None:
                continue
            scheduler = AsyncHyperBandScheduler(
                time_attr="epoch",
                metric="validation_accuracy",
                mode="max",
                max_t=sweep.halving.epochs,
                grace_period=sweep.halving.grace_period,
                reduction_factor=sweep.halving.reduction_factor,
            )
            self._halving[sweep.model] = (scheduler, {})
            for job_id, accuracies in sweep.history.items():
                for epoch, accuracy in enumerate(accuracies, start=1):
                    self.judge(sweep.model, job_id, epoch, accuracy)

    def judge(self, model: str, job_id: str, epoch: int, accuracy: float) -> bool:
        """Return whether a trial goes on after an epoch with this validation accuracy."""
        if model not in self._halving:
            return True
        scheduler, trials = self._halving[model]
        if job_id not in trials:
            # The id is that of the job, not of Tune's trial: it is the same after an interruption.
            trials[job_id] = SimpleNamespace(trial_id=job_id)
            scheduler.on_trial_add(None, trials[job_id])
        result = {"epoch": epoch, "validation_accuracy": accuracy}
        return bool(scheduler.on_trial_result(None, trials[job_id], result) != self.STOP)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge a trial after an epoch; tell one that is to stop, so that it ends by itself."""
        if "row" in result:
            row = EpochRecord.model_validate_json(result["row"])
            self._tell(row)
            job = _job_of(trial)
            accuracy = row.validation_accuracy
            asked = result["judged"] and accuracy is not None and row.epoch < job.recipe.epochs
            if asked and not self.judge(job.model, job.job_id, row.epoch, accuracy or 0.0):
                self._stop(row.run_id)
        return str(self.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note that the process of a trial was lost; Tune may start it again."""
        self._lost(trial, False)


def _job_of(trial: Any) -> Job:
    return Job.model_validate_json(trial.config["job"])


class _GivenUp(_NotKept, tune.Callback):  # type: ignore[misc]
    """The callback for trials that Tune will not start again."""

    def __init__(self, lost: Callable[[Any, bool], None]) -> None:
        self._lost = lost

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the loss of a trial; Tune tells the scheduler first."""
        self._lost(trial, True)


class _Switch(_NotKept, tune.Stopper):  # type: ignore[misc]
    """A stopper that ends the whole search once it is on; any thread may turn it on."""

    on = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Return whether the switch is on; Tune asks all the time."""
        return self.on


class SweepRunner(Driver):
    """A driver that trains the trials of all models with one Tuner, which works in a thread of its own."""

    _handle: Handler

    def __init__(self, session: Session, *, need: Need, verbose: bool = False, **shared: Any) -> None:
        """Put the inputs of trials into Ray's object store.

        Args:
            session: the cluster to train on.
            need: the resources that each trial reserves; one worker.
            verbose: show Tune's own messages.
            shared: the other arguments of :class:`Driver`.
        """
        super().__init__(session, **shared)
        self._need, self._verbose = need, verbose
        self._switch = _Switch()
        self._from_tune: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        """Calls that Tune's thread leaves for the driver's thread to make."""

    def search(self, sweeps: Sequence[ModelSweep], *, seconds: float | None = None) -> bool:
        """Train all trials; return whether ``seconds`` were over before that.

        Raises:
            KeyboardInterrupt: passed on, after the trials that were being trained got their outcomes.
            ClusterLostError: Ray ended or cannot be reached; the trials that were being trained got their outcomes.
            Exception: Tune itself failed.
        """
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        errors: list[Exception] = []

        def work() -> None:
            try:
                with tempfile.TemporaryDirectory(prefix="bench-tune-", ignore_cleanup_errors=True) as storage:
                    self._tuner(sweeps, storage).fit()
            except Exception as error:
                errors.append(error)

        self._thread = threading.Thread(target=work, daemon=True, name="tune")
        self._thread.start()
        end = math.inf if seconds is None else time.monotonic() + seconds
        with self._until_the_end():
            while self._thread.is_alive() and time.monotonic() < end:
                self._wait()
            over = self._thread.is_alive()
            if over:
                self._interrupt("the time budget of the search was used up")
        self._take(0)
        for run in self._active():  # Tune ended without an outcome of theirs
            self._end(run, Status.FAILED, "the trial ended without a result")
        self._take(0)
        if errors:
            raise errors[0]
        return over

    def _tuner(self, sweeps: Sequence[ModelSweep], storage: str) -> tune.Tuner:
        trainable = tune.with_resources(
            tune.with_parameters(
                train_trial,
                inputs=self._inputs,
                coordinator=self._coordinator,
                threads=self._need.cpus,
                oom_backoff=self._limits.oom_backoff,
                storage=self._storage,
            ),
            {"CPU": self._need.cpus, **({"GPU": self._need.gpus} if self._need.gpus else {})},
        )
        judge = _Judge(
            sweeps,
            stop=lambda run_id: ray.get(self._coordinator.stop.remote(run_id)),
            tell=lambda row: self._from_tune.put(lambda: self._handle(row)),
            lost=self._lost,
        )
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_SideBySide(sweeps, lambda job: self._from_tune.put(lambda: self._announce(job))),
                scheduler=judge,
                num_samples=1_000_000,  # the searcher ends the search
                reuse_actors=True,  # or every trial would import torch
                trial_name_creator=lambda trial: f"trial-{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=storage,
                stop=self._switch,
                callbacks=[_GivenUp(self._lost)],
                failure_config=tune.FailureConfig(max_failures=self._limits.max_failures),
                verbose=1 if self._verbose else 0,
            ),
        )

    def _pass_on(self, events: Sequence[Report]) -> None:
        """Pass on events, after the calls that Tune's thread has left, as they are earlier."""
        while not self._from_tune.empty():
            self._from_tune.get()()
        super()._pass_on(events)

    def _demand(self) -> tuple[Need, int] | None:
        return self._need, sum(run_id not in self._finished for run_id in self._runs)

    def _announce(self, job: Job) -> None:
        self._runs.update({run.id: run for run in job.runs()})
        self._handle(job)

    def _lost(self, trial: Any, for_good: bool) -> None:
        """Take from Tune's thread that a trial lost its process; with ``for_good`` Tune will not start it again."""
        job, error = _job_of(trial), trial.get_pickled_error() or trial.get_error()
        self._from_tune.put(lambda: self._note_loss(job, error, for_good))

    def _note_loss(self, job: Job, error: Exception | None, for_good: bool) -> None:
        """End the run that was being trained if it is to blame; if Tune gave up the trial, end an unfinished run."""
        blame = to_blame(error)
        status, reason = blame or (Status.FAILED, "its process was lost")
        if blame is not None:
            ray.get(self._coordinator.end_active.remote(job.runs(), status, reason))
        unfinished = [run for run in job.runs() if run.id not in self._finished]
        if for_good and unfinished:  # one run: the others are never trained, as their trial has failed
            self._end(next((run for run in unfinished if run.id in self._begun), unfinished[0]), status, reason)

    def _interrupt(self, reason: str) -> None:
        """End the trials under way, which can resume from their last epoch, and the search."""
        ray.get(self._coordinator.close.remote())
        self._switch.on = True
        self._take(0)
        for run in self._active():
            self._end(run, Status.INTERRUPTED, reason)
            kill(self._begun[run.id])
        self._take(0)
        self._thread.join(_GRACE_SECONDS)
