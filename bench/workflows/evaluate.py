"""A whole evaluation: find weights and images, ask the model, measure its answers, put them into words."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.config.evaluate import EvaluateOptions
from bench.errors import UserError
from bench.learning.data import datasets, pictures
from bench.learning.data.class_names import relabelled
from bench.learning.data.datasets import Dataset, Split
from bench.learning.data.pictures import Pictures, Redraw
from bench.learning.data.streaming import Streamed
from bench.learning.models import weights
from bench.learning.models.registry import find
from bench.learning.models.weights import FILE_ENDINGS
from bench.learning.user_code import UserCode
from bench.reporting import stats
from bench.reporting.evaluation import Assessment, answers_table, assessment_text
from bench.reporting.files import is_file, local_copy, write_whole
from bench.reporting.scores import confusion, most_confused, scores_of
from bench.storage import Place, reach

if TYPE_CHECKING:
    from bench.learning.checkpoint import Trained


_SHOWN = 1000
"""The most pictures that are looked at to see whether they are light."""
_DARK, _LIGHT = 0.25, 0.5
"""Mean brightness below which training images are mostly dark, and above which pictures are mostly light."""


@dataclass(frozen=True)
class _Images:
    """The images that the model is asked about."""

    title: str
    names: list[str]
    pixels: NDArray[np.uint8] | Streamed
    labels: NDArray[np.int64] | None
    blank: int
    """The number of images without ink, of those that went through the drawing preprocessing."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one line each."""


def evaluate_file(options: EvaluateOptions, redraw: Redraw | None = None) -> str:
    """Measure a model on images, or classify them where they have no labels; return the text to print.

    Args:
        options: what to measure, on which images.
        redraw: the function that is applied to each image first, if given.

    Raises:
        UserError: wrong usage, missing or damaged files, weights that do not fit, classes that are not the model's.
    """
    _check(options)
    with local_copy(options.weights) as file:
        loaded = weights.read(file, f"file {file.name}")
    folder = pictures.find_pictures(options.images) if options.images is not None else None
    from bench.learning.checkpoint import load_trained  # imports torch

    trained = load_trained(loaded, options.model, options.form, options.class_names)
    if folder is not None:
        images = _from_folder(folder, trained, redraw)
    else:
        whole = datasets.load(options.dataset or trained.about.get("dataset", "auto"), options.data_dir)
        data = whole.at(trained.spec.input.resized)
        trained, test, assumed = _matched(trained, data, options.weights)
        images = _from_split(data.name, test, trained, redraw, assumed)
    if images.labels is None:
        text, rows = _classified(trained, images)
    else:
        text, rows = _measured(trained, images, images.labels)
    if options.csv is not None:
        _write_csv(options.csv, rows)
    assumed = () if trained.names_input else (_assumed_input(trained, options),)
    notes = "".join(f"\n\nnote: {note}" for note in (*assumed, *images.notes))
    return text + notes + (f"\n\nwritten: {options.csv}" if options.csv else "")


def _check(options: EvaluateOptions) -> None:
    """Refuse wrong options before torch is imported."""
    if options.model is not None:
        find(options.model, UserCode.read(options.model, "--model") if UserCode.is_named_by(options.model) else None)
    if options.dataset is not None:
        datasets.check_name(options.dataset)
    reach(options.weights)
    if not is_file(options.weights):
        raise UserError(f"--weights: there is no file {options.weights}; give a {' or '.join(FILE_ENDINGS)} file")
    if options.csv is not None and not options.csv.absolute().parent.is_dir():
        raise UserError(f"--csv {options.csv}: there is no folder {options.csv.absolute().parent}")


def _assumed_input(trained: Trained, options: EvaluateOptions) -> str:
    """Return a line on the preprocessing of pictures for weights that do not say it."""
    assumed = [
        flag
        for flag, name in (("--image-size", "image_size"), ("--mean and --std", "mean"))
        if name not in options.form
    ]
    form = trained.spec.input.describe()
    if not assumed:
        return f"the pictures were prepared as given: {form}"
    return (
        f"the weights do not say how pictures were prepared in training: assumed {form}; if that is not so, loss, "
        f"calibration and accuracy are wrong: give {' and '.join(assumed)}"
    )


def _from_folder(folder: Pictures, trained: Trained, redraw: Redraw | None) -> _Images:
    whose = "this model"
    if not trained.names_classes:
        whose = "this model (the weights do not name its classes; --class-names does)"
    labels = None if folder.folders is None else pictures.labels_of(folder, trained.class_names, whose)
    form, blank, notes = trained.spec.input, 0, []
    listed = pictures.see_pictures(folder)
    if folder.passed_over:
        notes.append(pictures.describe_passed_over([file.name for file in folder.passed_over]))
    if redraw is None:
        pixels = pictures.read_pictures(listed, resized=form.resized)
        if form.channels == 1 and form.mean[0] < _DARK and pixels[:_SHOWN].mean() > 255 * _LIGHT:
            notes.append(
                "these pictures are mostly light, but the model was trained on dark ones; if they show drawn digits, "
                "--as-drawing redraws them as MNIST's"
            )
    else:
        pixels, blank = pictures.redraw_files(listed, redraw, input_size=form.image_size)
    return _Images(str(folder.root), folder.names, pixels, labels, blank, tuple(notes))


def _matched(trained: Trained, data: Dataset, weights: Place) -> tuple[Trained, Split, tuple[str, ...]]:
    """Return (the model, the test images with the model's class numbers as labels, notes on what was assumed).

    A bare state dict does not name its classes: if there are as many as in the data set, they are taken for those of
    the data set, in its order.

    Raises:
        UserError: the data set's classes are not the model's.
    """
    if trained.names_classes:
        labels = relabelled(
            data.test.labels, data.class_names, trained.class_names, f"{data.name}: the class", weights.name
        )
        return trained, replace(data.test, labels=labels), ()
    count = len(trained.class_names)
    if len(data.class_names) != count:
        raise UserError(f"{weights} knows {count} classes, {data.name} has {len(data.class_names)}")
    named = replace(trained, class_names=data.class_names)
    if data.class_names == trained.class_names:
        return named, data.test, ()
    first, last = data.class_names[0], data.class_names[-1]
    assumed = f"the weights do not name their classes: assumed those of {data.name} in its order, {first} to {last}"
    return named, data.test, (assumed,)


def _from_split(
    name: str, split: Split, trained: Trained, redraw: Redraw | None, notes: tuple[str, ...] = ()
) -> _Images:
    pixels: NDArray[np.uint8] | Streamed = split.images
    blank = 0
    if redraw is not None:
        pixels, blank = pictures.redraw_all(split.array, redraw, input_size=trained.spec.input.image_size)
    names = [str(number) for number in range(len(pixels))]
    return _Images(f"the test images of {name}", names, pixels, split.labels, blank, notes)


Rows = list[tuple[object, ...]]


def _measured(trained: Trained, images: _Images, labels: NDArray[np.int64]) -> tuple[str, Rows]:
    """Return (the page of figures, one row per image) of images with labels."""
    from bench.learning.data.preprocessing import DeviceSplit
    from bench.learning.evaluation import evaluate
    from bench.learning.process import settle_allocator
    from bench.learning.timing import time_inference

    settle_allocator()
    result = evaluate(trained.module, trained.spec, DeviceSplit.of(Split(images.pixels, labels), "cpu"))
    predictions = result.predictions
    table = confusion(predictions.labels, predictions.predicted, len(trained.class_names))
    seconds, threads = time_inference(trained, images.pixels[:1])
    p50, p95 = np.percentile(seconds, [50, 95])
    per_class = [(int(table[k, k]), int(table[k].sum())) for k in range(len(table))]
    figures = Assessment(
        title=f"{trained.spec.name} on {images.title}",
        class_names=trained.class_names,
        confusion=table,
        interval=stats.wilson(result.correct, len(predictions.labels)),
        class_intervals=[stats.wilson(correct, count) for correct, count in per_class],
        loss=result.loss,
        scores=scores_of(predictions, len(trained.class_names)),
        confused=most_confused(predictions.labels, predictions.predicted),
        mean_confidence=float(predictions.probability.mean()),
        images_per_second=len(predictions.labels) / result.seconds,
        latency_p50_ms=1000 * float(p50),
        latency_p95_ms=1000 * float(p95),
        threads=threads,
        blank=images.blank,
    )
    names = trained.class_names
    header: tuple[object, ...] = ("image", "label", "predicted", "probability")
    columns = (images.names, predictions.labels, predictions.predicted, predictions.probability)
    rows: Rows = [(name, names[a], names[b], f"{p:.6f}") for name, a, b, p in zip(*columns, strict=True)]
    return assessment_text(figures), [header, *rows]


def _classified(trained: Trained, images: _Images) -> tuple[str, Rows]:
    """Return (a table of answers, one row per image) of images without labels."""
    from bench.learning.evaluation import probabilities

    shares = probabilities(trained, images.pixels)
    names = trained.class_names
    order = np.argsort(-shares, axis=1, kind="stable")[:, :2]
    rows: Rows = [("image", "predicted", "probability", "second", "its_probability")]
    for name, share, best in zip(images.names, shares, order, strict=True):
        first, second = best[0], best[-1]
        rows.append((name, names[first], f"{share[first]:.6f}", names[second], f"{share[second]:.6f}"))
    count = f"{len(images.names):,} picture{'s' if len(images.names) != 1 else ''}"
    title = f"{trained.spec.name} on {images.title}: {count} without labels"
    return answers_table(title, rows, images.blank), rows


def _write_csv(file: Path, rows: Rows) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    try:
        write_whole(file.absolute(), text.getvalue().encode())
    except OSError as error:
        raise UserError(f"--csv: cannot write {file}: {error.strerror or error}") from None
