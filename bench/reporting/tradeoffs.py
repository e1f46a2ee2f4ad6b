"""The plots of what accuracy costs: against latency and against size, a point for each model and back end."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.reporting import stats
from bench.reporting.entries import Entry
from bench.reporting.placing import label_point
from bench.reporting.speed import EAGER
from bench.reporting.style import (
    MARKERS,
    PALETTE,
    Look,
    draw_mean,
    figure_of,
    legend_of,
    line_of,
    log_axis,
    look_of,
    note_below,
    shortened,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_IN_COLOUR = 12
"""The most jobs that each have a colour and a line in the legend; of more, only those on the front have."""
GREY = "#8a8f98"
"""The colour of the others; its contrast is 3:1 at least on either page."""
_LONGEST = 40
"""The most letters of a label beside a point."""


@dataclass(frozen=True)
class Point:
    """A model on a back end: what it costs, and how accurate it is there."""

    entry: Entry
    backend: str
    cost: float
    accuracies: Sequence[float]
    """Test accuracies in percent: of each seed or, on a back end other than eager, of the trained model."""
    slow: float | None = None
    """A cost that only a few samples exceed."""

    @property
    def accuracy(self) -> float:
        """Return the mean accuracy, in percent."""
        return statistics.fmean(self.accuracies)


def timed_on(entry: Entry) -> str | None:
    """Return the machine and back end that one image at a time was timed on with nothing else running; None if none."""
    single = entry.speeds.single
    if single is None or single.contended:
        return None
    return entry.machine_of(single) + ("" if single.backend == EAGER else f", {single.backend}")


def has_sizes(entries: Sequence[Entry]) -> bool:
    """Return whether the size of what is deployed is known of all jobs."""
    return bool(entries) and all(any(row.deployed_bytes for row in entry.deployments.values()) for entry in entries)


@styled
def accuracy_against_size(entries: Sequence[Entry], looks: Mapping[str, Look], *, dataset: str) -> Figure:
    """Draw mean test accuracy against the size of the files that are deployed, of each model and back end."""
    points = [
        Point(entry, row.backend, row.deployed_bytes / 1e6, _accuracies(entry, row.backend))
        for entry in entries
        for row in entry.deployments.values()
        if row.deployed_bytes and row.status == "ok"
    ]
    return _drawn(points, looks, f"Test accuracy on {dataset} against size", "size of what is deployed (MB)", "")


@styled
def accuracy_against_parameters(entries: Sequence[Entry], looks: Mapping[str, Look], *, dataset: str) -> Figure:
    """Draw mean test accuracy against the number of parameters."""
    points = [
        Point(entry, EAGER, size, _accuracies(entry, EAGER))
        for entry in entries
        if (size := entry.records[0].total_parameters)
    ]
    title = f"Test accuracy on {dataset} against model size"
    return _drawn(points, looks, title, "parameters, trained and frozen", "")


@styled
def accuracy_against_latency(entries: Sequence[Entry], looks: Mapping[str, Look], *, dataset: str) -> Figure:
    """Draw mean test accuracy against the median time for one image, of each model and back end.

    Args:
        entries: the jobs to draw, timed on one machine; those that were not timed alone are left out.
    """
    points = [point for entry in entries for point in _latencies(entry)]
    machines = sorted({machine for point in points if (machine := timed_on(point.entry)) is not None})
    where = f"One image at a time, nothing else running ({'; '.join(machines)}). Dotted: up to the slowest 5 %. "
    title = f"Test accuracy on {dataset} against latency"
    return _drawn(points, looks, title, "milliseconds for one image, median", where)


def _latencies(entry: Entry) -> Iterator[Point]:
    """Yield a point for each back end that was timed alone, on the machine that the first one was timed on."""
    if timed_on(entry) is None or entry.speeds.single is None:
        return
    for backend, answers in entry.speeds.by_backend.items():
        single = answers.single
        if single is None or single.contended or single.machine != entry.speeds.single.machine:
            continue
        median, slow = (1000 * (single.latency[name] or 0.0) for name in ("p50", "p95"))
        yield Point(entry, backend, median, _accuracies(entry, backend), slow)


def _accuracies(entry: Entry, backend: str) -> list[float]:
    """Return the test accuracies in percent, of each seed or, of another back end than eager, of one trained model."""
    row = entry.deployments.get(backend)
    if backend != EAGER and row is not None and row.accuracy is not None:
        return [100 * row.accuracy]
    return [100 * value for value in entry.accuracies.values()]


def _drawn(points: Sequence[Point], looks: Mapping[str, Look], title: str, cost: str, note: str) -> Figure:
    """Draw points, the front, and what names them: a legend, and labels where there is room."""
    points = [point for point in points if point.accuracies]
    jobs = list({id(point.entry): point.entry for point in points}.values())
    many = len(jobs) > MOST_IN_COLOUR
    figure = figure_of(title, 4.4 if many else 3.6)
    axis = figure.subplots()
    front = _on_front(points)
    shown_looks = _looks_of(points, front, looks, many=many)
    for point, look in zip(points, shown_looks, strict=True):
        _draw(axis, point, look)
    drawn = _draw_front(axis, [(point.cost, point.accuracy) for point in points])
    axis.set(xlabel=cost, ylabel="test accuracy (%)")
    if points:
        log_axis(axis.xaxis, [point.cost for point in points])
    axis.margins(x=0.15, y=0.12)
    _name_points(axis, points, front, many=many)
    several = any(len(point.accuracies) >= stats.FEWEST_SEEDS for point in points)
    bars = "Bar: spread over the seeds (95 % t-interval). " if several else ""
    others = " Grey points: the others." if many else ""
    note_below(axis, f"{note}{bars}{drawn}{others}".strip())
    if many:
        lines = [(_label(points[place]), shown_looks[place]) for place in front]
    else:
        lines = [(entry.label, look_of(entry, looks)) for entry in jobs]
    legend_of(figure, [line_of(label, look, linestyle="none") for label, look in lines])
    return figure


def _on_front(points: Sequence[Point]) -> list[int]:
    """Return the places of the points on the Pareto front, by cost."""
    places = {(point.cost, point.accuracy): place for place, point in reversed(list(enumerate(points)))}
    return [places[each] for each in stats.pareto_front(list(places))]


def _looks_of(points: Sequence[Point], front: Sequence[int], looks: Mapping[str, Look], *, many: bool) -> list[Look]:
    """Return the look of each point: its job's or, of many, grey unless it is on the front."""
    if not many:
        return [look_of(point.entry, looks) for point in points]
    coloured = {
        place: Look(PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)])
        for number, place in enumerate(front)
    }
    return [coloured.get(place, Look(GREY, ".")) for place in range(len(points))]


def _draw(axis: Axes, point: Point, look: Look) -> None:
    """Draw a point: hollow on another back end than eager, with its interval over the seeds if there is one."""
    style: dict[str, Any] = {} if point.backend == EAGER or look.colour == GREY else {"markerfacecolor": "none"}
    draw_mean(axis, point.accuracies, point.cost, look, **style)
    if point.slow is not None and look.colour != GREY:
        across = [point.cost, point.slow], [point.accuracy] * 2
        axis.plot(*across, color=look.colour, linewidth=1, linestyle=":")


def _draw_front(axis: Axes, points: Sequence[tuple[float, float]]) -> str:
    """Draw the Pareto front of points (cost, accuracy): those that no other one betters in both.

    Return what the note below has to say of it: nothing if the front is one point.
    """
    front = stats.pareto_front(points)
    if len(front) < 2:
        return ""
    axis.plot(*zip(*front, strict=True), color="0.6", linewidth=1, drawstyle="steps-post", zorder=0)
    return "Grey line: the best for their cost (Pareto front)."


def _name_points(axis: Axes, points: Sequence[Point], front: Sequence[int], *, many: bool) -> None:
    """Label points: of few, the back ends that the legend does not name; of many each, those on the front first."""
    places = [*front, *(place for place in range(len(points)) if place not in front)]
    if many:
        names = shortened([_label(points[place]) for place in places], _LONGEST)
    else:
        names = ["" if points[place].backend == EAGER else points[place].backend for place in places]
    for place, name in zip(places, names, strict=True):
        if name:
            label_point(axis, points[place].cost, points[place].accuracy, name)


def _label(point: Point) -> str:
    return point.entry.label if point.backend == EAGER else f"{point.entry.label}, {point.backend}"
