"""The stored predictions of the best jobs on a data set, and the pairs of classes that these confuse most often."""

from __future__ import annotations

import statistics
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


def answered(store: Store, entries: Sequence[Entry]) -> list[Answered]:
    """Return the best jobs whose predictions are stored, one of each model if there are several models."""
    best = best_jobs(entries, MOST_JOBS)
    models = {entry.records[0].model for entry in best}
    if len(models) > 1:
        best = best[: len(models)]
    jobs = []
    for entry in best:
        read = [(record, store.predictions(record.run_id)) for record in entry.records[:MOST_SEEDS]]
        there = [(record, predictions) for record, predictions in read if predictions is not None]
        if there:
            jobs.append(Answered(entry, there))
    return jobs


def class_names(store: Store, record: Record) -> tuple[str, ...]:
    """Return the names of the classes of a run's data set; their numbers if the names are not stored."""
    names = images.class_names(store.root, record.dataset_sha256) or ()
    return names if len(names) == record.classes else tuple(str(number) for number in range(record.classes))


def confused(store: Store, entries: Sequence[Entry]) -> list[Confused]:
    """Return the classes that the best jobs confuse most often; [] if the confusion matrices are drawn instead."""
    entries = [entry for entry in entries if entry.accuracies]
    if not entries or entries[0].records[0].classes <= MOST_CLASSES:
        return []
    names = class_names(store, entries[0].records[0])
    return [
        Confused(job.entry.label, job.whose, most_confused(job.labels, job.predicted), names)
        for job in answered(store, entries)
    ]
