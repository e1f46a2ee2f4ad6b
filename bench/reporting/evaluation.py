"""The text that bench.evaluate prints: the figures of one model in words and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from bench.reporting.formats import MISSING, percent
from bench.reporting.stats import Interval

MOST_CLASSES = 30
"""The most classes of a confusion matrix that is printed."""


@dataclass(frozen=True)
class Assessment:
    """The figures of one model on labelled images."""

    title: str
    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]
    """Numbers of images, [true class, predicted class]."""
    interval: Interval
    """The 95 % interval of the accuracy, in shares."""
    class_intervals: list[Interval]
    loss: float
    """Mean cross-entropy, nats."""
    calibration_error: float
    mean_confidence: float
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
    rows = [
        ["accuracy", f"{percent(accuracy)}  ({correct:,} of {images:,})"],
        ["95 % interval", f"{_range(figures.interval)}  (Wilson)"],
        ["cross-entropy", f"{figures.loss:.4f} nats"],
        [
            "calibration error",
            f"{percent(figures.calibration_error)}  (ECE, 15 bins; mean confidence "
            f"{percent(figures.mean_confidence)}: too {direction})",
        ],
        [
            "latency",
            f"{figures.latency_p50_ms:.2f} ms for one image (median; 95th percentile {figures.latency_p95_ms:.2f} ms)",
        ],
        [
            "throughput",
            f"{figures.images_per_second:,.0f} images/s in batches, on the CPU with {figures.threads} "
            f"thread{'s' if figures.threads != 1 else ''}",
        ],
    ]
    parts = [figures.title, tabulate(rows, tablefmt="plain", disable_numparse=True)]
    if figures.blank:
        parts.append(f"no ink was found in {figures.blank:,} of the images: they were shown to the model as black")
    parts.append(_per_class(figures))
    if len(table) <= MOST_CLASSES:
        parts.append(_matrix(figures))
    return "\n\n".join(parts)


def _range(interval: Interval) -> str:
    return f"{100 * interval.low:.2f} to {100 * interval.high:.2f} %"


def _per_class(figures: Assessment) -> str:
    rows = []
    for number, name in enumerate(figures.class_names):
        counts = figures.confusion[number]
        images, correct = int(counts.sum()), int(counts[number])
        if not images:
            rows.append([name, "0", MISSING, MISSING, MISSING])
            continue
        wrong = counts.copy()
        wrong[number] = 0
        worst = int(wrong.argmax())
        taken_for = f"{figures.class_names[worst]} ({int(wrong[worst])})" if wrong[worst] else MISSING
        accuracy = percent(correct / images)
        rows.append([name, f"{images:,}", accuracy, _range(figures.class_intervals[number]), taken_for])
    headers = ["class", "images", "accuracy", "95 % interval", "most often taken for (images)"]
    return tabulate(rows, headers, disable_numparse=True, colalign=["left", "right", "right", "right", "left"])


def _matrix(figures: Assessment) -> str:
    names = [name[:8] for name in figures.class_names]
    rows = []
    for name, counts in zip(names, figures.confusion, strict=True):
        rows.append([name, *[str(count) if count else "." for count in counts]])
    table = tabulate(rows, ["", *names], disable_numparse=True, colalign=["left", *["right"] * len(names)])
    return f"confusion matrix: rows are what it is, columns what the model said\n\n{table}"


def answers_table(title: str, rows: Sequence[Sequence[object]], blank: int) -> str:
    """Return the answers to pictures without labels as text; the first of ``rows`` holds the headers."""
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
