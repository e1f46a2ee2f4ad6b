"""Records grouped for comparison: by data set, then by job, each job with a unique label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bench.reporting.formats import part_of
from bench.reporting.groups import grouped
from bench.reporting.scores import Pair
from bench.reporting.speed import Speed, Speeds, speeds_of
from bench.spec import DISTINGUISHING, Deployment, Record, Status, describe_choice

if TYPE_CHECKING:  # drawing plots does not need pyarrow
    from bench.reporting.store import Store

DataKey = tuple[str, str, int, int]
"""The key of a data set: name, SHA-256, number of training images, number of test images."""


def data_key(record: Record) -> DataKey:
    """Return the key of the data set that a run was on."""
    return record.dataset, record.dataset_sha256, record.train_images, record.test_images


def title_of(key: DataKey, records: Iterable[Record] = ()) -> str:
    """Return a data set as a heading: 'mnist: 60,000 training and 10,000 test images'.

    Where not all training images were used by ``records``, it says how many: '500 of 60,000 training and ...'.
    """
    name, _, train_images, test_images = key
    used = part_of((trained_on(record) for record in records), train_images)
    return f"{name}: {used} training and {test_images:,} test images"


def trained_on(record: Record) -> int:
    """Return how many images the run was trained on in an epoch."""
    available = record.train_images - record.validation_size
    return record.images_per_epoch or (available if record.train_size is None else min(available, record.train_size))


_TELLING = ("epochs", "lr", "precision", "augment", "image_size", "train_size", "trainable", "weights")
"""The choices that a label rather names than others, the most telling last."""


@dataclass(frozen=True)
class Entry:
    """The runs of one job: one column of the comparison."""

    label: str
    records: list[Record]
    """The finished runs, by seed."""
    speeds: Speeds = field(default_factory=Speeds)
    """The timings taken after the training."""
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    """The result of one trained model on all test images, by back end."""

    @property
    def accuracies(self) -> dict[int, float]:
        """Return the share of test images classified right, by seed."""
        return {record.seed: record.test_accuracy for record in self.records if record.test_accuracy is not None}

    def machine_of(self, speed: Speed) -> str:
        """Return the machine that a speed of this job was timed on, in words."""
        cpu = (speed.cpu or self.records[0].cpu) if speed.device == "cpu" else None
        return f"{cpu}, {speed.machine}" if cpu else speed.machine


@dataclass(frozen=True)
class ByClass:
    """The accuracy of a job on each class."""

    label: str
    """The label of the job."""
    whose: str
    """Whose predictions were counted, as a sentence."""
    right: list[int]
    """The test images of each class that were classified right, of all seeds."""
    images: list[int]
    """The test images of each class, of all seeds."""
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Confused:
    """The classes that a job confuses most often."""

    label: str
    """The label of the job."""
    whose: str
    """Whose predictions were counted, as a sentence."""
    pairs: list[Pair]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """The jobs on one data set, which may be compared with each other."""

    title: str
    entries: list[Entry]
    by_class: list[ByClass] = field(default_factory=list)
    """The accuracy of the best jobs on each class."""
    confused: list[Confused] = field(default_factory=list)
    """What the best jobs confuse, of a data set with too many classes for a confusion matrix."""


def tested(records: Iterable[Record]) -> list[Record]:
    """Return the runs that are judged on the test images: all but the trials of sweeps."""
    return [record for record in records if record.judged_on == "test"]


def comparisons(records: Iterable[Record], store: Store | None = None) -> list[Comparison]:
    """Return the finished runs by data set and, within one, by job, sorted by name; trials of sweeps are left out.

    Args:
        records: all records.
        store: the results folder with their timings; None leaves the timings out.
    """
    finished = [record for record in tested(records) if record.status is Status.OK]
    by_data = sorted(grouped(finished, data_key).items())
    compared = [Comparison(title_of(key, runs), _entries(runs)) for key, runs in by_data]
    timed = store.timed() if store is not None else set()
    if store is None or not timed:
        return compared
    store.read_ahead("deployments", timed)
    store.read_ahead("timings", timed)
    return [
        replace(comparison, entries=[_with_timings(entry, store, timed) for entry in comparison.entries])
        for comparison in compared
    ]


def _with_timings(entry: Entry, store: Store, timed: set[str]) -> Entry:
    """Return a job with its timings, and the deployments of the first run that was prepared for back ends."""
    deployments = (store.deployments(record.run_id) for record in entry.records if record.run_id in timed)
    first = next(filter(None, deployments), [])
    speeds = speeds_of(store, entry.records, timed)
    return replace(entry, speeds=speeds, deployments={row.backend: row for row in first})


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
    labels = labels_of({job_id: vars(runs[0]) for job_id, runs in jobs.items()})
    entries = [Entry(labels[job_id], sorted(runs, key=lambda run: run.seed)) for job_id, runs in jobs.items()]
    return sorted(entries, key=lambda entry: natural(entry.label))


def labels_of(jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return a label for each job by its id: the model, and as few choices as tell that model's jobs apart.

    Args:
        jobs: by job id, the values of the columns 'model' and :data:`bench.spec.DISTINGUISHING`.
    """
    labels: dict[str, str] = {}
    for model, siblings in _by_model(jobs).items():
        differing = _differing(siblings)
        left_out = _left_out(differing, siblings)
        named = [name for name in differing if name not in left_out]
        for job_id, columns in siblings.items():
            details = _described(named, columns)
            labels[job_id] = f"{model} ({details})" if details else model
    counts = Counter(labels.values())
    return {job_id: label if counts[label] == 1 else f"{label} [{job_id}]" for job_id, label in labels.items()}


def left_out_of_labels(jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return by job id the further choices in which a model's jobs differ, which :func:`labels_of` does not name."""
    texts: dict[str, str] = {}
    for siblings in _by_model(jobs).values():
        left_out = _left_out(_differing(siblings), siblings)
        texts |= {job_id: _described(left_out, columns) for job_id, columns in siblings.items() if left_out}
    return texts


def _by_model(jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    models: dict[str, dict[str, Mapping[str, Any]]] = {}
    for job_id, columns in jobs.items():
        models.setdefault(columns["model"], {})[job_id] = columns
    return models


def _differing(siblings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the choices in which jobs of one model differ."""
    differing = [name for name in DISTINGUISHING if len({columns[name] for columns in siblings.values()}) > 1]
    if "weights" in differing and "weights_sha256" in differing:  # the words for the weights say enough
        differing.remove("weights_sha256")
    return differing


def _left_out(differing: Sequence[str], siblings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return those of the choices without which the others still tell the jobs apart, the least telling first."""

    def told_apart(names: Sequence[str]) -> int:
        return len({tuple(columns[name] for name in names) for columns in siblings.values()})

    named = list(differing)
    for name in sorted(differing, key=lambda name: _TELLING.index(name) if name in _TELLING else -1):
        others = [other for other in named if other != name]
        if others and told_apart(others) == told_apart(differing):
            named = others
    return [name for name in differing if name not in named]


def _described(names: Iterable[str], columns: Mapping[str, Any]) -> str:
    return ", ".join(describe_choice(name, columns[name]) for name in names)
