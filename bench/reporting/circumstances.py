"""Circumstances that may change a result although they are not in the recipe: device, precision, threads, versions.

A sum in another order, or by another version of a library, is rounded differently, and training amplifies that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.spec import Record

MOST_LABELS = 4
"""The most jobs that a line names; of more it gives only the number."""


@dataclass(frozen=True)
class Circumstance:
    """A column of the record that may change a result, and the words for its values."""

    column: str
    name: str
    """The words that a list of its values begins with."""
    phrase: Callable[[str], str]
    """The words for a value after 'was trained'."""


CIRCUMSTANCES = (
    Circumstance("device", "device", lambda value: "on the CPU" if value == "cpu" else f"on {value}"),
    Circumstance("precision_used", "precision", lambda value: f"in {value}"),
    Circumstance("threads", "threads", lambda value: f"with {value} thread{'' if value == '1' else 's'}"),
    Circumstance("torch_version", "torch", lambda value: f"with torch {value}"),
)


def between(first: str, first_records: Iterable[Record], second: str, second_records: Iterable[Record]) -> list[str]:
    """Return a line for each circumstance in which two sides differ: 'note: OLD was trained with torch 2.11.0, ...'.

    A circumstance that one side did not record is not compared.

    Args:
        first: the name of the first side.
        first_records: its finished runs.
        second: the name of the second side.
        second_records: its finished runs.
    """
    sides = [list(first_records), list(second_records)]
    lines = []
    for circumstance in CIRCUMSTANCES:
        first_values, second_values = (_values(records, circumstance) for records in sides)
        if first_values and second_values and first_values != second_values:
            phrases = [" and ".join(map(circumstance.phrase, values)) for values in (first_values, second_values)]
            lines.append(f"note: {first} was trained {phrases[0]}, {second} {phrases[1]}")
    return lines


def among(jobs: Sequence[tuple[str, Sequence[Record]]]) -> str:
    """Return one line on what differs within or between jobs, each (label, finished runs); '' if nothing does."""
    parts = []
    for circumstance in CIRCUMSTANCES:
        labels: dict[str, list[str]] = {}
        for label, records in jobs:
            for value in _values(records, circumstance):
                labels.setdefault(value, []).append(label)
        if len(labels) > 1:
            values = [f"{value} ({_listed(labels[value])})" for value in sorted(labels, key=_in_order)]
            parts.append(f"{circumstance.name} {', '.join(values)}")
    return f"Not all runs were trained alike, which may change a result: {'; '.join(parts)}." if parts else ""


def _values(records: Iterable[Record], circumstance: Circumstance) -> list[str]:
    """Return the recorded values, each once, in order."""
    recorded = {getattr(record, circumstance.column) for record in records}
    return sorted((str(value) for value in recorded if value is not None), key=_in_order)


def pictures(jobs: Sequence[tuple[str, Sequence[Record]]]) -> str:
    """Return one line on the pictures that jobs (labels, finished runs) see, if they differ; else ''.

    Runs of versions that did not record it are left out.
    """
    seen: dict[str, list[str]] = {}
    for label, records in jobs:
        for form in sorted({_form(record) for record in records if record.input_size is not None}):
            seen.setdefault(form, []).append(label)
    forms = [f"{form} ({_listed(labels)})" for form, labels in seen.items()]
    return f"The models see different pictures: {'; '.join(forms)}." if len(forms) > 1 else ""


def _form(record: Record) -> str:
    colour = "grey" if record.input_channels == 1 else "colour"
    crop = "" if record.input_crop in (None, 1.0) else f", the middle {100 * float(record.input_crop or 1):.0f} %"
    return f"{record.input_size} px, {colour}{crop}"


def _in_order(value: str) -> tuple[int, str]:
    return (int(value) if value.isdecimal() else 0, value)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= MOST_LABELS else f"{len(labels)} jobs"
