"""The parts that exports share: a run's parameters and figures by name, its digest, its plots."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from bench.reporting.entries import Entry
from bench.reporting.plots import confusion_matrix, learning_curves
from bench.reporting.scores import MOST_CLASSES
from bench.reporting.store import Store
from bench.reporting.style import looks, png
from bench.spec import PARAMETERS, RecipeFields, Record

IDENTITY = ("run_id", "job_id", "status", "reason", "started_at", "ended_at", "schema_version", "checkpoint")
"""Columns of the record that are neither parameters nor figures."""


def parameters(record: Record) -> dict[str, str | int | float]:
    """Return the parameters of a run: every field of the recipe, 'none' if it is null, and others that are not null."""
    values = {name: getattr(record, name) for name in PARAMETERS}
    not_asked = {name: "none" for name in RecipeFields.model_fields if values[name] is None}
    return {name: value for name, value in values.items() if value is not None} | not_asked


def figures(record: Record) -> dict[str, float]:
    """Return the measured numbers by name; those that are null are left out."""
    return {
        name: float(value)
        for name, value in record.model_dump().items()
        if name not in PARAMETERS + IDENTITY and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def facts(record: Record) -> dict[str, str]:
    """Return all other fields that are not null, as text: where the run was measured, how it ended."""
    exported = {**parameters(record), **figures(record)}
    rows = record.model_dump(mode="json")
    return {name: str(value) for name, value in rows.items() if name not in exported and value is not None}


def digest(record: Record) -> str:
    """Return the SHA-256 of the record, which changes when the run is trained again."""
    return hashlib.sha256(record.model_dump_json().encode()).hexdigest()


def plots(store: Store, record: Record, problems: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, PNG) for each plot that the run's stored epochs and predictions allow.

    A sentence is added to ``problems`` if stored predictions cannot be used.
    """
    epochs = store.epochs(record.run_id)
    if epochs:
        drawn = learning_curves(
            [Entry(record.model, [record])], {record.run_id: epochs}, looks([record.model]), dataset=record.dataset
        )
        yield "training", png(drawn)
    predictions = store.predictions(record, problems)
    if predictions is not None and record.classes <= MOST_CLASSES:
        drawn = confusion_matrix(
            predictions.labels,
            predictions.predicted,
            [str(number) for number in range(record.classes)],
            title=f"Confusion matrix of {record.model} on {record.dataset}",
            note=f"Seed {record.seed}, {len(predictions.labels):,} test images.",
        )
        yield "confusion", png(drawn)
