"""Sweeps with Ray Tune: the trials of all models side by side, each trained by the same code as a benchmark run.

A trial is a function that trains in its own process, so it reserves what it uses and never waits for workers of its
own. Tune decides which trial starts, where, and which is not worth going on with; what a trial found goes through the
coordinator, as in a benchmark.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import Searcher

from bench.cluster.placement import Need
from bench.cluster.schedule import Driver, kill
from bench.cluster.session import ClusterLostError, Session
from bench.cluster.tasks import OUT_OF_MEMORY, RayContext, SharedInputs, first_line, gpu_or_cpu
from bench.space import Space, Values
from bench.spec import EpochRecord, Event, Job, Progress, Status

if TYPE_CHECKING:
    from ray.actor import ActorHandle

# Read by Tune when it starts.
_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table whatever the verbosity
}
_POLL_SECONDS = 0.25
_GRACE_SECONDS = 10.0

Handler = Callable[[Event | EpochRecord | Job], None]
"""Takes what happens in a sweep: a Job is a trial that is about to be trained, an EpochRecord one more epoch of it."""


@dataclass(frozen=True)
class Halving:
    """When asynchronous successive halving (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2018)
    stops a trial.
    """

    epochs: int
    """The longest a trial is trained."""
    grace_period: int
    """Epochs that every trial gets."""
    reduction_factor: float
    """Of so many trials one goes on at each rung."""


@dataclass
class ModelSweep:
    """One model's share of a search."""

    model: str
    waiting: list[Job]
    """Trials to train, in this order; each with the seeds that it still lacks."""
    judged_seed: int
    """A trial is stopped for what this seed's run shows; the other seeds are for trials that were not."""
    halving: Halving | None = None
    """None stops no trial early."""
    proposals: OptunaProposals | None = None
    """Where further trials come from; None where all of them wait already."""
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By job id: validation accuracies after each epoch of the judged seed, of trials from an earlier command."""


class OptunaProposals:
    """Trials that Optuna proposes, from what was found so far (tree-structured Parzen estimator)."""

    def __init__(
        self,
        space: Space,
        job_of: Callable[[Values], Job],
        *,
        known: Sequence[tuple[Values, float]],
        taken: Iterable[str],
        left: int,
        seed: int,
    ) -> None:
        """Tell Optuna what is known.

        Args:
            space: what varies.
            job_of: a point of it as a trial.
            known: points with their scores, from an earlier command.
            taken: job ids of trials that there are already.
            left: how many to propose.
            seed: of the sampler.
        """
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        whole = {name: isinstance(space.fitting(name, limits.high), int) for name, limits in space.ranges.items()}
        distributions: dict[str, Any] = {
            name: (
                optuna.distributions.IntDistribution(round(limits.low), round(limits.high), log=limits.log)
                if whole[name]
                else optuna.distributions.FloatDistribution(limits.low, limits.high, log=limits.log)
            )
            for name, limits in space.ranges.items()
        }
        for name, listed in space.lists.items():
            distributions[name] = optuna.distributions.CategoricalDistribution(listed)
        startup = min(10, max(3, (len(known) + left) // 3))
        sampler = optuna.samplers.TPESampler(seed=seed + len(known), n_startup_trials=startup, constant_liar=True)
        self._search = OptunaSearch(distributions, metric="score", mode="max", sampler=sampler)
        for values, score in known:
            self._search.add_evaluated_point(values, score)
        self._space, self._job_of = space, job_of
        self._taken = set(taken)
        self.left = left
        self._asked: dict[str, str] = {}

    def propose(self) -> Job | None:
        """One more trial, unlike all others; None when there is none."""
        if self.left <= 0:
            return None
        for _ in range(100):
            name = f"{len(self._asked)}"
            self._asked[name] = ""
            found = self._search.suggest(name)
            point: Values = {
                key: self._space.fitting(key, found[key]) if key in self._space.ranges else found[key]
                for key in self._space.names
            }
            job = self._job_of(point)
            job_id = job_id_of(job)
            if job_id not in self._taken:
                self._taken.add(job_id)
                self._asked[name] = job_id
                self.left -= 1
                return job
            self._search.on_trial_complete(name, error=True)
        self.left = 0
        return None

    def told(self, job_id: str, score: float | None) -> None:
        """What a proposed trial gave; None if nothing."""
        for name, proposed in self._asked.items():
            if proposed == job_id:
                known = score is not None and math.isfinite(score)
                self._search.on_trial_complete(name, {"score": score} if known else None, error=not known)


def job_id_of(job: Job) -> str:
    """What the runs of a trial share."""
    return job.runs()[0].job_id


# --- in the trial's process ------------------------------------------------------------------------------------------


class TuneContext(RayContext):
    """The context of a run in a Tune trial: Tune hears of each epoch, and may end the trial after it."""

    def __init__(self, coordinator: ActorHandle, *, judged: bool, device: str, threads: int) -> None:
        super().__init__(coordinator, rank=0, world_size=1, device=device, threads=threads)
        self.stopped_after: int | None = None
        """The epoch after which others were better."""
        self._judged = judged
        self._latest: Progress | None = None

    def report(self, progress: Progress) -> None:
        """Send and go on."""
        self._latest = progress
        super().report(progress)

    def goes_on(self, run_id: str, epoch: int, validation_accuracy: float | None) -> bool:
        """Tell Tune of the epoch; False if it is not worth going on."""
        latest = self._latest
        row = EpochRecord(
            run_id=run_id,
            epoch=epoch,
            train_loss=latest.loss if latest else math.nan,
            train_accuracy=latest.accuracy if latest else math.nan,
            seconds=_seconds(latest) if latest else math.nan,
            images_per_second=latest.images_per_second if latest else math.nan,
            validation_accuracy=validation_accuracy,
        )
        tune.report({"row": row.model_dump_json(), "judged": self._judged})
        # The report returns when Tune has judged it. Tune itself would end a trial without letting it say what it
        # measured, so a stop is told here and the trial ends by itself.
        if ray.get(self.coordinator.should_continue.remote(run_id)):
            return True
        self.stopped_after = epoch
        return False


def _seconds(progress: Progress) -> float:
    images = progress.images_total / progress.epochs
    return images / progress.images_per_second if progress.images_per_second else math.nan


def _train_trial(
    config: dict[str, Any],
    inputs: dict[str, SharedInputs],
    coordinator: ActorHandle,
    threads: int,
    oom_backoff: bool,
) -> None:
    """One trial: the runs of a job, one after the other, until one is not ok."""
    from bench.learning.execute import execute

    job = Job.model_validate_json(config["job"])
    read = inputs[job.model].read()
    node_id = ray.get_runtime_context().get_node_id()
    scores = []
    runs = job.runs()
    for run in runs:
        if not ray.get(coordinator.begin.remote(run, node_id, os.getpid())):
            if ray.get(coordinator.status.remote(run.id)) is Status.OK:  # before this process replaced a lost one
                continue
            break
        judged = run.seed == config["judged_seed"]
        context = TuneContext(coordinator, judged=judged, device=gpu_or_cpu(), threads=threads)
        outcome = execute(run, read, context, oom_backoff=oom_backoff)
        record = outcome.record
        if record.status is Status.OK and context.stopped_after is not None:
            reason = f"others were better after epoch {context.stopped_after}"
            record = record.model_copy(update={"status": Status.STOPPED, "reason": reason})
        ray.get(coordinator.put.remote(replace(outcome, record=record)))
        scores.append(0.0 if record.status is Status.DIVERGED else record.validation_accuracy)
        if record.status is not Status.OK:
            break
    known = [score for score in scores if score is not None]
    tune.report({"score": sum(known) / len(known) if known else math.nan})


# --- in the driver ---------------------------------------------------------------------------------------------------


class _NotKept:
    """Tune pickles its parts to go on from later; here the store is what a sweep goes on from."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (SimpleNamespace, ())


class _SideBySide(_NotKept, Searcher):  # type: ignore[misc]  # ray's types are not followed
    """Which trial comes next: one of the model that has the fewest under way, so that all sweeps go on together."""

    def __init__(self, sweeps: Sequence[ModelSweep], announce: Callable[[Job], None]) -> None:
        super().__init__()
        self._sweeps = sweeps
        self._announce = announce
        self._under_way: dict[str, tuple[ModelSweep, str]] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial as the configuration of its function; FINISHED when there is none."""

        def busy(sweep: ModelSweep) -> tuple[int, int]:
            left = len(sweep.waiting) + (sweep.proposals.left if sweep.proposals else 0)
            return sum(other is sweep for other, _ in self._under_way.values()), -left

        for sweep in sorted(self._sweeps, key=busy):
            job = sweep.waiting.pop(0) if sweep.waiting else None
            if job is None and sweep.proposals is not None:
                job = sweep.proposals.propose()
            if job is not None:
                self._under_way[trial_id] = (sweep, job_id_of(job))
                self._announce(job)
                return {"job": job.model_dump_json(), "judged_seed": sweep.judged_seed}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial ended."""
        sweep, job_id = self._under_way.pop(trial_id)
        if sweep.proposals is not None:
            sweep.proposals.told(job_id, (result or {}).get("score"))

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the store is what a sweep goes on from."""


class _Judge(_NotKept, FIFOScheduler):  # type: ignore[misc]
    """Which trial is not worth going on with: one successive halving for each model."""

    def __init__(
        self,
        sweeps: Sequence[ModelSweep],
        *,
        stop: Callable[[str], None],
        tell: Callable[[EpochRecord], None],
        lost: Callable[[_Lost], None],
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
        """Whether a trial goes on after an epoch with this validation accuracy."""
        if model not in self._halving:
            return True
        scheduler, known = self._halving[model]
        if job_id not in known:
            # Known by its job, not by Tune's trial, so that it is the same one after an interruption.
            known[job_id] = SimpleNamespace(trial_id=job_id)
            scheduler.on_trial_add(None, known[job_id])
        result = {"epoch": epoch, "validation_accuracy": accuracy}
        return bool(scheduler.on_trial_result(None, known[job_id], result) != self.STOP)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A trial has trained one more epoch; a stop is told to the trial, which then ends by itself."""
        if "row" in result:
            row = EpochRecord.model_validate_json(result["row"])
            self._tell(row)
            job = Job.model_validate_json(trial.config["job"])
            accuracy = row.validation_accuracy
            asked = result["judged"] and accuracy is not None and row.epoch < job.recipe.epochs
            if asked and not self.judge(job.model, job_id_of(job), row.epoch, accuracy or 0.0):
                self._stop(row.run_id)
        return str(self.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The process of a trial was lost; Tune may start it again."""
        self._lost(_Lost.of(trial, for_good=False))


@dataclass(frozen=True)
class _Lost:
    """The process of a trial ended before its function did."""

    job: Job
    error: Exception | None
    for_good: bool
    """Tune will not start the trial again."""

    @classmethod
    def of(cls, trial: Any, *, for_good: bool) -> _Lost:
        error = trial.get_pickled_error() or trial.get_error()
        return cls(Job.model_validate_json(trial.config["job"]), error, for_good)


def _to_blame(error: Any) -> tuple[Status | None, str]:
    """Return (how the run that was being trained ends, None if it is to be tried again; what happened in one line)."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return Status.OOM, OUT_OF_MEMORY
    if isinstance(error, ray.exceptions.RayTaskError):  # an exception of ours, or of the user's file
        cause: Exception = error.cause
        return Status.FAILED, f"{type(cause).__name__}: {first_line(cause)}"
    return None, "its process was lost"


class _GivenUp(_NotKept, tune.Callback):  # type: ignore[misc]
    """Hears of trials that Tune will not start again."""

    def __init__(self, lost: Callable[[_Lost], None]) -> None:
        self._lost = lost

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """After the scheduler has heard of it."""
        self._lost(_Lost.of(trial, for_good=True))


class _Switch(_NotKept, tune.Stopper):  # type: ignore[misc]
    """Ends everything when it is set."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def set(self) -> None:
        """From any thread."""
        self._set.set()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Asked by Tune all the time."""
        return self._set.is_set()


class SweepRunner(Driver):
    """Trains the trials of all models with one Tuner."""

    _handle: Handler

    def __init__(self, session: Session, *, need: Need, verbose: bool = False, **shared: Any) -> None:
        """Put what trials read into Ray's object store.

        Args:
            session: where to train.
            need: what each trial reserves; one worker.
            verbose: show Tune's own messages.
            shared: as for :class:`Driver`.
        """
        super().__init__(session, **shared)
        self._need, self._verbose = need, verbose
        self._from_tune: queue.SimpleQueue[EpochRecord | Job | _Lost] = queue.SimpleQueue()

    def search(self, sweeps: Sequence[ModelSweep], *, seconds: float | None = None) -> bool:
        """Train all trials; returns whether ``seconds`` were over before that.

        Raises:
            KeyboardInterrupt: passed on, after the trials that were being trained got their outcomes.
            ClusterLostError: Ray ended or cannot be reached.
            Exception: Tune itself failed.
        """
        os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})
        switch = _Switch()
        errors: list[Exception] = []

        def work() -> None:
            try:
                with tempfile.TemporaryDirectory(prefix="bench-tune-", ignore_cleanup_errors=True) as storage:
                    self._tuner(sweeps, switch, storage).fit()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=work, daemon=True, name="tune")
        thread.start()
        end = math.inf if seconds is None else time.monotonic() + seconds
        try:
            while thread.is_alive() and time.monotonic() < end:
                self._take(_POLL_SECONDS)
                self._end_what_takes_too_long()
            over = thread.is_alive()
            if over:
                self._interrupt("the time budget of the search was used up", switch, thread)
        except KeyboardInterrupt:
            self._interrupt("interrupted from the keyboard", switch, thread)
            raise
        except ray.exceptions.RayError as error:  # trials under way are in the store as interrupted
            raise ClusterLostError(first_line(error)) from None
        self._take(0)
        for run in self._active():  # Tune ended without a word on them
            self._end(run, Status.FAILED, "the trial ended without a result")
        self._take(0)
        if errors:
            raise errors[0]
        return over

    def _tuner(self, sweeps: Sequence[ModelSweep], switch: _Switch, storage: str) -> tune.Tuner:
        trainable = tune.with_resources(
            tune.with_parameters(
                _train_trial,
                inputs=self._inputs,
                coordinator=self._coordinator,
                threads=self._need.cpus,
                oom_backoff=self._limits.oom_backoff,
            ),
            {"CPU": self._need.cpus, **({"GPU": self._need.gpus} if self._need.gpus else {})},
        )
        judge = _Judge(
            sweeps,
            stop=lambda run_id: ray.get(self._coordinator.stop.remote(run_id)),
            tell=self._from_tune.put,
            lost=self._from_tune.put,
        )
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_SideBySide(sweeps, self._from_tune.put),
                scheduler=judge,
                num_samples=1_000_000,  # the search says when it is over
                reuse_actors=True,  # or every trial would import torch
                trial_name_creator=lambda trial: f"trial-{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=storage,
                stop=switch,
                callbacks=[_GivenUp(self._from_tune.put)],
                failure_config=tune.FailureConfig(max_failures=self._limits.max_failures),
                verbose=1 if self._verbose else 0,
            ),
        )

    def _take(self, wait_seconds: float) -> None:
        """Pass on what happened since the last call; first what Tune said, which is about earlier things."""
        events: list[Event] = ray.get(self._coordinator.take.remote(wait_seconds))
        with contextlib.suppress(queue.Empty):
            while True:
                said = self._from_tune.get_nowait()
                if isinstance(said, _Lost):
                    self._note_loss(said)
                    continue
                if isinstance(said, Job):
                    self._runs.update({run.id: run for run in said.runs()})
                self._handle(said)
        self._pass_on(events)

    def _note_loss(self, lost: _Lost) -> None:
        """The run that was being trained ends if it is to blame; and if Tune gave up, whatever has not ended."""
        status, reason = _to_blame(lost.error)
        runs = lost.job.runs()
        if status is not None:
            ray.get(self._coordinator.end_active.remote(runs, status, reason))
        left = [run for run in runs if run.id not in self._finished]
        if lost.for_good and left:  # the others are not to be trained: their trial is what has failed
            self._end(next((run for run in left if run.id in self._begun), left[0]), status or Status.FAILED, reason)

    def _interrupt(self, reason: str, switch: _Switch, thread: threading.Thread) -> None:
        """End what is being trained; it can go on from its last epoch."""
        ray.get(self._coordinator.close.remote())
        switch.set()
        self._take(0)
        for run in self._active():
            self._end(run, Status.INTERRUPTED, reason)
            kill(self._begun[run.id])
        self._take(0)
        thread.join(_GRACE_SECONDS)
