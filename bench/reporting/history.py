"""Accuracy and speed of each job over several versions of the results, and the changes that are more than noise.

Every version is compared with the one before, and the last with the first, so that a slow drift is seen too. All these
comparisons together are one family (Holm's method): if nothing changed, nothing is flagged in at least 95 % of cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING

from bench.reporting import style
from bench.reporting.answer import Answer
from bench.reporting.entries import DataKey, Entry, comparisons, data_key, title_of
from bench.reporting.formats import brackets, counted, percent
from bench.reporting.speed import Speed
from bench.reporting.stats import mean_interval, wilson
from bench.reporting.store import Store
from bench.reporting.table import Cell, Column, Table, as_text, table_of, text_column
from bench.reporting.verdicts import (
    CHECKPOINTS,
    INFERENCE,
    LATENCY_P50,
    RECIPES,
    TRAINING,
    Metric,
    Side,
    Verdict,
    Word,
    checkpoints,
    recipes,
    speed_of,
    speed_value,
    speeds_difference,
    with_holm,
)
from bench.spec import Recipe, Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METRICS = (RECIPES, TRAINING, INFERENCE, LATENCY_P50)


@dataclass(frozen=True)
class Version:
    """The results of one version."""

    name: str
    store: Store
    records: Sequence[Record]


@dataclass(frozen=True)
class Point:
    """A job in one version."""

    version: Version
    entry: Entry

    @property
    def side(self) -> Side:
        """Return the job as a side of a comparison, named after the version."""
        return Side(self.version.name, self.entry, self.version.store)


@dataclass(frozen=True)
class History:
    """A job over the versions that have it."""

    label: str
    points: list[Point]
    changes: list[Verdict] = field(default_factory=list)
    """Each version compared with the one before, then the last with the first, metric by metric."""

    @property
    def flagged(self) -> list[Verdict]:
        """Return the changes that are more than noise; that from first to last only where no step shows one."""
        found = [change for change in self.changes if change.word in (Word.BETTER, Word.WORSE)]
        by_steps = {change.metric.key for change in found if not self.is_drift(change)}
        return [change for change in found if not self.is_drift(change) or change.metric.key not in by_steps]

    def is_drift(self, change: Verdict) -> bool:
        """Return whether a change is from the first of several versions to the last."""
        names = [point.version.name for point in self.points]
        return len(names) > 2 and (change.first, change.second) == (names[0], names[-1])


def histories(versions: Sequence[Version]) -> dict[DataKey, list[History]]:
    """Return the history of each job on each data set, those on one data set sorted by label.

    Jobs of different versions are the same if model, recipe and initial weights are. Only jobs that two versions have
    are included.
    """
    found: dict[DataKey, dict[tuple[object, ...], History]] = {}
    for version in versions:
        for comparison in comparisons(version.records, version.store):
            for entry in comparison.entries:
                first = entry.records[0]
                recipe = (getattr(first, name) for name in Recipe.model_fields)
                jobs = found.setdefault(data_key(first), {})
                key = first.model, first.workers, first.weights_sha256, *recipe
                jobs.setdefault(key, History(entry.label, [])).points.append(Point(version, entry))
    kept = {key: [each for each in jobs.values() if len(each.points) > 1] for key, jobs in sorted(found.items())}
    done = iter(judged([history for jobs in kept.values() for history in jobs]))
    return {
        key: sorted((next(done) for _ in jobs), key=lambda history: history.label) for key, jobs in kept.items() if jobs
    }


def judged(found: Sequence[History]) -> list[History]:
    """Return the histories with their changes, all of which are one family of comparisons."""
    compared = [_changes(history) for history in found]
    adjusted = iter(with_holm([change for changes in compared for change in changes]))
    return [
        replace(history, changes=[next(adjusted) for _ in changes])
        for history, changes in zip(found, compared, strict=True)
    ]


def _changes(history: History) -> list[Verdict]:
    points = history.points
    pairs = list(itertools.pairwise(points))
    if len(points) > 2:
        pairs.append((points[0], points[-1]))
    return [_change(metric, *pair) for pair in pairs for metric in _METRICS]


def _change(metric: Metric, first: Point, second: Point) -> Verdict:
    """Compare a job in two versions by one metric."""
    if metric is RECIPES:
        verdict = recipes(first.side, second.side)
        if verdict.difference is None:  # too few seeds: the trained models of one seed, on the same images
            stand_in = checkpoints(first.side, second.side)
            verdict = replace(stand_in, metric=CHECKPOINTS, first=first.version.name, second=second.version.name)
        return verdict
    sides = [speed_of(metric, point.entry) for point in (first, second)]
    values = [None if side is None else speed_value(metric, side) for side in sides]
    before, after = sides
    difference, why = None, ""
    if before is None or after is None:
        why = "one of them was not timed"
    elif before.contended or after.contended:
        why = "other jobs used the machine meanwhile"
    elif _conditions(before) != _conditions(after):
        why = f"timed under different conditions ({_conditions(before)}; {_conditions(after)})"
    else:
        torch = {point.entry.records[0].torch_version for point in (first, second)}
        machines = {point.entry.machine_of(side) for point, side in zip((first, second), (before, after), strict=True)}
        if len(torch) > 1 and len(machines) > 1:
            why = "timed on different machines with different versions of torch, whose reference steps differ"
        else:
            difference = speeds_difference(metric, before, after, same_reference=len(torch) == 1)
    return Verdict(metric, first.version.name, second.version.name, values[0], values[1], difference, why)


def _conditions(speed: Speed) -> str:
    """Return what must be the same for two speeds to be compared; the processor's pace need not."""
    return f"{speed.machine}, {speed.backend}, {speed.precision}, {speed.batch_size} at once"


def relative_speed(metric: Metric, point: Point, first: Point) -> float | None:
    """Return how many times as fast as in the first version, each in units of its reference step; None if unknown."""
    sides = [speed_of(metric, each.entry) for each in (point, first)]
    steps = []
    for side in sides:
        value = None if side is None or side.contended else speed_value(metric, side)
        if side is None or value is None or side.reference_seconds is None:
            return None
        steps.append(value * side.reference_seconds if metric.higher_is_better else side.reference_seconds / value)
    if sides[0] is None or sides[1] is None or _conditions(sides[0]) != _conditions(sides[1]):
        return None
    return steps[0] / steps[1]


# --- in words ------------------------------------------------------------------------------------------------------


def findings(history: History) -> list[str]:
    """Return the changes of a job that are more than noise, a sentence each; or that there are none."""
    names = [point.version.name for point in history.points]
    sentences = []
    for change in history.flagged:
        what = "accuracy" if change.metric in (RECIPES, CHECKPOINTS) else change.metric.name
        drift = " (little by little)" if history.is_drift(change) else ""
        p = change.p if change.p.startswith("<") else f"= {change.p}"
        sentences.append(
            f"{history.label}: {what} became {change.word} from {change.first} to {change.second}{drift}: "
            f"{change.change} {change.interval} (p {p})."
        )
    return sentences or [f"{history.label}: no change beyond noise over {counted(len(names), 'version')}."]


def _columns(history: History) -> list[Column[Point]]:
    def speed(metric: Metric) -> Callable[[Point], Cell]:
        def read(point: Point) -> Cell:
            timed = speed_of(metric, point.entry)
            value = None if timed is None else speed_value(metric, timed)
            relative = relative_speed(metric, point, history.points[0])
            if value is None:
                return Cell("-")
            return Cell(metric.show(value) + (f" (x {relative:.2f})" if relative is not None else ""), value)

        return read

    return [
        text_column("Version", lambda point: point.version.name),
        Column("Test accuracy", _accuracy),
        Column("Training throughput", speed(TRAINING)),
        Column("Inference throughput", speed(INFERENCE)),
        Column("Latency p50", speed(LATENCY_P50)),
        text_column("Last run (UTC)", lambda point: f"{max(r.ended_at for r in point.entry.records):%Y-%m-%d %H:%M}"),
    ]


def _accuracy(point: Point) -> Cell:
    values = list(point.entry.accuracies.values())
    if not values:
        return Cell("-")
    interval = mean_interval(values)
    if interval is None:
        images = point.entry.records[0].test_images
        interval = wilson(round(values[0] * images), images)
    return Cell(f"{percent(fmean(values))} {brackets(interval)}, n = {len(values)}", fmean(values))


NOTE = (
    "(x 1.05): times as fast as in the first version, both in units of a reference step timed beside them. In brackets "
    "where it likely lies (95 % interval): over the seeds from three on, else over the test images."
)


def table(history: History) -> Table:
    """Return a row for each version of a job."""
    return table_of(_columns(history), history.points)


def as_words(found: dict[DataKey, list[History]]) -> str:
    """Return the history for a terminal: first what changed, then the tables."""
    if not found:
        return "No job is in two versions: nothing to compare."
    parts = []
    for key, jobs in found.items():
        parts.append(title_of(key))
        parts.append("\n".join(sentence for history in jobs for sentence in findings(history)))
        parts += [f"{history.label}\n\n{as_text(table(history))}" for history in jobs]
    return "\n\n".join([*parts, NOTE])


# --- a page --------------------------------------------------------------------------------------------------------


def as_page(found: dict[DataKey, list[History]]) -> str:
    """Return the history as HTML, with a plot of each job."""
    from html import escape

    from markupsafe import Markup

    from bench.reporting.html import Section, Shown, page

    sections, leads = [], []
    for number, (key, jobs) in enumerate(found.items(), 1):
        section = Section(f"data-{number}", title_of(key))
        for place, history in enumerate(jobs):
            section.tables.append(Shown(history.label, table(history), sortable=False))
            figure = plot(history)
            drawn = style.inline(style.svg(figure), name=f"h{number}-{place}", title=escape(style.plain(history.label)))
            section.plots.append(Markup(drawn))  # noqa: S704 - ours
        section.notes.append(NOTE)
        sections.append(section)
        said = [sentence for history in jobs for sentence in findings(history)]
        leads.append((title_of(key), Answer([]), said))
    versions = max((len(history.points) for jobs in found.values() for history in jobs), default=0)
    return page(f"History over {counted(versions, 'version')}.", leads, sections)


@style.styled
def plot(history: History) -> Figure:
    """Draw accuracy, and speeds relative to the first version, over the versions; flagged changes are marked."""
    figure = style.figure_of(history.label, 4.2)
    above, below = figure.subplots(2, 1, sharex=True)
    places = range(len(history.points))
    names = style.shortened([point.version.name for point in history.points], 14)
    means = [fmean(point.entry.accuracies.values()) for point in history.points]
    reaches = [mean_interval(list(point.entry.accuracies.values())) for point in history.points]
    above.plot(places, [100 * mean for mean in means], marker="o", markersize=4, linewidth=1)
    for place, reach in zip(places, reaches, strict=True):
        if reach is not None:
            above.plot([place, place], [100 * reach.low, 100 * reach.high], linewidth=1, color="C0")
    above.set(ylabel="test accuracy (%)")
    for number, metric in enumerate((TRAINING, INFERENCE, LATENCY_P50)):
        values = [relative_speed(metric, point, history.points[0]) for point in history.points]
        known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
        if known:
            label = metric.name.removesuffix(" of one image")
            below.plot(*zip(*known, strict=True), marker="osD"[number], markersize=4, linewidth=1, label=label)
    below.set(ylabel="speed, first = 1")
    below.set_xticks(list(places), names, rotation=30, ha="right")
    if below.lines:
        below.legend(fontsize="small")
    numbers = {point.version.name: place for place, point in enumerate(history.points)}
    for change in history.flagged:
        axis = above if change.metric in (RECIPES, CHECKPOINTS) else below
        axis.axvline(numbers[change.second], color="0.5", linestyle=":", linewidth=1)
    return figure
