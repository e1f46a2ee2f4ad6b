"""What every export shares: a run's parameters and figures by name, its digest, its plots."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from bench.reporting.plots import confusion_matrix, learning_curves, looks, png
from bench.reporting.store import Store
from bench.reporting.tables import Entry
from bench.spec import Record

IDENTITY = ("run_id", "job_id", "status", "reason", "started_at", "ended_at", "schema_version", "checkpoint")
PARAMETERS = (
    "model",
    "dataset",
    "dataset_sha256",
    "train_images",
    "test_images",
    "classes",
    "seed",
    "epochs",
    "batch_size",
    "lr",
    "optimizer",
    "bn_mode",
    "weights",
    "weights_sha256",
    "plugin_sha256",
    "workers",
)
"""Columns that were chosen, not measured."""


def parameters(record: Record) -> dict[str, str | int | float]:
    """What was asked for."""
    found = {name: getattr(record, name) for name in PARAMETERS}
    return {name: value for name, value in found.items() if value is not None}


def figures(record: Record) -> dict[str, float]:
    """What was measured and is a number; unknown is left out."""
    return {
        name: float(value)
        for name, value in record.model_dump().items()
        if name not in PARAMETERS + IDENTITY and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def facts(record: Record) -> dict[str, str]:
    """Everything else: where it was measured, how it ended."""
    known = {**parameters(record), **figures(record)}
    rows = record.model_dump(mode="json")
    return {name: str(value) for name, value in rows.items() if name not in known and value is not None}


def digest(record: Record) -> str:
    """Changes when the run was trained again."""
    return hashlib.sha256(record.model_dump_json().encode()).hexdigest()


def plots(store: Store, record: Record) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of each plot that the run's stored epochs and predictions allow."""
    epochs = store.epochs(record.run_id)
    if epochs:
        drawn = learning_curves(
            [Entry(record.model, [record])], {record.run_id: epochs}, looks([record.model]), dataset=record.dataset
        )
        yield "training", png(drawn)
    said = store.predictions(record.run_id)
    if said is not None:
        drawn = confusion_matrix(
            said.labels,
            said.predicted,
            [str(number) for number in range(record.classes)],
            title=f"Confusion matrix of {record.model} on {record.dataset}",
            note=f"Seed {record.seed}, {len(said.labels):,} test images.",
        )
        yield "confusion", png(drawn)
