"""The text that bench.evaluate prints: the figures of one model, or its answers to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from bench.reporting.formats import MISSING, count, counted, per_second, percent
from bench.reporting.scores import CALIBRATION_BINS, MOST_CLASSES, UNEVEN, Pair
from bench.reporting.stats import Interval
from bench.spec import Scores


@dataclass(frozen=True)
class Assessment:
    """The figures of one model on labelled images."""

    title: str
    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]
    """The number of images, int64 [true class, predicted class]."""
    interval: Interval
    """The 95 % interval of the accuracy, in shares."""
    class_intervals: list[Interval]
    """The 95 % interval of the accuracy on each class, in shares."""
    loss: float
    """Mean cross-entropy, nats."""
    scores: Scores
    """The other figures that follow from the predictions."""
    confused: list[Pair]
    """The pairs of classes most often confused."""
    mean_confidence: float
    """The mean probability of the predicted class."""
    images_per_second: float
    latency_p50_ms: float
    latency_p95_ms: float
    threads: int
    blank: int
    """The number of images in which no ink was found."""


def assessment_text(figures: Assessment) -> str:
    """Return all figures as text."""
    table = figures.confusion
    images, correct = int(table.sum()), int(np.trace(table))
    accuracy = correct / images
    direction = "sure" if figures.mean_confidence > accuracy else "unsure"
    calibration = f"ECE, {CALIBRATION_BINS} bins; mean confidence {percent(figures.mean_confidence)}: too {direction}"
    p50, p95 = figures.latency_p50_ms, figures.latency_p95_ms
    throughput = f"{per_second(figures.images_per_second)} in batches, on the CPU"
    rows = [
        ["accuracy", f"{percent(accuracy)}  ({correct:,} of {images:,})"],
        ["likely range", f"{_range(figures.interval)}  (95 % interval, Wilson)"],
        *_further(figures.scores),
        ["cross-entropy", f"{figures.loss:.4f} nats"],
        ["calibration error", f"{percent(figures.scores.test_calibration_error or 0.0)}  ({calibration})"],
        ["latency", f"{p50:.2f} ms for one image (median; 95th percentile {p95:.2f} ms)"],
        ["throughput", f"{throughput} with {counted(figures.threads, 'thread')}"],
    ]
    parts = [figures.title, tabulate(rows, tablefmt="plain", disable_numparse=True)]
    if figures.blank:
        parts.append(f"no ink was found in {figures.blank:,} of the images: they were shown to the model as black")
    parts.append(_per_class(figures))
    parts.append(_matrix(figures) if len(table) <= MOST_CLASSES else _confused(figures))
    return "\n\n".join(parts)


def _further(scores: Scores) -> list[list[str]]:
    """Return the rows of the figures that depend on the number of classes, and on how many images each has."""
    rows = []
    if scores.test_top5_accuracy is not None:
        rows.append(["top-5 accuracy", percent(scores.test_top5_accuracy)])
    if (scores.test_imbalance or 1.0) > UNEVEN:
        note = "mean over the classes that have images"
        rows.append(["balanced accuracy", f"{percent(scores.test_balanced_accuracy or 0.0)}  ({note})"])
        rows.append(["macro-F1", f"{percent(scores.test_macro_f1 or 0.0)}  ({note})"])
    return rows


def _range(interval: Interval) -> str:
    return f"{100 * interval.low:.2f} to {100 * interval.high:.2f} %"


def _per_class(figures: Assessment) -> str:
    rows = []
    table = figures.confusion
    wrong = table - np.diag(np.diag(table))
    for number, (name, interval) in enumerate(zip(figures.class_names, figures.class_intervals, strict=True)):
        images, worst = table[number].sum(), wrong[number].argmax()
        mistakes = wrong[number, worst]
        taken_for = f"{figures.class_names[worst]} ({mistakes})" if mistakes else MISSING
        shown = [percent(table[number, number] / images), _range(interval)] if images else [MISSING, MISSING]
        rows.append([name, count(images), *shown, taken_for])
    headers = ["class", "images", "accuracy", "likely range (95 % interval)", "most often taken for (images)"]
    return tabulate(rows, headers, disable_numparse=True, colalign=["left", "right", "right", "right", "left"])


def _matrix(figures: Assessment) -> str:
    names = [name[:8] for name in figures.class_names]
    rows = [
        [name, *(str(images) if images else "." for images in row)]
        for name, row in zip(names, figures.confusion, strict=True)
    ]
    table = tabulate(rows, ["", *names], disable_numparse=True, colalign=["left", *["right"] * len(names)])
    return f"confusion matrix: rows are what it is, columns what the model said\n\n{table}"


def _confused(figures: Assessment) -> str:
    names = figures.class_names
    rows = [
        [names[pair.true], names[pair.predicted], count(pair.count), percent(pair.share)] for pair in figures.confused
    ]
    if not rows:
        return "every image was classified right"
    headers = ["class", "taken for", "images", "share of the class"]
    table = tabulate(rows, headers, disable_numparse=True, colalign=["left", "left", "right", "right"])
    return f"the classes most often confused\n\n{table}"


def answers_table(title: str, rows: Sequence[Sequence[object]], blank: int) -> str:
    """Return the answers to pictures without labels as text.

    Args:
        title: what was classified, by which model.
        rows: (name, class, its probability, second class, its probability) of each picture, after a row of headers.
        blank: the number of pictures in which no ink was found.
    """
    shown = [
        [str(name), str(first), f"{100 * float(str(p)):.1f} %", f"{second} ({100 * float(str(q)):.1f} %)"]
        for name, first, p, second, q in rows[1:]
    ]
    table = tabulate(
        shown,
        ["picture", "answer", "probability", "else"],
        disable_numparse=True,
        colalign=["left", "left", "right", "left"],
    )
    note = f"\n\nno ink was found in {blank:,} of the pictures: their answers mean nothing" if blank else ""
    return f"{title}\n\n{table}{note}"
