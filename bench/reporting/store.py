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

A record is written last: where there is a record, all that belongs to it is there. The folder may also be in object
storage, with the same names; what cannot be written there is the business of :mod:`bench.reporting.remote`.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from bench.errors import UserError
from bench.reporting import files
from bench.reporting.files import State, disk_errors, write_whole
from bench.reporting.index import WORTH_AN_INDEX, Line, add_to_index, read_index, write_index
from bench.reporting.predictions import check, from_table, to_table
from bench.reporting.schemas import DEPLOYMENTS_SCHEMA, EPOCHS_SCHEMA, RUNS_SCHEMA, TIMINGS_SCHEMA
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
from bench.storage import Place, reach

Row = TypeVar("Row", EpochRecord, Timing, Deployment)


_ENDINGS = {"checkpoints": ".safetensors", "unfinished": ".state"}
"""The endings of the files in folders that hold other files than Parquet."""
_NO_RECORD = (OSError, pa.ArrowException, ValidationError, ValueError)
"""The errors that reading a file raises if it is no record."""


class Store:
    """A results folder, to read and to write."""

    def __init__(self, root: Place) -> None:
        self.root = root
        self._ahead: dict[str, bytes | OSError] = {}
        """What was read ahead, by file; each is given out once."""

    def prepare(self) -> None:
        """Make the folder and check that it can be written.

        Raises:
            UserError: it cannot be written.
        """
        reach(self.root, to_write=True)
        try:
            for name in ("runs", "epochs", "predictions", "checkpoints"):
                files.make_folder(self.root / name)
            if isinstance(self.root, Path):
                with tempfile.TemporaryFile(dir=self.root / "runs"):
                    pass
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"--results {self.root}: cannot write there ({reason}); name a folder that you can write"
            ) from None

    def ensure_sent(self) -> None:
        """Do nothing: what was written to a disk is there."""

    def holds_runs(self) -> bool:
        """Return whether this is a results folder.

        Raises:
            UserError: it is in object storage, which cannot be reached.
        """
        reach(self.root)
        return files.is_folder(self.root / "runs")

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
            self.write_files(record.run_id, result.predictions, result.checkpoint)
            written = self._write_rows("runs", record.run_id, [record], RUNS_SCHEMA)
            add_to_index(self.root, self._file("runs", record.run_id).name, written, record)
            if record.status is not Status.INTERRUPTED:
                files.remove([self._file("unfinished", record.run_id)])

    def write_files(self, run_id: str, predictions: Predictions | None, checkpoint: bytes | None) -> None:
        """Store the large files of a run, before its record.

        Raises:
            UserError: one cannot be written.
        """
        with disk_errors(self.root):
            if predictions is not None:
                self._write_table(self._file("predictions", run_id), to_table(predictions))
            if checkpoint is not None:
                write_whole(self._file("checkpoints", run_id), checkpoint)

    def records(self, *, set_aside: bool = False) -> tuple[list[Record], list[str]]:
        """Return (all records, by start time; a line for each file that is no record, and each with absurd figures).

        Figures that no run can have measured (NaN, below 0, a share above 1) are null in what is returned.

        Args:
            set_aside: whether to move such files out of runs/, so that other programs can read it as one table.
        """
        folder = self.root / "runs"
        shards = files.listed(folder, ".parquet")
        index, lines = read_index(self.root)
        current = [index[name] for name, state in shards.items() if name in index and index[name].holds_for(state)]
        records, problems = [line.record for line in current], []
        indexed = {line.file for line in current}
        others = [folder / name for name in shards if name not in indexed]
        for file, content in zip(others, files.read_each(others), strict=True):
            try:
                record, whole = _read_record(file, content)
            except _NO_RECORD as error:
                problem = f"{file} is no record of a run ({_short(error)})"
                problems.append(f"{problem}; {self._set_aside(file) if set_aside else 'left out'}")
                continue
            records.append(record)
            if whole:
                size, changed = shards[file.name]
                current.append(Line(file=file.name, size=size, changed=changed, record=record))
        if len(others) >= WORTH_AN_INDEX or lines > 2 * len(current) + WORTH_AN_INDEX:
            write_index(self.root, current)
        believed = [_believed(record, problems) for record in records]
        return sorted(believed, key=lambda record: (record.started_at, record.run_id)), problems

    def _set_aside(self, file: Place) -> str:
        folder = self.root / "set-aside"
        names = itertools.chain([file.name], (f"{file.name}.{number}" for number in itertools.count(1)))
        try:
            target = next(folder / name for name in names if not files.is_file(folder / name))
            files.make_folder(folder)
            files.move(file, target)
        except (OSError, UserError):  # a folder that may only be read
            return "left out"
        return f"moved to {target}"

    def set_aside(self) -> list[str]:
        """Return the names of the files that were set aside."""
        return list(files.listed(self.root / "set-aside"))

    def write_text(self, name: str, text: str) -> Place:
        """Write a page into the results folder, whole or not at all; ``name`` may name one folder in it.

        Raises:
            UserError: the page cannot be written.
        """
        file = self.root / name
        with disk_errors(self.root):
            files.make_folder(file.parent)
            write_whole(file, text.encode())
        return file

    def epochs(self, run_id: str) -> list[EpochRecord]:
        """Return the epochs of a run; empty if it finished none, or the file is damaged."""
        return self._rows("epochs", run_id, EpochRecord, _as_epoch)

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
        return self._rows("timings", run_id, Timing, _as_timing)

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
        return self._rows("deployments", run_id, Deployment)

    def _write_rows(self, kind: str, run_id: str, rows: Sequence[BaseModel], schema: pa.Schema) -> State:
        file = self._file(kind, run_id)
        with disk_errors(self.root):
            files.make_folder(file.parent)
            return self._write_table(file, pa.Table.from_pylist([row.model_dump() for row in rows], schema))

    def timed(self) -> set[str]:
        """Return the ids of the runs that were timed."""
        return set(self.ids("timings"))

    def ids(self, kind: str) -> list[str]:
        """Return the ids of the runs with a file in a folder, as 'unfinished', in order."""
        ending = _ENDINGS.get(kind, ".parquet")
        return [name.removesuffix(ending) for name in files.listed(self.root / kind, ending)]

    def predictions(self, record: Record, problems: list[str] | None = None) -> Predictions | None:
        """Return a run's predictions for the test images; None if they are not stored, or cannot be used.

        Args:
            record: the run's record.
            problems: a list; a sentence is added to it if the predictions are stored, but cannot be used.
        """
        file = self._file("predictions", record.run_id)
        try:
            predictions = from_table(_table(self._read(file)))
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
            file = self._file("unfinished", run_id)
            files.make_folder(file.parent)
            write_whole(file, state)

    def states(self, run_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the kept training states of these runs, by run id; runs without one are left out."""
        kept = set(self.ids("unfinished"))
        there = [run_id for run_id in run_ids if run_id in kept]
        contents = files.read_each([self._file("unfinished", run_id) for run_id in there])
        states = zip(there, contents, strict=True)
        return {run_id: content for run_id, content in states if isinstance(content, bytes)}

    def state(self, run_id: str) -> bytes | None:
        """Return the kept training state of a run; None if there is none."""
        try:
            return files.read(self._file("unfinished", run_id))
        except FileNotFoundError:
            return None

    def forget(self, run_ids: Iterable[str], kinds: Sequence[str] = ("runs", "epochs", "unfinished")) -> None:
        """Delete what is stored of runs; by default what there can be of a trial of a sweep.

        Args:
            run_ids: the runs.
            kinds: the folders to delete from. The records come first: where there is one, all else is there.

        Raises:
            UserError: a file cannot be deleted.
        """
        with disk_errors(self.root):
            files.remove(self._file(kind, run_id) for run_id in run_ids for kind in kinds)

    def checkpoints(self) -> dict[str, Place]:
        """Return the files of the trained models, by run id."""
        return {run_id: self._file("checkpoints", run_id) for run_id in self.ids("checkpoints")}

    def read_ahead(self, kind: str, run_ids: Iterable[str]) -> None:
        """Fetch files that are about to be read from object storage, many at once; from a disk each is as quick.

        Args:
            kind: the folder that they are in, as 'epochs'.
            run_ids: the runs that they are of.
        """
        if not isinstance(self.root, Path):
            wanted = [self._file(kind, run_id) for run_id in run_ids]
            self._ahead |= zip(map(str, wanted), files.read_each(wanted), strict=True)

    def _read(self, file: Place) -> bytes:
        content = self._ahead.pop(str(file), None) if self._ahead else None
        if isinstance(content, OSError):
            raise content
        return files.read(file) if content is None else content

    def _rows(
        self, kind: str, run_id: str, row: type[Row], adapt: Callable[[dict[str, Any]], dict[str, Any]] = dict
    ) -> list[Row]:
        try:
            table = _table(self._read(self._file(kind, run_id)))
            return [row.model_validate(adapt(each)) for each in table.to_pylist()]
        except _NO_RECORD:
            return []

    def _has_result(self, run_id: str) -> bool:
        try:
            file = self._file("runs", run_id)
            return _read_record(file, files.read(file))[0].status is Status.OK
        except _NO_RECORD:
            return False

    def _file(self, kind: str, run_id: str) -> Place:
        return self.root / kind / (run_id + _ENDINGS.get(kind, ".parquet"))

    def _write_table(self, file: Place, table: pa.Table) -> State:
        self._ahead.pop(str(file), None)
        sink = pa.BufferOutputStream()
        few = table.num_rows < 2  # statistics and dictionaries only make such a file larger and slower to read
        pq.write_table(table, sink, compression="zstd", use_dictionary=not few, write_statistics=not few)
        return write_whole(file, sink.getvalue().to_pybytes())


def _table(content: bytes) -> pa.Table:
    # from memory and on this thread: pq.read_table takes three times as long for a small file
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)


def _as_epoch(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the columns that only another version has for an epoch."""
    return {name: value for name, value in row.items() if name in EpochRecord.model_fields}


def _as_timing(row: dict[str, Any]) -> dict[str, Any]:
    """Name the columns of a timing from an earlier version as they are named now."""
    if "yardstick_seconds" in row:
        row["reference_seconds"] = row.pop("yardstick_seconds")
    return {"backend": BEFORE_BACKENDS, **row}


def _read_record(file: Place, content: bytes | OSError) -> tuple[Record, bool]:
    """Return (the record, whether it holds all columns of the file: a newer version may have added some)."""
    if isinstance(content, OSError):
        raise content
    table = _table(content)
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
