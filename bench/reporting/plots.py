"""The plots, each a pure function from what is stored to a matplotlib figure.

``looks`` are the colours and markers, from :func:`bench.reporting.style.looks` or, where jobs of one model are to be
told apart, :func:`bench.reporting.style.with_jobs`. ``dataset`` is the data set's name, for the title.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.reporting.entries import Entry, trained_on
from bench.reporting.formats import counted
from bench.reporting.groups import grouped
from bench.reporting.images import shrunk
from bench.reporting.scores import confusion
from bench.reporting.style import (
    WIDTH,
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
    wrapped,
)
from bench.spec import EpochRecord, Predictions, Record, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.reporting.sweeps import Swept, Trial

MOST_DOTS = 100
"""The most seeds of a job that are drawn one by one."""
IMAGES_IN_A_ROW = 6
MOST_PIXELS = 96
"""The largest height and width of an image in a grid, pixels: each is shown less than an inch wide."""


def _accuracies(records: Iterable[Record]) -> list[float]:
    """Return the test accuracies in percent."""
    return [100 * record.test_accuracy for record in records if record.test_accuracy is not None]


# --- learning curves -------------------------------------------------------------------------------------------------


@styled
def learning_curves(
    entries: Sequence[Entry], epochs: Mapping[str, Sequence[EpochRecord]], looks: Mapping[str, Look], *, dataset: str
) -> Figure:
    """Draw accuracy and loss by epoch: the mean over the seeds, in a band from the lowest to the highest.

    Args:
        entries: the jobs to draw.
        epochs: the epochs of their runs, by run id; runs without epochs are left out.
    """
    held_out = any(epoch.validation_accuracy is not None for run in epochs.values() for epoch in run)
    several = any(len(entry.records) > 1 for entry in entries)
    figure = figure_of(f"Learning curves: training images of {dataset}", 5.6)
    above, below = figure.subplots(2, 1, sharex=True)
    handles = []
    losses: list[float] = []
    for entry in entries:
        look = look_of(entry, looks)
        runs = [epochs[record.run_id] for record in entry.records if epochs.get(record.run_id)]
        handles.append(line_of(entry.label, look))
        for axis, field, factor, dashes in (
            (above, "train_accuracy", 100, "-"),
            (above, "validation_accuracy", 100, "--"),
            (below, "train_loss", 1, "-"),
            (below, "validation_loss", 1, "--"),
        ):
            drawn = _band(axis, runs, field, factor, look, dashes)
            losses += drawn if axis is below else []
    note = (
        "Solid: training images, with dropout; dashed: held-out images."
        if held_out
        else "Measured while training, with dropout."
    )
    if any(record.label_smoothing for entry in entries for record in entry.records):
        note += " Training loss with label smoothing."
    note_below(above, f"{note} Mean of the seeds; band: lowest to highest." if several else note)
    above.set_ylabel("accuracy (%)")
    below.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    below.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if losses and min(losses) > 0 and max(losses) / min(losses) > 10:
        log_axis(below.yaxis, losses)
    legend_of(figure, handles)
    return figure


def _band(
    axis: Axes, runs: Sequence[Sequence[EpochRecord]], field: str, factor: float, look: Look, dashes: str
) -> list[float]:
    """Draw mean and range of one field of the epochs, times ``factor``; return the means drawn."""
    measured = (epoch for run in runs for epoch in run if getattr(epoch, field) is not None)
    by_epoch = sorted(grouped(measured, lambda epoch: epoch.epoch).items())
    numbers = [number for number, _ in by_epoch]
    values = [[factor * getattr(epoch, field) for epoch in epochs] for _, epochs in by_epoch]
    means = list(map(statistics.fmean, values))
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markevery": max(1, len(numbers) // 10)}
    axis.plot(numbers, means, linestyle=dashes, markersize=4, **style)
    if any(len(of_seeds) > 1 for of_seeds in values):
        edges = list(map(min, values)), list(map(max, values))
        axis.fill_between(numbers, *edges, color=look.colour, alpha=0.18, linewidth=0)
    return means


# --- accuracy, seed by seed ------------------------------------------------------------------------------------------


@styled
def accuracy_over_seeds(entries: Sequence[Entry], looks: Mapping[str, Look], *, dataset: str) -> Figure:
    """Draw each job's test accuracies and their mean, from three seeds on with its 95 % t-interval over the seeds."""
    labels = [wrapped(f"{entry.label}, {counted(len(_accuracies(entry.records)), 'seed')}", 58) for entry in entries]
    lines = max(label.count("\n") + 1 for label in labels)
    figure = figure_of(f"Test accuracy on {dataset}, seed by seed", 1.4 + (0.36 + 0.16 * lines) * len(entries))
    axis = figure.subplots()
    above = 0.32 / (0.36 + 0.16 * lines)  # the seeds' dots stay clear of the next label
    for row, entry in enumerate(entries):
        look = look_of(entry, looks)
        values = _accuracies(entry.records)
        small: dict[str, Any] = {"color": look.colour, "alpha": 0.45, "markersize": 4, "markeredgewidth": 0}
        dots = values[:MOST_DOTS]
        axis.plot(dots, [row + above / 2] * len(dots), "o", **small)
        draw_mean(axis, values, row, look, horizontal=True)
        where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axis.annotate(labels[row], (0, row), (2, 7), **where)
    axis.set(xlabel="test accuracy (%)", yticks=[], ylim=(len(entries) - 0.6, -1))
    axis.spines["left"].set_visible(False)
    axis.grid(axis="y", visible=False)
    each = "each seed" if all(len(entry.records) <= MOST_DOTS for entry in entries) else f"{MOST_DOTS} seeds"
    note_below(axis, f"Small: {each}. Large: mean, and where it likely lies (95 % t-interval).")
    return figure


# --- mistakes --------------------------------------------------------------------------------------------------------


@styled
def confusion_matrix(
    labels: NDArray[np.int16],
    predicted: NDArray[np.int16],
    class_names: Sequence[str],
    *,
    title: str,
    note: str = "",
) -> Figure:
    """Draw how often each class was predicted for each: the number, and the share of the true class as its shade.

    Args:
        labels: int16 [predictions]: the true classes; of several seeds, one after the other.
        predicted: int16 [predictions]: the classes predicted.
        class_names: one for each class; at most :data:`~.scores.MOST_CLASSES`, so that they are legible.
        title: the title of the figure.
        note: whose predictions these are.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, PowerNorm

    classes = len(class_names)
    table = confusion(labels, predicted, classes)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    shades = ListedColormap(colormaps["Blues"](np.linspace(0.2, 1, 32)))
    norm = PowerNorm(0.5, 0, 1)  # errors are few: on a linear scale they would all be white
    figure = figure_of(title, 5.4)
    axis = figure.subplots()
    edges = np.arange(classes + 1) - 0.5
    hidden = np.ma.masked_equal(shares, 0)
    shown = axis.pcolormesh(
        edges, edges, hidden, cmap=shades, norm=norm, rasterized=classes > 20, edgecolors="face", linewidth=0.2
    )
    axis.set(xlabel="predicted class", ylabel="true class", aspect="equal", anchor="N")
    axis.invert_yaxis()
    axis.grid(visible=False)
    names = shortened(class_names, 12)
    axis.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 2 else 0)
    axis.set_yticks(range(classes), names)
    axis.tick_params(length=0, labelsize=10 if classes <= 20 else 7)
    if classes <= 20:
        size = 8 if table.max() < 10_000 and classes <= 10 else 6
        for (row, column), number in np.ndenumerate(table):
            if number:
                dark = norm(shares[row, column]) > 0.5
                where: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size}
                axis.text(column, row, f"{number:,}", color="#ffffff" if dark else "#111111", **where)
        note += " Shade: share of the true class."
    else:
        figure.colorbar(shown, ax=axis, label="share of the true class", location="bottom", shrink=0.7)
        axis.set_anchor("N")
    note_below(axis, note.strip())
    return figure


def only_wrong(first: Predictions, second: Predictions) -> NDArray[np.int64]:
    """Return the positions of the images that only ``first`` gets wrong, its highest probabilities first."""
    positions = np.flatnonzero((first.predicted != first.labels) & (second.predicted == second.labels))
    return positions[np.argsort(-first.probability[positions], kind="stable")]


@styled
def wrong_answers(
    images: NDArray[np.uint8], truth: Sequence[str], answers: Sequence[str], *, title: str, note: str
) -> Figure:
    """Draw a grid of images, each with its true class and the model's answer.

    Args:
        images: uint8 [images, channels, height, width] with 1 or 3 channels; at least one.
        truth: the name of the true class of each.
        answers: the name of the predicted class of each.
        title: whose answers these are.
        note: which images are shown.
    """
    columns = IMAGES_IN_A_ROW
    rows = -(-len(images) // columns)
    pixels = shrunk(images, MOST_PIXELS).transpose(0, 2, 3, 1)  # a grey one is broadcast to three channels
    height, width = pixels.shape[1:3]
    gap, below = max(1, width // 10), round(0.52 * width)
    sheet = np.zeros((rows * (height + below), columns * (width + gap) - gap, 4), dtype=np.uint8)
    size = (WIDTH - 0.2) / columns
    size_of_text = 7.5 if max(map(len, (*truth, *answers))) <= 8 else 6.3
    figure = figure_of(title, rows * size * (height + below) / (width + gap) + 0.75)
    axis = figure.subplots()
    names = shortened([*truth, *answers], 12)
    for number, (picture, true, answer) in enumerate(
        zip(pixels, names[: len(truth)], names[len(truth) :], strict=True)
    ):
        y, x = (number // columns) * (height + below), (number % columns) * (width + gap)
        sheet[y : y + height, x : x + width, :3] = picture
        sheet[y : y + height, x : x + width, 3] = 255
        caption = f"true {true}\nsaid {answer}"
        axis.text(x + width / 2, y + height + 0.05 * width, caption, ha="center", va="top", fontsize=size_of_text)
    axis.imshow(sheet, interpolation="none", aspect="equal")
    axis.axis("off")
    note_below(axis, note)
    return figure


# --- sweeps and training set sizes -----------------------------------------------------------------------------------


@styled
def accuracy_against_lr(sweeps: Sequence[Swept], looks: Mapping[str, Look], *, dataset: str) -> Figure:
    """Draw the validation accuracy of the trials of sweeps against their learning rate, on a log axis.

    If a sweep varies nothing but the learning rate, a line joins its finished trials. A ring marks the winner; trials
    that were stopped early are hollow; those without a score are left out.
    """
    figure = figure_of(f"Validation accuracy on {dataset} against learning rate", 3.6)
    axis = figure.subplots()
    handles = []
    models = [swept.sweep.model for swept in sweeps]
    rates: list[float] = []
    for swept in sweeps:
        model, look = swept.sweep.model, looks[swept.sweep.model]
        scored = sorted((trial for trial in swept.trials if trial.score is not None), key=_lr)
        finished = [trial for trial in scored if trial.status is Status.OK]
        others = [trial for trial in scored if trial.status is not Status.OK]
        rates += [_lr(trial) for trial in scored]
        style: dict[str, Any] = {"color": look.colour, "marker": look.marker}
        curve = "-" if list(swept.sweep.space.names) == ["lr"] else "none"
        axis.plot(*_scores(finished), linestyle=curve, linewidth=1, **style)
        axis.plot(*_scores(others), linestyle="none", fillstyle="none", **style)
        name = model if models.count(model) == 1 else f"{model} (sweep {swept.sweep.sweep_id})"
        if swept.best is not None:
            ring: dict[str, Any] = {"fillstyle": "none", "markersize": 14, "markeredgewidth": 1.6}
            axis.plot(*_scores([swept.best]), "o", color=look.colour, **ring)
            name += f": best at {_lr(swept.best):.3g}"
        handles.append(line_of(name, look, linestyle=curve))
    axis.set(xlabel="learning rate", ylabel="validation accuracy (%)")
    log_axis(axis.xaxis, rates)
    note_below(axis, "Held-out training images. Ring: best of its sweep. Hollow: stopped early.")
    legend_of(figure, handles)
    return figure


def _lr(trial: Trial) -> float:
    return trial.records[0].lr


def _scores(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [_lr(trial) for trial in trials], [100 * (trial.score or 0) for trial in trials]


@styled
def accuracy_against_train_size(curves: Sequence[Entry], looks: Mapping[str, Look], *, dataset: str) -> Figure:
    """Draw mean test accuracy against the number of training images, on a log axis, with t-intervals over the seeds.

    Args:
        curves: for each line the finished runs on it, of all sizes and seeds.
    """
    figure = figure_of(f"Test accuracy on {dataset} against training images", 3.6)
    axis = figure.subplots()
    handles = []
    sizes = sorted({trained_on(record) for curve in curves for record in curve.records})
    for curve in curves:
        look = look_of(curve, looks)
        by_size = grouped((record for record in curve.records if record.test_accuracy is not None), trained_on)
        points = [(size, _accuracies(by_size[size])) for size in sorted(by_size)]
        means = [statistics.fmean(values) for _, values in points]
        axis.plot([size for size, _ in points], means, color=look.colour, linewidth=1)
        for size, values in points:
            draw_mean(axis, values, size, look)
        handles.append(line_of(curve.label, look))
    axis.set(xlabel="training images", ylabel="test accuracy (%)")
    log_axis(axis.xaxis, sizes, at_values=len(sizes) <= 8)
    note_below(axis, "Mean of the seeds, and where it likely lies (95 % t-interval, from 3 seeds on).")
    legend_of(figure, handles)
    return figure
