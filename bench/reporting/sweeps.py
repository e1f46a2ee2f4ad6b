"""Sweeps as they are stored: settings, trials, the winner, the cost of the search.

A trial is one point of the space, trained once for each of the sweep's seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.config.space import Space, Value, Values
from bench.reporting import files
from bench.reporting.formats import count, counted
from bench.reporting.groups import grouped
from bench.reporting.store import Store
from bench.spec import DatasetInfo, EpochRecord, Recipe, Record, Status
from bench.storage import Place

FOLDER = "sweeps"


class Sweep(BaseModel):
    """The settings of a sweep of one model, stored as results/sweeps/ID.json; its results are in the records."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sweep_id: str
    model: str
    dataset: DatasetInfo
    weights: str
    weights_sha256: str | None
    plugin_sha256: str | None
    recipe: Recipe
    """The recipe that all trials share; the swept fields have their defaults here."""
    space: Space
    seeds: tuple[int, ...]
    """The seeds that each trial is trained with."""
    search: str
    """The search: 'random', 'optuna' or 'grid'."""
    search_seed: int
    scheduler: str
    """The scheduler of trials: 'asha' or 'fifo'."""
    grace_period: int
    reduction_factor: float
    trials: int
    """The number of trials that were asked for last."""
    gpus_per_trial: float
    started_at: datetime
    """The start of the sweep, UTC."""
    finished_at: datetime | None
    """The time when its last trial had ended and its winner was chosen, UTC; None before."""

    def values_of(self, record: Record) -> Values:
        """Return the values of the swept fields in a trial's record."""
        return {name: getattr(record, name) for name in self.space.names}

    @property
    def time_key(self) -> tuple[datetime, str]:
        """Return a sort key: the time when the sweep ended or, unfinished, began; then its id."""
        return self.finished_at or self.started_at, self.sweep_id


@dataclass(frozen=True)
class Trial:
    """A point of the space, and the results of training with its values."""

    values: Values
    records: Sequence[Record]
    """The records by seed; fewer than the sweep has seeds if the trial is not done or ended early."""
    epochs: Mapping[str, Sequence[EpochRecord]]
    """The epochs of the runs, by run id."""
    seeds: int
    """The number of runs of a whole trial."""

    @property
    def job_id(self) -> str:
        """Return the job id that its runs share."""
        return self.records[0].job_id

    @property
    def status(self) -> Status:
        """Return OK if every seed is; else the status that ended it, or INTERRUPTED if seeds are missing."""
        for record in self.records:
            if record.status is not Status.OK:
                return record.status
        return Status.OK if len(self.records) >= self.seeds else Status.INTERRUPTED

    @property
    def score(self) -> float | None:
        """Return the mean over seeds of the last validation accuracy; None without one, or if a run failed."""
        scores = [score for record in self.records if (score := self._score(record)) is not None]
        has_one = self.status in (Status.OK, Status.STOPPED, Status.INTERRUPTED) and scores
        return statistics.fmean(scores) if has_one else None

    def _score(self, record: Record) -> float | None:
        if record.validation_accuracy is not None:
            return record.validation_accuracy
        epochs = self.epochs.get(record.run_id)
        return epochs[-1].validation_accuracy if epochs else None

    def accuracies(self, record: Record) -> list[float]:
        """Return the validation accuracy after each epoch of one of its runs."""
        measured = [epoch.validation_accuracy for epoch in self.epochs.get(record.run_id, ())]
        return [accuracy for accuracy in measured if accuracy is not None]

    @property
    def epochs_done(self) -> int:
        """Return the number of epochs trained, over all its seeds."""
        return sum(record.epochs_done or len(self.epochs.get(record.run_id, ())) for record in self.records)

    @property
    def seconds(self) -> float:
        """Return the seconds that it held its CPUs or GPU: in the last attempt, or in all epochs if that is more."""
        return sum(_seconds(record, self.epochs.get(record.run_id, ())) for record in self.records)


def _seconds(record: Record, epochs: Sequence[EpochRecord]) -> float:
    held = (record.ended_at - record.started_at).total_seconds()
    trained = record.train_seconds or sum(epoch.seconds for epoch in epochs)
    return max(held, trained + (record.validation_seconds or 0.0) + (record.setup_seconds or 0.0))


def trials_of(
    sweep: Sweep, records: Iterable[Record], epochs: Mapping[str, Sequence[EpochRecord]] | None = None
) -> list[Trial]:
    """Return the trials of a sweep that have records, ordered by their values."""
    mine = [record for record in records if record.sweep_id == sweep.sweep_id and record.judged_on == "validation"]
    trials = [
        Trial(sweep.values_of(runs[0]), sorted(runs, key=lambda run: run.seed), epochs or {}, len(sweep.seeds))
        for runs in grouped(mine, lambda record: record.job_id).values()
    ]
    return sorted(trials, key=_order)


def _order(trial: Trial) -> tuple[object, ...]:
    return (*((isinstance(value, str), value is not None, value) for value in trial.values.values()), trial.job_id)


def choose(trials: Iterable[Trial]) -> Trial | None:
    """Return the winner: the trial with the highest validation accuracy; of several, the lowest learning rate.

    A trial that was stopped early, and so has the score of fewer epochs, wins only if none was trained to the end.
    Trials that diverged, failed or are not done are never chosen; None if there are no others.
    """
    scored = [trial for trial in trials if trial.score is not None]
    for status in (Status.OK, Status.STOPPED):
        fit = [trial for trial in scored if trial.status is status]
        if fit:
            return max(fit, key=lambda trial: (trial.score or 0.0, -trial.records[0].lr, trial.job_id))
    return None


def expected_best(scores: Sequence[float]) -> list[float]:
    """Return the expected best score of 1 trial, of 2, ... of all of these trials.

    It is the mean, over all choices of k of the n trials, of the best score among them: with scores in ascending order,
    sum over i of C(i - 1, k - 1) / C(n, k) * score_i. This is the unbiased form (Tang et al., Showing Your Work
    Doesn't Always Work, ACL 2020) of the expected validation performance of Dodge et al., Show Your Work, EMNLP 2019.
    """
    ordered = sorted(scores)
    n = len(ordered)
    best = []
    for k in range(1, n + 1):
        choices = math.comb(n, k)
        value = math.fsum(math.comb(i, k - 1) / choices * score for i, score in enumerate(ordered))
        best.append(min(ordered[-1], value))  # rounding must not make it better than the best
    return best


def scores_of(trials: Iterable[Trial]) -> list[float]:
    """Return the scores of trials for :func:`expected_best`; one that diverged counts as a guess among the classes."""
    scores = []
    for trial in trials:
        if trial.status is Status.DIVERGED:
            scores.append(1 / trial.records[0].classes)
        elif trial.status in (Status.OK, Status.STOPPED) and trial.score is not None:
            scores.append(trial.score)
    return scores


@dataclass(frozen=True)
class Cost:
    """The cost of a search."""

    trials: int
    stopped: int
    diverged: int
    unfinished: int
    """The number of trials that failed, were interrupted, or took too long."""
    epochs: int
    cpu_seconds: float
    """The seconds that trials on CPUs took, times the threads of each."""
    gpu_seconds: float
    """The seconds that trials on GPUs took, times the share of a GPU of each."""

    def __str__(self) -> str:
        cpu = [f"{count(self.cpu_seconds)} CPU s"] if self.cpu_seconds or not self.gpu_seconds else []
        gpu = [f"{count(self.gpu_seconds)} GPU s"] if self.gpu_seconds else []
        return ", ".join([counted(self.trials, "trial"), counted(self.epochs, "epoch"), *cpu, *gpu])


def cost_of(sweep: Sweep, trials: Sequence[Trial]) -> Cost:
    """Return the cost of these trials of a sweep."""
    statuses = [trial.status for trial in trials]
    on_gpu = [trial for trial in trials if trial.records[0].device not in (None, "cpu")]
    on_cpu = [trial for trial in trials if trial.records[0].device in (None, "cpu")]
    return Cost(
        trials=len(trials),
        stopped=statuses.count(Status.STOPPED),
        diverged=statuses.count(Status.DIVERGED),
        unfinished=sum(status not in (Status.OK, Status.STOPPED, Status.DIVERGED) for status in statuses),
        epochs=sum(trial.epochs_done for trial in trials),
        cpu_seconds=sum(trial.seconds * (trial.records[0].threads or 1) for trial in on_cpu),
        gpu_seconds=sum(trial.seconds * (sweep.gpus_per_trial or 1) for trial in on_gpu),
    )


def at_the_edge(sweep: Sweep, trials: Sequence[Trial], best: Trial) -> list[str]:
    """Return a warning for each swept number whose best value is the lowest or highest that was tried."""
    warnings = []
    for name, value in best.values.items():
        tried = sorted({number for trial in trials if (number := number_of(trial.values[name])) is not None})
        best_value = number_of(value)
        if best_value is None or len(tried) < (2 if name in sweep.space.ranges else 3):
            continue
        limits = sweep.space.ranges.get(name)
        low, high = (limits.low, limits.high) if limits else (tried[0], tried[-1])
        for end, which, where, further in (
            (tried[0], "lowest", "below", (low / 10, tried[0])),
            (tried[-1], "highest", "above", (tried[-1], high * 10)),
        ):
            if best_value == end:
                hint = "; --lr {:.1g} {:.1g} looks there".format(*further) if sweep.space.names == ["lr"] else ""
                warnings.append(
                    f"the best {name}, {best_value:g}, is the {which} tried: a better one may lie {where}{hint}"
                )
    return warnings


def number_of(value: Value) -> float | None:
    """Return a swept value as a number; None for words, yes and no."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


# --- the store -------------------------------------------------------------------------------------------------------


def read_sweeps(root: Place) -> list[Sweep]:
    """Return the sweeps of a results folder, the latest first; files that are no sweeps are left out."""
    sweeps = []
    for content in files.read_each([root / FOLDER / name for name in files.listed(root / FOLDER, ".json")]):
        if isinstance(content, bytes):
            with suppress(ValidationError):
                sweeps.append(Sweep.model_validate_json(content))
    return sorted(sweeps, key=lambda sweep: sweep.time_key, reverse=True)


def write_sweep(store: Store, sweep: Sweep) -> None:
    """Store the settings of a sweep.

    Raises:
        UserError: they cannot be written.
    """
    store.write_text(f"{FOLDER}/{sweep.sweep_id}.json", sweep.model_dump_json(indent=2) + "\n")


@dataclass(frozen=True)
class Swept:
    """A sweep, its trials, and the runs that used its result."""

    sweep: Sweep
    trials: list[Trial]
    best: Trial | None
    retrained: list[Record]
    """The runs on all training images with the best values of the sweep."""

    @property
    def cost(self) -> Cost:
        """Return the cost of the search alone."""
        return cost_of(self.sweep, self.trials)

    @property
    def source(self) -> str:
        """Return where a learning rate came from, in words, for the records of runs that use it."""
        others = [name for name in self.sweep.space.names if name != "lr"]
        also = f" (also {', '.join(others)})" if others else ""
        return f"sweep {self.sweep.sweep_id}{also}: {self.cost}"


def read_swept(store: Store, records: Sequence[Record] | None = None) -> list[Swept]:
    """Return all sweeps of a results folder with their trials, by data set and model, the latest first."""
    if records is None:
        records = store.records()[0]
    results = []
    for sweep in read_sweeps(store.root):
        runs = [record for record in records if record.sweep_id == sweep.sweep_id]
        store.read_ahead("epochs", [record.run_id for record in runs])
        trials = trials_of(sweep, runs, {record.run_id: store.epochs(record.run_id) for record in runs})
        retrained = [
            record
            for record in records
            if record.judged_on == "test"
            and record.model == sweep.model
            and (record.lr_source or "").startswith(f"sweep {sweep.sweep_id}")
        ]
        results.append(Swept(sweep, trials, choose(trials), retrained))
    return sorted(results, key=lambda swept: (swept.sweep.dataset.name, swept.sweep.model))
