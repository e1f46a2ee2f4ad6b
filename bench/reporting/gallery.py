"""The plots of a results folder: chosen, drawn, and saved as SVG and PNG into results/plots/.

However many runs are stored, only the epochs, predictions and timings of a few jobs are read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import first_line
from bench.reporting import files, images, plots, style, tradeoffs
from bench.reporting.entries import Comparison, DataKey, Entry, data_key
from bench.reporting.files import disk_errors, write_whole
from bench.reporting.groups import grouped
from bench.reporting.images import KeptImages
from bench.reporting.mistakes import MOST_SEEDS, Answered, answered, best_jobs, class_names, ranked, usual_classes
from bench.reporting.scores import MOST_CLASSES
from bench.reporting.store import Store
from bench.reporting.style import Look
from bench.reporting.sweeps import Swept, read_swept
from bench.reporting.train_sizes import curves
from bench.spec import Record, slug

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_JOBS = 12
"""The most jobs in one plot, but in those of what accuracy costs."""
MOST_POINTS = 100
"""The most jobs in a plot of what accuracy costs."""
MOST_CURVES = 6
"""The most jobs among the learning curves."""
MOST_IMAGES = 30
"""The most images in a grid of wrong answers."""
OURS = re.compile(
    r".*-(learning-curves|accuracy(-(parameters|size|latency|lr|train-size).*)?|confusion-.+|wrong-.+)\.(svg|png)"
)
"""The pattern of the names of the files that this module writes; those of plots no longer drawn are deleted."""


@dataclass(frozen=True)
class Plot:
    """A drawn figure."""

    name: str
    """The name of its files in plots/, without the ending."""
    title: str
    """The title of the figure, on one line."""
    svg: str


@dataclass(frozen=True)
class Gallery:
    """The plots of one data set."""

    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """The reasons why something is not drawn, in sentences."""


def draw(
    store: Store, records: Sequence[Record], compared: Sequence[Comparison], swept: Sequence[Swept] | None = None
) -> dict[DataKey, Gallery]:
    """Draw and save all plots, and delete those of earlier reports that are no longer drawn.

    Args:
        store: the results folder.
        records: all records that it holds.
        compared: its comparisons, with timings.
        swept: its sweeps with their trials; None reads them.

    Returns:
        The plots by data set, sorted by name, including data sets with nothing to compare.

    Raises:
        UserError: the results folder cannot be written.
    """
    looks = style.looks(record.model for record in records)
    entries = {data_key(comparison.entries[0].records[0]): comparison.entries for comparison in compared}
    swept = read_swept(store, records) if swept is None else swept
    folder = store.root / "plots"
    galleries = {}
    prefixes: set[str] = set()
    written: set[str] = set()
    with disk_errors(folder):
        files.make_folder(folder)
        for key in sorted({data_key(record) for record in records}):
            prefix = slug(key[0])
            if prefix in prefixes:  # another data set of that name
                prefix = f"{prefix}-{_digest(repr(key))}"
            prefixes.add(prefix)
            gallery = galleries[key] = Gallery()
            on_it = [result for result in swept if result.trials and data_key(result.trials[0].records[0]) == key]
            for what, figures in _figures(store, key[0], entries.get(key, []), on_it, looks, gallery.notes):
                for ending, title, svg, png in _rendered(what, figures, gallery.notes):
                    name = f"{prefix}-{ending}"
                    write_whole(folder / f"{name}.svg", svg.encode())
                    write_whole(folder / f"{name}.png", png)
                    written |= {f"{name}.svg", f"{name}.png"}
                    gallery.plots.append(Plot(name, title, svg))
        earlier = [name for name in files.listed(folder) if name not in written and OURS.fullmatch(name)]
        files.remove(folder / name for name in earlier)
    return galleries


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


Figures = Iterator[tuple[str, "Figure"]]
"""Figures with their names, drawn one by one."""


def _rendered(what: str, figures: Figures, notes: list[str]) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield (name, title, SVG, PNG) of each figure; a record that cannot be drawn is noted, and ends only these."""
    try:
        for name, figure in figures:
            yield name, figure.get_suptitle().replace("\n", " "), style.svg(figure), style.png(figure)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        notes.append(f"{what} cannot be drawn from what is stored ({type(error).__name__}: {first_line(error)}).")


def _figures(
    store: Store,
    dataset: str,
    jobs: Sequence[Entry],
    swept: Sequence[Swept],
    looks: Mapping[str, Look],
    notes: list[str],
) -> Iterator[tuple[str, Figures]]:
    """Yield (description, figures) for each kind of plot of one data set; add to ``notes`` what cannot be drawn."""
    entries = [entry for entry in jobs if entry.accuracies]
    looks = style.with_jobs(looks, entries)
    if entries:
        shown = sorted(best_jobs(entries, MOST_JOBS), key=entries.index)
        if len(shown) < len(entries):
            notes.append(
                f"Of {len(entries):,} jobs the plots show {len(shown)}: each model's best, then the next. Those of "
                f"accuracy against latency and size show {'all' if len(entries) <= MOST_POINTS else MOST_POINTS}."
            )
        several = sorted(best_jobs(entries, MOST_POINTS), key=entries.index)
        yield "The accuracies", _accuracy(shown, looks, dataset)
        yield "Accuracy against parameters", _sizes(several, looks, dataset)
        yield "Accuracy against latency", _latency(several, looks, notes)
        yield "Accuracy against the number of training images", _train_sizes(entries, looks)
        curves = sorted(best_jobs(shown, MOST_CURVES), key=entries.index)
        yield "The learning curves", _learning(store, curves, looks, notes)
    yield "Accuracy against learning rate", _sweeps(dataset, swept, looks)
    if entries:
        yield "What is taken for what", _mistakes(store, entries, notes)


def _accuracy(entries: Sequence[Entry], looks: Mapping[str, Look], dataset: str) -> Figures:
    yield "accuracy", plots.accuracy_over_seeds(ranked(entries), looks, dataset=dataset)


def _sizes(entries: Sequence[Entry], looks: Mapping[str, Look], dataset: str) -> Figures:
    if tradeoffs.has_sizes(entries):
        yield "accuracy-size", tradeoffs.accuracy_against_size(entries, looks, dataset=dataset)
    elif any(entry.records[0].total_parameters is not None for entry in entries):
        yield "accuracy-parameters", tradeoffs.accuracy_against_parameters(entries, looks, dataset=dataset)


def _learning(store: Store, entries: Sequence[Entry], looks: Mapping[str, Look], notes: list[str]) -> Figures:
    """Yield the learning curves, of jobs with at least two epochs: of one epoch a curve is a dot."""
    run_ids = [record.run_id for entry in entries for record in entry.records[:MOST_SEEDS]]
    store.read_ahead("epochs", run_ids)
    epochs = {run_id: store.epochs(run_id) for run_id in run_ids}
    there = [entry for entry in entries if any(epochs.get(record.run_id) for record in entry.records)]
    longer = [entry for entry in there if any(len(epochs[record.run_id]) > 1 for record in entry.records[:MOST_SEEDS])]
    if there and not longer:
        notes.append("Every run has one epoch, so there are no learning curves.")
    elif there:
        dataset = entries[0].records[0].dataset
        yield "learning-curves", plots.learning_curves(there, epochs, looks, dataset=dataset)


def _latency(entries: Sequence[Entry], looks: Mapping[str, Look], notes: list[str]) -> Figures:
    """Yield a plot for each machine that was timed on, since times on two machines do not compare."""
    machines = grouped(entries, tradeoffs.timed_on)
    machines.pop(None, None)
    if any(entry.speeds.single is not None and entry.speeds.single.contended for entry in entries):
        notes.append("Latencies that were measured while other jobs used the machine are not plotted.")
    for machine, timed in sorted(machines.items(), key=lambda item: item[0] or ""):
        name = "accuracy-latency" if len(machines) == 1 else f"accuracy-latency-{_digest(str(machine))}"
        yield name, tradeoffs.accuracy_against_latency(timed, looks, dataset=entries[0].records[0].dataset)


def _train_sizes(entries: Sequence[Entry], looks: Mapping[str, Look]) -> Figures:
    """Yield the plot with a line for each group of runs that differ only in seed and number of training images."""
    lines = curves(entries)
    if lines:
        shown = sorted(best_jobs(lines, MOST_JOBS), key=lines.index)
        dataset = lines[0].records[0].dataset
        with_lines = style.with_jobs(looks, lines)
        yield "accuracy-train-size", plots.accuracy_against_train_size(shown, with_lines, dataset=dataset)


def _sweeps(dataset: str, swept: Sequence[Swept], looks: Mapping[str, Look]) -> Figures:
    """Yield the plot of the latest sweeps of the learning rate, if there are any."""
    scored = [
        result
        for result in sorted(swept, key=lambda result: result.sweep.time_key, reverse=True)
        if "lr" in result.sweep.space.names and any(trial.score is not None for trial in result.trials)
    ]
    if scored:
        shown = sorted(scored[:MOST_JOBS], key=lambda result: (result.sweep.model, result.sweep.sweep_id))
        yield "accuracy-lr", plots.accuracy_against_lr(shown, looks, dataset=dataset)


def _mistakes(store: Store, entries: Sequence[Entry], notes: list[str]) -> Figures:
    """Yield confusion matrices of the best jobs, unless there are too many classes; then what only one gets wrong."""
    best = answered(store, entries, notes)
    if not best:
        notes.append("There are no confusion matrices: no predictions are stored that can be used.")
        return
    first = best[0].entry.records[0]
    if usual_classes(entries) <= MOST_CLASSES:
        names = class_names(store, entries)
        for job in best:
            title = f"Confusion matrix of {job.entry.label} on {first.dataset}"
            figure = plots.confusion_matrix(job.labels, job.predicted, names, title=title, note=job.whose)
            yield f"confusion-{_file_name(job.entry)}", figure
    if len(best) < 2:
        return
    kept = images.load(store.root, first.dataset_sha256)
    if kept is None:
        notes.append(
            "What one model gets wrong and the other gets right is not shown: the test images are not in images/. "
            "The next python -m bench.run on this data set puts them there."
        )
        return
    for other in best[1:3]:
        yield from _only_wrong(best[0], other, kept, notes)


def _file_name(entry: Entry) -> str:
    return f"{slug(entry.records[0].model)}-{entry.records[0].job_id}"


def _only_wrong(first: Answered, second: Answered, kept: KeptImages, notes: list[str]) -> Figures:
    """Yield grids of what only ``first`` and what only ``second`` gets wrong, of the same seed if they share one."""
    by_seed = [{record.seed: answers for record, answers in job.runs} for job in (first, second)]
    shared = by_seed[0].keys() & by_seed[1].keys()
    seeds = [min(shared or answers) for answers in by_seed]
    pair = [answers[seed] for answers, seed in zip(by_seed, seeds, strict=True)]
    if not all(np.array_equal(answers.labels, kept.labels) for answers in pair):
        notes.append(
            f"What only one of {first.entry.label} and {second.entry.label} gets wrong is not shown: "
            "their predictions are not of the images that are stored."
        )
        return
    for wrong, right, (answers, others), (seed, other_seed) in (
        (first.entry, second.entry, pair, seeds),
        (second.entry, first.entry, pair[::-1], seeds[::-1]),
    ):
        positions = plots.only_wrong(answers, others)
        title = f"{wrong.label} wrong, {right.label} right: {len(positions):,} of {len(kept.labels):,} test images"
        if not len(positions):
            notes.append(f"There is no test image that {wrong.label} gets wrong and {right.label} gets right.")
            continue
        shown = positions[:MOST_IMAGES]
        which = f"the {len(shown)} that it was surest of" if len(shown) < len(positions) else "surest first"
        whose = f"Seed {seed} of both" if seed == other_seed else f"Seeds {seed} and {other_seed}"
        yield (
            f"wrong-{_file_name(wrong)}-not-{_file_name(right)}",
            plots.wrong_answers(
                kept.images[shown],
                [_class_name(kept, number) for number in kept.labels[shown]],
                [_class_name(kept, number) for number in answers.predicted[shown]],
                title=title,
                note=f"{whose}; {which}.",
            ),
        )


def _class_name(kept: KeptImages, number: int) -> str:
    return kept.class_names[number] if 0 <= number < len(kept.class_names) else str(number)
