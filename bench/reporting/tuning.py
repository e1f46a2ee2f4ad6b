"""Sweeps: what was asked for, which trial won, what the search cost; results/tuning.md and a section of the summary.

A trial is one point of the space, trained once for each of the sweep's seeds; all of it is read from the store.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from tabulate import tabulate

from bench.errors import UserError
from bench.reporting.store import Store
from bench.reporting.tables import MISSING, count, one_line, percent
from bench.space import Space, Value, Values, describe_values
from bench.spec import DatasetInfo, EpochRecord, Recipe, Record, Status, slug

FOLDER = "sweeps"
PAGE = "tuning.md"


class Sweep(BaseModel):
    """What a sweep of one model was asked to do: results/sweeps/ID.json. What came of it is in the records."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sweep_id: str
    model: str
    dataset: DatasetInfo
    weights: str
    weights_sha256: str | None
    plugin_sha256: str | None
    recipe: Recipe
    """What all trials share; the swept fields have their defaults here."""
    space: Space
    seeds: tuple[int, ...]
    """Each trial is trained with each of them."""
    search: str
    """'random', 'optuna' or 'grid'."""
    search_seed: int
    scheduler: str
    """'asha' or 'fifo'."""
    grace_period: int
    reduction_factor: float
    trials: int
    """How many were asked for last."""
    gpus_per_trial: float
    started_at: datetime
    """UTC."""
    finished_at: datetime | None
    """When its last trial ended and its winner was known, UTC; None before."""

    def values_of(self, record: Record) -> Values:
        """The swept fields of a trial."""
        return {name: getattr(record, name) for name in self.space.names}


@dataclass(frozen=True)
class Trial:
    """One point of the space, and what training there gave."""

    values: Values
    records: Sequence[Record]
    """By seed; fewer than the sweep has seeds where the trial is not done or was ended before."""
    epochs: Mapping[str, Sequence[EpochRecord]]
    """By run id."""
    seeds: int
    """How many runs make a whole trial."""

    @property
    def job_id(self) -> str:
        """What its runs share."""
        return self.records[0].job_id

    @property
    def status(self) -> Status:
        """Ok when every seed is; else what ended it."""
        for record in self.records:
            if record.status is not Status.OK:
                return record.status
        return Status.OK if len(self.records) >= self.seeds else Status.INTERRUPTED

    @property
    def score(self) -> float | None:
        """Validation accuracy after the last epoch trained, mean over the seeds; None if it has none or diverged."""
        scores = [self._score(record) for record in self.records]
        known = [score for score in scores if score is not None]
        has_one = self.status in (Status.OK, Status.STOPPED, Status.INTERRUPTED) and known
        return statistics.fmean(known) if has_one else None

    def _score(self, record: Record) -> float | None:
        if record.validation_accuracy is not None:
            return record.validation_accuracy
        epochs = self.epochs.get(record.run_id)
        return epochs[-1].validation_accuracy if epochs else None

    def accuracies(self, record: Record) -> list[float]:
        """Validation accuracy after each epoch of one of its runs."""
        found = [epoch.validation_accuracy for epoch in self.epochs.get(record.run_id, ())]
        return [accuracy for accuracy in found if accuracy is not None]

    @property
    def epochs_done(self) -> int:
        """Over all its seeds."""
        return sum(record.epochs_done or len(self.epochs.get(record.run_id, ())) for record in self.records)

    @property
    def seconds(self) -> float:
        """How long it held its CPUs or GPU: the last attempt, or all its epochs where that is more."""
        return sum(_seconds(record, self.epochs.get(record.run_id, ())) for record in self.records)


def _seconds(record: Record, epochs: Sequence[EpochRecord]) -> float:
    held = (record.ended_at - record.started_at).total_seconds()
    trained = record.train_seconds or sum(epoch.seconds for epoch in epochs)
    return max(held, trained + (record.validation_seconds or 0.0) + (record.setup_seconds or 0.0))


def trials_of(
    sweep: Sweep, records: Iterable[Record], epochs: Mapping[str, Sequence[EpochRecord]] | None = None
) -> list[Trial]:
    """The trials of a sweep that have records, by their values."""
    by_job: dict[str, list[Record]] = {}
    for record in records:
        if record.sweep_id == sweep.sweep_id and record.judged_on == "validation":
            by_job.setdefault(record.job_id, []).append(record)
    trials = [
        Trial(sweep.values_of(runs[0]), sorted(runs, key=lambda run: run.seed), epochs or {}, len(sweep.seeds))
        for runs in by_job.values()
    ]
    return sorted(trials, key=_order)


def _order(trial: Trial) -> tuple[object, ...]:
    return (*((isinstance(value, str), value is not None, value) for value in trial.values.values()), trial.job_id)


def choose(trials: Iterable[Trial]) -> Trial | None:
    """The winner: the highest validation accuracy; of several, the lowest learning rate.

    Trials that were trained to the end come before those that were stopped, whose scores are of fewer epochs. What
    diverged, failed or is not done is never chosen.
    """
    scored = [trial for trial in trials if trial.score is not None]
    for status in (Status.OK, Status.STOPPED):
        fit = [trial for trial in scored if trial.status is status]
        if fit:
            return max(fit, key=lambda trial: (trial.score or 0.0, -trial.records[0].lr, trial.job_id))
    return None


def expected_best(scores: Sequence[float]) -> list[float]:
    """The best score that so many of these trials lead one to expect: of 1, of 2, ... of all of them.

    The mean over all choices of k of the n trials of the best among them: with the scores in ascending order,
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
    """What each trial contributes to :func:`expected_best`: one that diverged knows no more than a guess."""
    scores = []
    for trial in trials:
        if trial.status is Status.DIVERGED:
            scores.append(1 / trial.records[0].classes)
        elif trial.status in (Status.OK, Status.STOPPED) and trial.score is not None:
            scores.append(trial.score)
    return scores


@dataclass(frozen=True)
class Cost:
    """What a search took."""

    trials: int
    stopped: int
    diverged: int
    unfinished: int
    """Failed, interrupted, or ended for taking too long."""
    epochs: int
    cpu_seconds: float
    """Time that trials on CPUs took, times the threads each of them had."""
    gpu_seconds: float
    """Time that trials on GPUs took, times the share of a GPU each of them had."""

    def __str__(self) -> str:
        cpu = [f"{count(self.cpu_seconds)} CPU s"] if self.cpu_seconds or not self.gpu_seconds else []
        gpu = [f"{count(self.gpu_seconds)} GPU s"] if self.gpu_seconds else []
        return ", ".join([counted(self.trials, "trial"), counted(self.epochs, "epoch"), *cpu, *gpu])


def counted(number: int, what: str) -> str:
    """'1 trial', '2 trials'."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def cost_of(sweep: Sweep, trials: Sequence[Trial]) -> Cost:
    """What these trials of a sweep took."""
    statuses = [trial.status for trial in trials]
    on_gpu = {trial.job_id: trial.records[0].device not in (None, "cpu") for trial in trials}
    return Cost(
        trials=len(trials),
        stopped=statuses.count(Status.STOPPED),
        diverged=statuses.count(Status.DIVERGED),
        unfinished=sum(status not in (Status.OK, Status.STOPPED, Status.DIVERGED) for status in statuses),
        epochs=sum(trial.epochs_done for trial in trials),
        cpu_seconds=sum(
            trial.seconds * (trial.records[0].threads or 1) for trial in trials if not on_gpu[trial.job_id]
        ),
        gpu_seconds=sum(trial.seconds * (sweep.gpus_per_trial or 1) for trial in trials if on_gpu[trial.job_id]),
    )


def at_the_edge(sweep: Sweep, trials: Sequence[Trial], best: Trial) -> list[str]:
    """A warning for each swept number whose best value is the lowest or highest that was tried."""
    warnings = []
    for name, value in best.values.items():
        tried = sorted({found for trial in trials if (found := _number(trial.values[name])) is not None})
        best_value = _number(value)
        if best_value is None or len(tried) < (2 if name in sweep.space.ranges else 3):
            continue
        limits = sweep.space.ranges.get(name)
        for end, edge, where, log_way in (
            (tried[0], limits.low if limits else tried[0], "below", 0.1),
            (tried[-1], limits.high if limits else tried[-1], "above", 10.0),
        ):
            if best_value == end:
                which = "lowest" if where == "below" else "highest"
                hint = ""
                if sweep.space.names == ["lr"]:
                    low, high = (edge * log_way, end) if where == "below" else (end, edge * log_way)
                    hint = f"; --lr {low:.1g} {high:.1g} looks there"
                warnings.append(
                    f"the best {name}, {best_value:g}, is the {which} tried: a better one may lie {where}{hint}"
                )
    return warnings


def _number(value: Value) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


# --- the store -------------------------------------------------------------------------------------------------------


def read_sweeps(root: Path) -> list[Sweep]:
    """The sweeps of a results folder, the latest first; a file that is none is left out."""
    sweeps = []
    for file in sorted((root / FOLDER).glob("*.json")):
        try:
            sweeps.append(Sweep.model_validate_json(file.read_bytes()))
        except (OSError, ValidationError):
            continue
    return sorted(sweeps, key=lambda sweep: (sweep.finished_at or sweep.started_at, sweep.sweep_id), reverse=True)


def write_sweep(store: Store, sweep: Sweep) -> None:
    """Store what a sweep was asked to do.

    Raises:
        UserError: it cannot be written.
    """
    try:
        (store.root / FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {store.root}: {error.strerror or error}") from error
    store.write_text(f"{FOLDER}/{sweep.sweep_id}.json", sweep.model_dump_json(indent=2) + "\n")


@dataclass(frozen=True)
class Swept:
    """A sweep, what came of it, and the runs that used it."""

    sweep: Sweep
    trials: list[Trial]
    best: Trial | None
    retrained: list[Record]
    """Runs on all training images at what the sweep found."""

    @property
    def cost(self) -> Cost:
        """Of the search alone."""
        return cost_of(self.sweep, self.trials)

    @property
    def source(self) -> str:
        """Where a learning rate came from, in words, for the records of runs that use it."""
        others = [name for name in self.sweep.space.names if name != "lr"]
        also = f" (also {', '.join(others)})" if others else ""
        return f"sweep {self.sweep.sweep_id}{also}: {self.cost}"


def read_swept(store: Store, records: Sequence[Record] | None = None) -> list[Swept]:
    """All sweeps of a results folder with their trials, by data set and model, the latest first."""
    if records is None:
        records = store.records()[0]
    found = []
    for sweep in read_sweeps(store.root):
        own = [record for record in records if record.sweep_id == sweep.sweep_id]
        trials = trials_of(sweep, own, {record.run_id: store.epochs(record.run_id) for record in own})
        retrained = [
            record
            for record in records
            if record.judged_on == "test"
            and record.model == sweep.model
            and (record.lr_source or "").startswith(f"sweep {sweep.sweep_id}")
        ]
        found.append(Swept(sweep, trials, choose(trials), retrained))
    return sorted(found, key=lambda swept: (swept.sweep.dataset.name, swept.sweep.model))


# --- the pages -------------------------------------------------------------------------------------------------------


def write_tuning(store: Store, swept: Sequence[Swept]) -> Path | None:
    """Make results/tuning.md; None where there was no sweep.

    Raises:
        UserError: it cannot be written.
    """
    if not swept:
        return None
    plots = sorted(f"plots/{file.name}" for file in (store.root / "plots").glob("*-accuracy-lr.svg"))
    return store.write_text(PAGE, render_tuning(swept, plots))


def sections(swept: Sequence[Swept]) -> list[str]:
    """The summary's section on sweeps, in parts of Markdown; empty where there was none."""
    if not swept:
        return []
    parts = ["## Sweeps", found_table(swept)]
    parts += [f"Warning: {one.sweep.model}: {warning}." for one in swept for warning in _warnings(one)]
    expected = expected_table(swept)
    if expected:
        parts += [_EXPECTED, expected]
    return [*parts, f"Every trial is in [{PAGE}]({PAGE})."]


def render_tuning(swept: Sequence[Swept], plots: Sequence[str] = ()) -> str:
    """results/tuning.md: what was found, what it cost, every trial.

    Args:
        swept: sweeps with their trials.
        plots: files of plots, relative to the page.
    """
    parts = ["# Sweeps"]
    parts.append(
        "Each trial was judged on training images that were held out, the same ones for every trial on a data set. "
        "The test images were first looked at by the winners, retrained on all training images."
    )
    parts.append(found_table(swept))
    expected = expected_table(swept)
    if expected:
        parts += ["## Expected best of k trials", _EXPECTED, expected]
    by_plot: dict[str, Swept] = {}
    for one in swept:
        parts.append(f"## {one.sweep.model} on {one.sweep.dataset.name} (sweep {one.sweep.sweep_id})")
        parts.append("\n".join(f"- {line}" for line in _about(one)))
        beginning = f"plots/{slug(one.sweep.dataset.name)}-"
        shown = [plot for plot in plots if plot.startswith(beginning)]
        if shown and by_plot.setdefault(shown[0], one) is one:  # a plot holds all models of its data set
            parts.append(f"![Validation accuracy against learning rate]({shown[0]})")
        if one.trials:
            parts.append(trials_table(one))
    return "\n\n".join(parts) + "\n"


_EXPECTED = (
    "How good the best of the first k trials is to be expected (validation accuracy): it compares models that were "
    "tuned with different budgets. Dodge et al., Show Your Work, EMNLP 2019, in the unbiased form of Tang et al., "
    "ACL 2020. A trial that diverged counts as a guess."
)


def _warnings(swept: Swept) -> list[str]:
    if swept.best is None:
        return ["no trial finished with a score, so there is nothing to choose from"] if swept.trials else []
    found = at_the_edge(swept.sweep, swept.trials, swept.best)
    if swept.best.status is Status.STOPPED:
        found.append("no trial was trained to the end; the best was stopped early")
    return found


def _about(swept: Swept) -> list[str]:
    sweep, best = swept.sweep, swept.best
    lines = []
    if best is not None and best.score is not None:
        over = f", mean of {sweep.seeds and len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else ""
        held = f"{sweep.recipe.validation_size:,} held-out images"
        lines.append(f"best: {describe_values(best.values)}: validation accuracy {percent(best.score)} on {held}{over}")
    lines.append(f"searched: {sweep.space.describe()}; {_how(sweep)}")
    lines.append(f"spent: {_spent(swept.cost)}")
    if swept.retrained:
        lines.append(f"retrained on all training images: test accuracy {_tested(swept.retrained)}")
    if sweep.finished_at is None:
        lines.append("not finished: the same command goes on")
    lines += [f"warning: {warning}" for warning in _warnings(swept)]
    return lines


def _how(sweep: Sweep) -> str:
    kinds = {"random": "drawn evenly", "grid": "every combination", "optuna": "proposed by Optuna"}
    stopping = f"ASHA from epoch {sweep.grace_period}, reduction {sweep.reduction_factor:g}"
    how = f"{kinds.get(sweep.search, sweep.search)}; {stopping if sweep.scheduler == 'asha' else 'none stopped early'}"
    if len(sweep.seeds) > 1 and sweep.scheduler == "asha":
        how += f" (judged by seed {sweep.seeds[0]}; what is left is trained with all {len(sweep.seeds)})"
    return how


def _spent(cost: Cost) -> str:
    details = [
        f"{number} {what}"
        for number, what in (
            (cost.stopped, "stopped early"),
            (cost.diverged, "diverged"),
            (cost.unfinished, "failed or not done"),
        )
        if number
    ]
    return str(cost) + (f"; {', '.join(details)}" if details else "")


def _tested(records: Sequence[Record]) -> str:
    accuracies = [record.test_accuracy for record in records if record.test_accuracy is not None]
    if not accuracies:
        return MISSING
    spread = f" ({percent(min(accuracies))} to {percent(max(accuracies))})" if len(accuracies) > 1 else ""
    return percent(statistics.fmean(accuracies)) + spread


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], *, style: str = "github") -> str:
    def cell(text: str) -> str:
        return one_line(text).replace("|", "\\|") if style == "github" else one_line(text)

    cells = [[cell(text) for text in row] for row in rows]
    return tabulate(cells, [cell(header) for header in headers], tablefmt=style, disable_numparse=True)


def found_table(swept: Sequence[Swept], style: str = "github") -> str:
    """One row for each sweep: the best values, what they gave, what the search cost; no columns that say nothing."""
    headers = ["Model", "Data set", "Best", "Validation", "Test, retrained", "Trials", "Stopped early", "Diverged"]
    rows = []
    for one in swept:
        cost, best = one.cost, one.best
        rows.append(
            [
                one.sweep.model,
                one.sweep.dataset.name,
                describe_values(best.values) if best else MISSING,
                percent(best.score) if best and best.score is not None else MISSING,
                _tested(one.retrained),
                count(cost.trials),
                count(cost.stopped),
                count(cost.diverged),
                count(cost.epochs),
                *_seconds_columns(cost),
                one.sweep.sweep_id,
            ]
        )
    headers += ["Epochs", "CPU s", "GPU s", "Sweep"]
    shown = [column for column in range(len(headers)) if any(row[column] != MISSING for row in rows)]
    kept = [[row[column] for column in shown] for row in rows]
    return _table(kept, [headers[column] for column in shown], style=style)


def _seconds_columns(cost: Cost) -> list[str]:
    return [count(seconds) if seconds else MISSING for seconds in (cost.cpu_seconds, cost.gpu_seconds)]


def expected_table(swept: Sequence[Swept], style: str = "github") -> str | None:
    """k against the expected best of k trials, a column for each sweep; None without any score."""
    curves = {one.sweep.sweep_id: expected_best(scores_of(one.trials)) for one in swept}
    shown = [one for one in swept if curves[one.sweep.sweep_id]]
    if not shown:
        return None
    longest = max(len(curves[one.sweep.sweep_id]) for one in shown)
    # every k up to 10, then about ten a decade: a table of 200 rows says no more
    ks = [k for k in range(1, longest + 1) if k <= 10 or k % 10 ** (len(str(k)) - 1) == 0 or k == longest]
    rows = [
        [
            str(k),
            *(percent(curve[k - 1]) if k <= len(curve := curves[one.sweep.sweep_id]) else MISSING for one in shown),
        ]
        for k in ks
    ]
    names = [one.sweep.model for one in shown]
    headers = [
        name if names.count(name) == 1 else f"{name} ({one.sweep.sweep_id})"
        for name, one in zip(names, shown, strict=True)
    ]
    return _table(rows, ["k", *headers], style=style)


def trials_table(swept: Swept) -> str:
    """All trials, the best marked."""
    headers = [*swept.sweep.space.names, "Validation", "Status", "Epochs", "Seconds", "Why"]
    rows = []
    for trial in swept.trials:
        score, mark = trial.score, " (best)" if trial is swept.best else ""
        why = next((record.reason for record in trial.records if record.reason), "")
        rows.append(
            [
                *(describe_values({name: value}).removeprefix(f"{name} ") for name, value in trial.values.items()),
                percent(score) + mark if score is not None else MISSING,
                str(trial.status),
                str(trial.epochs_done),
                f"{trial.seconds:.1f}",
                one_line(why),
            ]
        )
    return _table(rows, headers)
