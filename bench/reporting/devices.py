"""The speeds of jobs by kind of device, of a cluster with several: each kind in rows of its own, never compared."""

from __future__ import annotations

from bench.reporting.entries import Comparison, Entry
from bench.reporting.formats import MISSING, milliseconds, per_second
from bench.reporting.speed import Speed, Speeds, device_of
from bench.reporting.table import Cell, Column, Table, cell_of, table_of, text_column

_Row = tuple[str, Entry, Speeds]
"""A device's name, a job, and the job's speeds on it."""


def by_device_table(comparison: Comparison) -> Table | None:
    """Return a row for each kind of device and job; None if all were timed on one kind."""
    rows: list[_Row] = []
    for entry in comparison.entries:
        own = {device_of(speed): entry.speeds for speed in entry.speeds.all()}
        rows += [(device, entry, speeds) for device, speeds in (own | dict(entry.speeds.elsewhere)).items()]
    if len({device for device, _, _ in rows}) < 2:
        return None
    return table_of(_COLUMNS, sorted(rows, key=lambda row: row[0]))


def by_device_notes(comparison: Comparison) -> list[str]:
    """Return the notes below the table, as Markdown."""
    if by_device_table(comparison) is None:
        return []
    return ["Eager mode, exclusive. Compare jobs on one device only; all other figures on this page are of one."]


def _rate(speed: Speed | None) -> Cell:
    return Cell(MISSING) if speed is None else cell_of(speed.images_per_second, per_second)


def _latency(speed: Speed | None) -> Cell:
    return Cell(MISSING) if speed is None else cell_of(speed.latency["p50"], milliseconds)


_COLUMNS: list[Column[_Row]] = [
    text_column("Device", lambda row: row[0]),
    text_column("Model", lambda row: row[1].label),
    Column("Training throughput", lambda row: _rate(row[2].training)),
    Column("Inference throughput", lambda row: _rate(row[2].batches)),
    Column("Latency of one image, p50", lambda row: _latency(row[2].single)),
]
