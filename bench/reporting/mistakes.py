"""The stored predictions of the best jobs on a data set, and the pairs of classes that these confuse most often."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.reporting import images
from bench.reporting.entries import Confused, Entry
from bench.reporting.scores import MOST_CLASSES, most_confused
from bench.reporting.store import Store
from bench.spec import Predictions, Record

MOST_JOBS = 4
"""The most jobs whose predictions are read."""
MOST_SEEDS = 10
"""The most seeds of a job whose predictions are read."""


@dataclass(frozen=True)
class Answered:
    """A job with its stored predictions."""

    entry: Entry
    runs: list[tuple[Record, Predictions]]
    """The runs whose predictions were read, at least one, with these."""

    @cached_property
    def labels(self) -> NDArray[np.int16]:
        """Return the true classes, of all runs one after the other."""
        return np.concatenate([predictions.labels for _, predictions in self.runs])

    @cached_property
    def predicted(self) -> NDArray[np.int16]:
        """Return the classes predicted, of all runs one after the other."""
        return np.concatenate([predictions.predicted for _, predictions in self.runs])

    @property
    def whose(self) -> str:
        """Return whose predictions these are, as a sentence."""
        if len(self.runs) == 1:
            return f"{len(self.labels):,} test images."
        of = f" of {len(self.entry.records)}" if len(self.entry.records) > len(self.runs) else ""
        return f"{len(self.runs)}{of} seeds together, {len(self.labels):,} answers."


def ranked(entries: Iterable[Entry]) -> list[Entry]:
    """Return the jobs from the most accurate down."""
    return sorted(entries, key=lambda entry: (-statistics.fmean(entry.accuracies.values() or [-1.0]), entry.label))


def best_jobs(entries: Iterable[Entry], most: int) -> list[Entry]:
    """Return at most ``most`` jobs: first the best of each model, then the others, both from the most accurate down."""
    in_order = ranked(entries)
    firsts: dict[str, Entry] = {}
    for entry in in_order:
        firsts.setdefault(entry.records[0].model, entry)
    return sorted(in_order, key=lambda entry: firsts[entry.records[0].model] is not entry)[:most]


def usual_classes(entries: Sequence[Entry]) -> int:
    """Return the number of classes of a data set: that which most of the records on it name."""
    counts = Counter(record.classes for entry in entries for record in entry.records)
    return counts.most_common(1)[0][0]


def answered(store: Store, entries: Sequence[Entry], problems: list[str] | None = None) -> list[Answered]:
    """Return the best jobs whose predictions are stored, one of each model if there are several models.

    Args:
        store: the results folder.
        entries: the jobs on one data set, at least one.
        problems: a list; a sentence is added to it for each run whose stored predictions cannot be used.
    """
    classes = usual_classes(entries)
    best = best_jobs(entries, MOST_JOBS)
    models = {entry.records[0].model for entry in best}
    if len(models) > 1:
        best = best[: len(models)]
    jobs = []
    for entry in best:
        alike = [record for record in entry.records[:MOST_SEEDS] if record.classes == classes]
        for record in entry.records[:MOST_SEEDS]:
            if record not in alike and problems is not None:
                problems.append(
                    f"{record.run_id} is left out of what is counted by class: it names {record.classes} classes, "
                    f"most runs {classes}."
                )
        read = [(record, store.predictions(record, problems)) for record in alike]
        there = [(record, predictions) for record, predictions in read if predictions is not None]
        if there:
            jobs.append(Answered(entry, there))
    return jobs


def class_names(store: Store, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return the names of the classes of the data set of these jobs; their numbers if the names are not stored."""
    classes = usual_classes(entries)
    names = images.class_names(store.root, entries[0].records[0].dataset_sha256) or ()
    return names if len(names) == classes else tuple(str(number) for number in range(classes))


def confused(jobs: Sequence[Answered], names: tuple[str, ...]) -> list[Confused]:
    """Return the classes that jobs confuse most often; [] if the confusion matrices are drawn instead."""
    if len(names) <= MOST_CLASSES:
        return []
    return [Confused(job.entry.label, job.whose, most_confused(job.labels, job.predicted), names) for job in jobs]
