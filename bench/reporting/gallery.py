"""The plots that the stored records call for: chosen, drawn, and saved as SVG and PNG into results/plots/.

However many runs are stored, only the epochs, predictions and timings of a few jobs are read.
"""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import UserError
from bench.reporting import images, plots, style
from bench.reporting.entries import Comparison, DataKey, Entry, comparisons, data_key
from bench.reporting.files import write_whole
from bench.reporting.images import KeptImages
from bench.reporting.store import Store
from bench.reporting.style import Look
from bench.reporting.sweeps import Swept, choose, read_sweeps, trials_of
from bench.spec import Predictions, Recipe, Record, slug

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_JOBS = 12
"""The most jobs in one plot."""
MOST_CURVES = 6
"""The most jobs among the learning curves."""
MOST_MATRICES = 4
MOST_SEEDS = 10
"""The most seeds of a job whose epochs and predictions are read."""
MOST_IMAGES = 30
"""The most images in a grid of wrong answers."""
OURS = re.compile(
    r".*-(learning-curves|accuracy(-(parameters|latency|lr|train-size).*)?|confusion-.+|wrong-.+)\.(svg|png)"
)
"""The names of the files that this module writes; such files that are no longer drawn are deleted."""


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


def draw(store: Store, records: Sequence[Record], compared: Sequence[Comparison]) -> dict[DataKey, Gallery]:
    """Draw and save all plots, and delete those of earlier reports that are no longer drawn.

    Args:
        store: the results folder.
        records: all records that it holds.
        compared: its comparisons, with timings.

    Returns:
        The plots by data set, sorted by name, including data sets with nothing to compare.

    Raises:
        UserError: the results folder cannot be written.
    """
    looks = style.looks(record.model for record in records)
    by_data: dict[DataKey, list[Record]] = {}
    for record in records:
        by_data.setdefault(data_key(record), []).append(record)
    entries = {data_key(comparison.entries[0].records[0]): comparison.entries for comparison in compared}
    folder = store.root / "plots"
    galleries = {}
    prefixes: set[str] = set()
    written: set[str] = set()
    try:
        folder.mkdir(exist_ok=True)
        for key, group in sorted(by_data.items()):
            prefix = slug(key[0])
            if prefix in prefixes:  # another data set of that name
                prefix = f"{prefix}-{_digest(repr(key))}"
            prefixes.add(prefix)
            gallery = galleries[key] = Gallery()
            for ending, figure in _figures(store, group, entries.get(key, []), looks, gallery.notes):
                name, svg = f"{prefix}-{ending}", style.svg(figure)
                write_whole(folder / f"{name}.svg", svg.encode())
                write_whole(folder / f"{name}.png", style.png(figure))
                written |= {f"{name}.svg", f"{name}.png"}
                gallery.plots.append(Plot(name, figure.get_suptitle().replace("\n", " "), svg))
        for file in folder.iterdir():
            if file.name not in written and OURS.fullmatch(file.name):
                file.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    return galleries


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def best_jobs(entries: Iterable[Entry], most: int) -> list[Entry]:
    """Return at most ``most`` jobs: first the best of each model, then the others, both from the most accurate down."""
    ranked = sorted(entries, key=lambda entry: (-_mean_accuracy(entry), entry.label))
    firsts: dict[str, Entry] = {}
    for entry in ranked:
        firsts.setdefault(entry.records[0].model, entry)
    chosen = {id(entry) for entry in firsts.values()}
    ordered = [*firsts.values(), *(entry for entry in ranked if id(entry) not in chosen)]
    return ordered[:most]


def _mean_accuracy(entry: Entry) -> float:
    return statistics.fmean(entry.accuracies.values() or [-1.0])


def _figures(
    store: Store, records: Sequence[Record], jobs: Sequence[Entry], known: Mapping[str, Look], notes: list[str]
) -> Iterator[tuple[str, Figure]]:
    """Yield (name, figure) for each plot of one data set; add to ``notes`` what cannot be drawn."""
    dataset = records[0].dataset
    entries = [entry for entry in jobs if entry.accuracies]
    known = style.with_jobs(known, entries)
    if entries:
        shown = _in_order(best_jobs(entries, MOST_JOBS), entries)
        if len(shown) < len(entries):
            notes.append(f"Of {len(entries):,} jobs the plots show {len(shown)}: each model's best, then the next.")
        ranked = sorted(shown, key=lambda entry: (-_mean_accuracy(entry), entry.label))
        yield "accuracy", plots.accuracy_over_seeds(ranked, known, dataset=dataset)
        if any(entry.records[0].total_parameters is not None for entry in shown):
            yield "accuracy-parameters", plots.accuracy_against_parameters(shown, known, dataset=dataset)
        yield from _latency(shown, known, notes)
        yield from _train_sizes(entries, known)
        yield from _learning(store, _in_order(best_jobs(shown, MOST_CURVES), entries), known)
    yield from _sweeps(store, records, known)
    if entries:
        yield from _mistakes(store, entries, notes)


def _in_order(chosen: Iterable[Entry], entries: Iterable[Entry]) -> list[Entry]:
    ids = {id(entry) for entry in chosen}
    return [entry for entry in entries if id(entry) in ids]


def _learning(store: Store, entries: Sequence[Entry], known: Mapping[str, Look]) -> Iterator[tuple[str, Figure]]:
    epochs = {record.run_id: store.epochs(record.run_id) for entry in entries for record in entry.records[:MOST_SEEDS]}
    there = [entry for entry in entries if any(epochs.get(record.run_id) for record in entry.records)]
    if there:
        dataset = entries[0].records[0].dataset
        yield "learning-curves", plots.learning_curves(there, epochs, known, dataset=dataset)


def _latency(entries: Sequence[Entry], known: Mapping[str, Look], notes: list[str]) -> Iterator[tuple[str, Figure]]:
    """Yield a plot for each machine that was measured on, since times on two machines do not compare."""
    machines: dict[str, list[Entry]] = {}
    for entry in entries:
        machine = plots.timed_on(entry)
        if machine is not None:
            machines.setdefault(machine, []).append(entry)
    if any(entry.speeds.single is not None and entry.speeds.single.contended for entry in entries):
        notes.append("Latencies that were measured while other jobs used the machine are not plotted.")
    for machine, timed in sorted(machines.items()):
        name = "accuracy-latency" if len(machines) == 1 else f"accuracy-latency-{_digest(machine)}"
        yield name, plots.accuracy_against_latency(timed, known, dataset=entries[0].records[0].dataset)


def _train_sizes(entries: Sequence[Entry], known: Mapping[str, Look]) -> Iterator[tuple[str, Figure]]:
    """Yield plots with a line for each group of runs that differ only in seed and number of training images.

    Epochs and batch size may differ along a line too, if each number of images has one recipe.
    """
    records = [record for entry in entries for record in entry.records]
    if len({record.train_size for record in records}) < 2:
        return
    groups: dict[str, list[Record]] = {}
    for group_id, group in _by(records, other_than=("train_size", "epochs", "batch_size")).items():
        jobs = {(plots.trained_on(record), record.job_id) for record in group}
        if len(jobs) == len({size for size, _ in jobs}):
            groups[group_id] = group
        else:
            groups |= _by(group, other_than=("train_size",))
    curves = []
    for group_id, group in groups.items():
        if len({plots.trained_on(record) for record in group}) > 1:  # without a size, so that no label names it
            curves += [record.model_copy(update={"job_id": group_id, "train_size": None}) for record in group]
    for comparison in comparisons(curves):
        dataset = records[0].dataset
        shown = _in_order(best_jobs(comparison.entries, MOST_JOBS), comparison.entries)
        looks = style.with_jobs(known, comparison.entries)
        yield "accuracy-train-size", plots.accuracy_against_train_size(shown, looks, dataset=dataset)


def _by(records: Sequence[Record], *, other_than: Sequence[str]) -> dict[str, list[Record]]:
    """Return groups of records that agree in all that makes a job except these fields, by a digest of the rest."""
    same = (*(name for name in Recipe.model_fields if name not in other_than), "model", "workers")
    same += ("weights_sha256", "plugin_sha256")
    groups: dict[str, list[Record]] = {}
    for record in records:
        described = repr([getattr(record, name) for name in same])
        groups.setdefault(_digest(described), []).append(record)
    return groups


def _sweeps(store: Store, records: Sequence[Record], known: Mapping[str, Look]) -> Iterator[tuple[str, Figure]]:
    """Yield the plot of the latest sweeps of the learning rate, if there are any."""
    swept = []
    for sweep in read_sweeps(store.root):
        runs = [record for record in records if record.sweep_id == sweep.sweep_id and record.judged_on == "validation"]
        unscored = [record for record in runs if record.validation_accuracy is None]
        trials = trials_of(sweep, runs, {record.run_id: store.epochs(record.run_id) for record in unscored})
        if "lr" in sweep.space.names and any(trial.score is not None for trial in trials):
            swept.append(Swept(sweep, trials, choose(trials), []))
        if len(swept) == MOST_JOBS:
            break
    if swept:
        swept.sort(key=lambda result: (result.sweep.model, result.sweep.sweep_id))
        yield "accuracy-lr", plots.accuracy_against_lr(swept, known, dataset=records[0].dataset)


def _mistakes(store: Store, entries: Sequence[Entry], notes: list[str]) -> Iterator[tuple[str, Figure]]:
    """Yield confusion matrices of the best jobs, then what only the best or only one of the next two gets wrong."""
    best = best_jobs(entries, MOST_MATRICES)
    models = {entry.records[0].model for entry in best}
    if len(models) > 1:  # one job of each model, rather than several of one
        best = [entry for number, entry in enumerate(best) if number < len(models)]
    predictions: dict[str, list[tuple[Record, Predictions]]] = {}
    for entry in best:
        read = [(record, store.predictions(record.run_id)) for record in entry.records[:MOST_SEEDS]]
        predictions[entry.label] = [(record, answers) for record, answers in read if answers is not None]
    best = [entry for entry in best if predictions[entry.label]]
    if not best:
        notes.append("There are no confusion matrices: no predictions are stored.")
        return
    first = best[0].records[0]
    kept = images.load(store.root, first.dataset_sha256)
    names = kept.class_names if kept is not None else tuple(str(number) for number in range(first.classes))
    for entry in best:
        answers = [prediction for _, prediction in predictions[entry.label]]
        yield (
            f"confusion-{_file_name(entry)}",
            plots.confusion_matrix(
                np.concatenate([prediction.labels for prediction in answers]),
                np.concatenate([prediction.predicted for prediction in answers]),
                names,
                title=f"Confusion matrix of {entry.label} on {first.dataset}",
                note=_whose(answers, entry),
            ),
        )
    if len(best) < 2:
        return
    if kept is None:
        notes.append(
            "What one model gets wrong and the other gets right is not shown: the test images are not in images/. "
            "The next python -m bench.run on this data set puts them there."
        )
        return
    for other in best[1:3]:
        yield from _only_wrong(best[0], other, predictions, kept, notes)


def _file_name(entry: Entry) -> str:
    return f"{slug(entry.records[0].model)}-{entry.records[0].job_id}"


def _whose(answers: Sequence[Predictions], entry: Entry) -> str:
    total = sum(len(prediction.labels) for prediction in answers)
    if len(answers) == 1:
        return f"{total:,} test images."
    of = f" of {len(entry.records)}" if len(entry.records) > len(answers) else ""
    return f"{len(answers)}{of} seeds together, {total:,} answers."


def _only_wrong(
    one: Entry,
    other: Entry,
    said: Mapping[str, Sequence[tuple[Record, Predictions]]],
    kept: KeptImages,
    notes: list[str],
) -> Iterator[tuple[str, Figure]]:
    """Yield two grids, of what only ``one`` and what only ``other`` gets wrong, of the same seed if they share one."""
    by_seed = [{record.seed: answers for record, answers in said[entry.label]} for entry in (one, other)]
    shared = by_seed[0].keys() & by_seed[1].keys()
    seeds = [min(shared or answers) for answers in by_seed]
    pair = [answers[seed] for answers, seed in zip(by_seed, seeds, strict=True)]
    if not all(np.array_equal(answers.labels, kept.labels) for answers in pair):
        notes.append(
            f"What only one of {one.label} and {other.label} gets wrong is not shown: "
            "their predictions are not of the images that are stored."
        )
        return
    for wrong, right, (answers, others), (seed, other_seed) in (
        (one, other, pair, seeds),
        (other, one, pair[::-1], seeds[::-1]),
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
