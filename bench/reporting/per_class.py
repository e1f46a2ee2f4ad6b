"""The accuracy of the best jobs on each class of a data set, from their stored predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.reporting.entries import ByClass, Comparison
from bench.reporting.formats import MISSING, percent
from bench.reporting.mistakes import Answered
from bench.reporting.scores import MOST_CLASSES
from bench.reporting.table import Cell, Column, Table, table_of, text_column


def by_class(jobs: Sequence[Answered], names: tuple[str, ...]) -> list[ByClass]:
    """Return the accuracy of jobs on each class, all seeds together."""
    found = []
    for job in jobs:
        images = np.bincount(job.labels, minlength=len(names))
        right = np.bincount(job.labels[job.labels == job.predicted], minlength=len(names))
        found.append(ByClass(job.entry.label, job.whose, right.tolist(), images.tolist(), names))
    return found


def by_class_table(comparison: Comparison) -> Table | None:
    """Return a row for each class and a column for each job; of more than MOST_CLASSES, the worst of the first job.

    None if no predictions are stored.
    """
    jobs = comparison.by_class
    if not jobs:
        return None
    numbers = list(range(len(jobs[0].class_names)))
    if len(numbers) > MOST_CLASSES:
        share = [right / count if count else 2.0 for right, count in zip(jobs[0].right, jobs[0].images, strict=True)]
        numbers = sorted(numbers, key=lambda number: (share[number], number))[:MOST_CLASSES]

    def column(job: ByClass) -> Column[int]:
        def read(number: int) -> Cell:
            share = job.right[number] / job.images[number] if job.images[number] else None
            return Cell(MISSING) if share is None else Cell(percent(share), share)

        return Column(job.label, read)

    name: Column[int] = text_column("Class", lambda number: jobs[0].class_names[number])
    return table_of([name, *map(column, jobs)], numbers)


def by_class_notes(comparison: Comparison) -> list[str]:
    """Return whose predictions the table counts, as Markdown."""
    jobs = comparison.by_class
    few = f"The {MOST_CLASSES} worst classes of {jobs[0].label}. " if len(jobs[0].class_names) > MOST_CLASSES else ""
    whose = "; ".join(f"{job.label}, {job.whose.removesuffix('.')}" for job in jobs)
    return [f"{few}Share of each class's test images classified right: {whose}."]
