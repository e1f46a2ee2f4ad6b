"""The results folder: one immutable Parquet file per run and kind, each written whole or not at all.

    results/runs/ID.parquet              the record: one row, the same schema in every shard
    results/epochs/ID.parquet            one row per epoch
    results/predictions/ID.parquet       one row per test image
    results/timings/ID.parquet           one row per timed sample, of the runs that were timed
    results/deployments/ID.parquet       one row per back end that the trained model was prepared for
    results/checkpoints/ID.safetensors   the trained model
    results/unfinished/ID.state          the state that an interrupted run goes on from
    results/set-aside/                   files from runs/ that are no records: damaged, or of another program
    results/.index.jsonl                 a copy of what runs/ holds, read a thousand times faster; may be deleted

A record is written last: where there is a record, all that belongs to it is there. The files in runs/ are what counts:
a line of the index is used only while its file has the size and the time of change that the line names.
"""

from __future__ import annotations

import datetime
import itertools
import math
import os
import tempfile
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import UserError
from bench.reporting.files import disk_errors, write_whole
from bench.reporting.predictions import check, from_table, to_table
from bench.spec import (
    BEFORE_BACKENDS,
    SCHEMA_VERSION,
    Deployment,
    EpochRecord,
    Measured,
    Predictions,
    Record,
    Result,
    Scores,
    Status,
    Timing,
)

_ARROW_TYPES: dict[Any, pa.DataType] = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bool: pa.bool_(),
    datetime.datetime: pa.timestamp("us", tz="UTC"),
}

Row = TypeVar("Row", EpochRecord, Timing, Deployment)


def schema_of(row: type[BaseModel]) -> pa.Schema:
    """Return the Parquet schema of a flat row: one column per field, in order, its description as metadata."""
    columns = []
    for name, field in row.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, types.UnionType):
            annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
        if typing.get_origin(annotation) is typing.Literal or issubclass(annotation, StrEnum):
            annotation = str
        metadata = {"description": field.description} if field.description else None
        columns.append(pa.field(name, _ARROW_TYPES[annotation], nullable=not field.is_required(), metadata=metadata))
    return pa.schema(columns, metadata={"schema_version": str(SCHEMA_VERSION)})


RUNS_SCHEMA = schema_of(Record)
EPOCHS_SCHEMA = schema_of(EpochRecord)
TIMINGS_SCHEMA = schema_of(Timing)
DEPLOYMENTS_SCHEMA = schema_of(Deployment)
_INDEX = ".index.jsonl"
_WORTH_AN_INDEX = 100
"""The fewest files that must have been read to write an index; a small folder is left as it is."""
_NO_RECORD = (OSError, pa.ArrowException, ValidationError, ValueError)
"""The errors that reading a file raises if it is no record."""


class _Indexed(BaseModel):
    """A line of the index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    size: int
    changed: int
    """The time of change in nanoseconds, as the file system gives it."""
    record: Record

    def line(self) -> bytes:
        return b"\n" + self.model_dump_json().encode() + b"\n"  # a torn line before it stays a line of its own


class Store:
    """A results folder, to read and to write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the folder and check that it can be written.

        Raises:
            UserError: it cannot be written.
        """
        try:
            for name in ("runs", "epochs", "predictions", "checkpoints"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / "runs"):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"--results {self.root}: cannot write there ({reason}); name a folder that you can write"
            ) from None

    def write(self, result: Result) -> None:
        """Store a run's result; write nothing if a failure would replace a success that is there.

        Raises:
            UserError: the result cannot be written.
        """
        record = result.record
        if record.status is not Status.OK and self._has_result(record.run_id):
            return
        with disk_errors(self.root):
            if result.epochs:
                self._write_rows("epochs", record.run_id, result.epochs, EPOCHS_SCHEMA)
            if result.predictions is not None:
                self._write_table(self._file("predictions", record.run_id), to_table(result.predictions))
            if result.checkpoint is not None:
                write_whole(self._file("checkpoints", record.run_id, "safetensors"), result.checkpoint)
            written = self._write_rows("runs", record.run_id, [record], RUNS_SCHEMA)
            shard = self._file("runs", record.run_id).name
            self._add_to_index(_Indexed(file=shard, size=written.st_size, changed=written.st_mtime_ns, record=record))
            if record.status is not Status.INTERRUPTED:
                self._file("unfinished", record.run_id, "state").unlink(missing_ok=True)

    def records(self, *, set_aside: bool = False) -> tuple[list[Record], list[str]]:
        """Return (all records, by start time; a line for each file that is no record, and each with absurd figures).

        Figures that no run can have measured (NaN, below 0, a share above 1) are null in what is returned.

        Args:
            set_aside: whether to move such files out of runs/, so that other programs can read it as one table.
        """
        shards = self._shards()
        index, lines = self._read_index()
        records: list[Record] = []
        current, problems, opened = [], [], 0
        for name, (size, changed) in shards.items():
            line = index.get(name)
            if line is not None and (line.size, line.changed) == (size, changed):
                records.append(line.record)
                current.append(line)
                continue
            opened += 1
            file = self.root / "runs" / name
            try:
                record, whole = _read_record(file)
            except _NO_RECORD as error:
                problem = f"{file} is no record of a run ({_short(error)})"
                problems.append(f"{problem}; {self._set_aside(file) if set_aside else 'left out'}")
                continue
            records.append(record)
            if whole:
                current.append(_Indexed(file=name, size=size, changed=changed, record=record))
        if opened >= _WORTH_AN_INDEX or lines > 2 * len(current) + _WORTH_AN_INDEX:
            with suppress(OSError):  # a folder that may only be read
                write_whole(self.root / _INDEX, b"".join(line.line() for line in current))
        believed = [_believed(record, problems) for record in records]
        return sorted(believed, key=lambda record: (record.started_at, record.run_id)), problems

    def _shards(self) -> dict[str, tuple[int, int]]:
        """Return (size, time of change in ns) of each file in runs/ by its name, in order."""
        shards = {}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / "runs") as entries:
            for entry in entries:
                if entry.name.endswith(".parquet"):
                    try:
                        state = entry.stat()
                        shards[entry.name] = (state.st_size, state.st_mtime_ns)
                    except OSError:  # a link to nowhere, or gone meanwhile: reading it says so
                        shards[entry.name] = (-1, -1)
        return dict(sorted(shards.items()))

    def _read_index(self) -> tuple[dict[str, _Indexed], int]:
        """Return (lines by the name of their file, number of all lines); lines that cannot be read are skipped."""
        try:
            lines = [line for line in (self.root / _INDEX).read_bytes().split(b"\n") if line]
        except OSError:
            return {}, 0
        index = {}
        for line in lines:
            with suppress(ValidationError):
                parsed = _Indexed.model_validate_json(line)
                if parsed.record.schema_version <= SCHEMA_VERSION:
                    index[parsed.file] = parsed
        return index, len(lines)

    def _add_to_index(self, line: _Indexed) -> None:
        # the shard is there, and the index is only for speed; unbuffered, so that several commands can share a folder
        with suppress(OSError), (self.root / _INDEX).open("ab", buffering=0) as index:
            index.write(line.line())

    def _set_aside(self, file: Path) -> str:
        folder = self.root / "set-aside"
        names = itertools.chain([file.name], (f"{file.name}.{number}" for number in itertools.count(1)))
        target = next(folder / name for name in names if not (folder / name).exists())
        try:
            folder.mkdir(exist_ok=True)
            file.rename(target)
        except OSError:  # a folder that may only be read
            return "left out"
        return f"moved to {target}"

    def set_aside(self) -> list[str]:
        """Return the names of the files that were set aside."""
        return sorted(file.name for file in (self.root / "set-aside").glob("*"))

    def write_text(self, name: str, text: str) -> Path:
        """Write a page into the results folder, whole or not at all; ``name`` may name one folder in it.

        Raises:
            UserError: the page cannot be written.
        """
        file = self.root / name
        with disk_errors(self.root):
            file.parent.mkdir(exist_ok=True)
            write_whole(file, text.encode())
        return file

    def epochs(self, run_id: str) -> list[EpochRecord]:
        """Return the epochs of a run; empty if it finished none, or the file is damaged."""
        return _rows(self._file("epochs", run_id), EpochRecord, _as_epoch)

    def write_timings(self, run_id: str, timings: Sequence[Timing]) -> None:
        """Store the timed samples of a run, in place of earlier ones of the same back ends.

        Raises:
            UserError: they cannot be written.
        """
        replaced = {BEFORE_BACKENDS, *(row.backend for row in timings)}
        kept = [row for row in self.timings(run_id) if row.backend not in replaced]
        self._write_rows("timings", run_id, [*kept, *timings], TIMINGS_SCHEMA)

    def timings(self, run_id: str) -> list[Timing]:
        """Return the timed samples of a run; empty if it was not timed, or the file is damaged."""
        return _rows(self._file("timings", run_id), Timing, _as_timing)

    def write_deployments(self, run_id: str, deployments: Sequence[Deployment]) -> None:
        """Store the results of a run's model with each back end, in place of earlier ones of the same back ends.

        Raises:
            UserError: they cannot be written.
        """
        replaced = {BEFORE_BACKENDS, *(row.backend for row in deployments)}
        kept = [row for row in self.deployments(run_id) if row.backend not in replaced]
        self._write_rows("deployments", run_id, [*kept, *deployments], DEPLOYMENTS_SCHEMA)

    def deployments(self, run_id: str) -> list[Deployment]:
        """Return the results of a run's model with each back end; empty if there are none, or the file is damaged."""
        return _rows(self._file("deployments", run_id), Deployment)

    def _write_rows(self, kind: str, run_id: str, rows: Sequence[BaseModel], schema: pa.Schema) -> os.stat_result:
        file = self._file(kind, run_id)
        with disk_errors(self.root):
            file.parent.mkdir(exist_ok=True)
            return self._write_table(file, pa.Table.from_pylist([row.model_dump() for row in rows], schema))

    def timed(self) -> set[str]:
        """Return the ids of the runs that were timed."""
        return {file.stem for file in (self.root / "timings").glob("*.parquet")}

    def predictions(self, record: Record, problems: list[str] | None = None) -> Predictions | None:
        """Return a run's predictions for the test images; None if they are not stored, or cannot be used.

        Args:
            record: the run's record.
            problems: a list; a sentence is added to it if the predictions are stored, but cannot be used.
        """
        file = self._file("predictions", record.run_id)
        try:
            predictions = from_table(_read_table(file))
            check(predictions, record.classes)
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
            if problems is not None:
                problems.append(f"The stored predictions of {record.run_id} are left out: {_short(error)}.")
            return None
        return predictions

    def save_state(self, run_id: str, state: bytes) -> None:
        """Keep the training state that an interrupted run goes on from.

        Raises:
            UserError: it cannot be written.
        """
        with disk_errors(self.root):
            file = self._file("unfinished", run_id, "state")
            file.parent.mkdir(exist_ok=True)
            write_whole(file, state)

    def states(self, run_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the kept training states of these runs, by run id; runs without one are left out."""
        files = {run_id: self._file("unfinished", run_id, "state") for run_id in run_ids}
        return {run_id: file.read_bytes() for run_id, file in files.items() if file.exists()}

    def _has_result(self, run_id: str) -> bool:
        try:
            return _read_record(self._file("runs", run_id))[0].status is Status.OK
        except _NO_RECORD:
            return False

    def _file(self, kind: str, run_id: str, ending: str = "parquet") -> Path:
        return self.root / kind / f"{run_id}.{ending}"

    @staticmethod
    def _write_table(file: Path, table: pa.Table) -> os.stat_result:
        sink = pa.BufferOutputStream()
        few = table.num_rows < 2  # statistics and dictionaries only make such a file larger and slower to read
        pq.write_table(table, sink, compression="zstd", use_dictionary=not few, write_statistics=not few)
        return write_whole(file, sink.getvalue().to_pybytes())


def _read_table(file: Path) -> pa.Table:
    # from memory and on this thread: pq.read_table takes three times as long for a small file
    return pq.ParquetFile(pa.BufferReader(file.read_bytes())).read(use_threads=False)


def _rows(
    file: Path, kind: type[Row], adapt: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row
) -> list[Row]:
    try:
        return [kind.model_validate(adapt(row)) for row in _read_table(file).to_pylist()]
    except _NO_RECORD:
        return []


def _as_epoch(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the columns that only another version has for an epoch."""
    return {name: value for name, value in row.items() if name in EpochRecord.model_fields}


def _as_timing(row: dict[str, Any]) -> dict[str, Any]:
    """Name the columns of a timing from an earlier version as they are named now."""
    if "yardstick_seconds" in row:
        row["reference_seconds"] = row.pop("yardstick_seconds")
    return {"backend": BEFORE_BACKENDS, **row}


def _read_record(file: Path) -> tuple[Record, bool]:
    """Return (the record, whether it holds all columns of the file: a newer version may have added some)."""
    table = _read_table(file)
    version = int((table.schema.metadata or {}).get(b"schema_version", b"0"))
    if version > SCHEMA_VERSION:
        raise ValueError(f"written by a newer version: schema {version}, known up to {SCHEMA_VERSION}")
    rows = table.to_pylist()
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows where one is expected")
    columns = {name: value for name, value in rows[0].items() if name in Record.model_fields}
    # columns of an older schema that are not read here were removed since
    return Record.model_validate(columns), version < SCHEMA_VERSION or len(columns) == len(rows[0])


_LOSSES = ("test_loss", "train_loss")
"""Figures that may be infinite: those of a run that diverged."""
_FIGURES = {
    name: 1.0 if name.endswith(("_accuracy", "_f1", "_error")) else math.inf
    for name, field in {**Measured.model_fields, **Scores.model_fields}.items()
    if field.annotation in (int | None, float | None) and name not in _LOSSES
}
"""The measured columns that cannot be below 0, and the largest value of each."""


def _believed(record: Record, problems: list[str]) -> Record:
    """Return a record without figures that no run can have measured; add a line to ``problems`` that names them."""
    absurd = {}
    for name, largest in _FIGURES.items():
        value = getattr(record, name)
        if value is not None and not (math.isfinite(value) and 0 <= value <= largest):
            absurd[name] = value
    if not absurd:
        return record
    listed = ", ".join(f"{name} = {value:g}" for name, value in absurd.items())
    problems.append(f"{record.run_id} has figures that no run can have measured, which are left out: {listed}")
    return record.model_copy(update=dict.fromkeys(absurd))


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
