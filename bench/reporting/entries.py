"""Records grouped for comparison: by data set, then by job, each job with a label that tells it apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench.reporting.speed import Speeds, speeds_of
from bench.spec import DISTINGUISHING, Deployment, Record, Status, describe_choice

if TYPE_CHECKING:  # drawing plots does not need pyarrow
    from bench.reporting.store import Store

DataKey = tuple[str, str, int, int]
"""The key of a data set: name, SHA-256, number of training images, number of test images."""


def data_key(record: Record) -> DataKey:
    """Return the key of the data set that a run was on."""
    return record.dataset, record.dataset_sha256, record.train_images, record.test_images


@dataclass(frozen=True)
class Entry:
    """The runs of one job: one column of the comparison."""

    label: str
    records: list[Record]
    """The finished runs, by seed."""
    speeds: Speeds = field(default_factory=Speeds)
    """The timings taken after the training."""
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    """The answers of one trained model to all test images, by back end."""

    @property
    def accuracies(self) -> dict[int, float]:
        """Return the share of test images classified right, by seed."""
        return {record.seed: record.test_accuracy for record in self.records if record.test_accuracy is not None}


@dataclass(frozen=True)
class Comparison:
    """The jobs on one data set, which may be compared with each other."""

    title: str
    entries: list[Entry]


def tested(records: Iterable[Record]) -> list[Record]:
    """Return the runs that are judged on the test images: all but the trials of sweeps."""
    return [record for record in records if record.judged_on == "test"]


def comparisons(records: Iterable[Record], store: Store | None = None) -> list[Comparison]:
    """Return the finished runs by data set and, within one, by job, sorted by name; trials of sweeps are left out.

    Args:
        records: all records.
        store: the results folder with their timings; None leaves the timings out.
    """
    by_data: dict[DataKey, list[Record]] = {}
    for record in tested(records):
        if record.status is Status.OK:
            by_data.setdefault(data_key(record), []).append(record)
    timed = store.timed() if store is not None else set()
    compared = []
    for (dataset, _, train_images, test_images), group in sorted(by_data.items()):
        title = f"{dataset}: {train_images:,} training and {test_images:,} test images"
        entries = _entries(group)
        if store is not None and timed:
            entries = [
                replace(
                    entry,
                    speeds=speeds_of(store, entry.records, timed),
                    deployments=_deployments(store, entry.records, timed),
                )
                for entry in entries
            ]
        compared.append(Comparison(title, entries))
    return compared


def _deployments(store: Store, records: Sequence[Record], timed: set[str]) -> dict[str, Deployment]:
    """Return the answers of the first run that was prepared for back ends, by back end."""
    for record in records:
        if record.run_id in timed and (rows := store.deployments(record.run_id)):
            return {row.backend: row for row in rows}
    return {}


def natural(label: str) -> list[tuple[str, float]]:
    """Return a sort key in natural order: 'epochs 5' before 'epochs 10', '300 images' before '1,000 images'."""
    parts = re.split(r"(\d[\d,]*(?:\.\d+)?)", label)
    return [
        (text, float(number.replace(",", "") or 0))
        for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)
    ]


def _entries(records: Sequence[Record]) -> list[Entry]:
    jobs: dict[str, list[Record]] = {}
    for record in records:
        jobs.setdefault(record.job_id, []).append(record)
    by_model: dict[str, list[Record]] = {}
    for runs in jobs.values():
        by_model.setdefault(runs[0].model, []).append(runs[0])
    differing = {model: _differing(siblings) for model, siblings in by_model.items()}
    labels = {job: _label(runs[0], differing[runs[0].model]) for job, runs in jobs.items()}
    counts = Counter(labels.values())
    entries = [
        Entry(labels[job] if counts[labels[job]] == 1 else f"{labels[job]} [{job}]", sorted(runs, key=_seed))
        for job, runs in jobs.items()
    ]
    return sorted(entries, key=lambda entry: natural(entry.label))


def _seed(record: Record) -> int:
    return record.seed


def _differing(siblings: Sequence[Record]) -> list[str]:
    """Return the names of the fields in which the jobs of one model differ."""
    names = [name for name in DISTINGUISHING if len({getattr(other, name) for other in siblings}) > 1]
    # the digest is named only where the words for the weights are the same
    return [name for name in names if name != "weights_sha256" or "weights" not in names]


def _label(record: Record, differing: Sequence[str]) -> str:
    details = ", ".join(describe_choice(name, getattr(record, name)) for name in differing)
    return f"{record.model} ({details})" if details else record.model
