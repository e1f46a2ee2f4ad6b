"""What an earlier version wrote stays readable: its columns that there are no more are left out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import stored_in

from bench.reporting import store as store_module
from bench.reporting.entries import comparisons
from bench.reporting.footnotes import footnotes
from bench.reporting.store import Store
from bench.spec import BEFORE_BACKENDS, EpochRecord, Record, Result


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    store.prepare()
    return store


def as_schema_1(file: Path, **columns: Any) -> None:
    """Rewrite a shard with columns that schema 1 had."""
    table = pq.read_table(file)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    if "schema_version" in table.column_names:
        place = table.column_names.index("schema_version")
        table = table.set_column(place, "schema_version", pa.array([1] * len(table), pa.int64()))
    pq.write_table(table.replace_schema_metadata({"schema_version": "1"}), file)


@pytest.fixture
def earlier(
    store: Store, make_record: Callable[..., Record], make_result: Callable[[Record], Result]
) -> tuple[Record, list[EpochRecord]]:
    """A record and its epochs, as the version with compiled loops wrote them."""
    outcome = make_result(make_record())
    record = stored_in(store, outcome)
    as_schema_1(store.root / "runs" / f"{record.run_id}.parquet", kernels=["compiled"], last_threads=[2])
    epochs = len(outcome.epochs)
    as_schema_1(store.root / "epochs" / f"{record.run_id}.parquet", threads=[1] * (epochs - 1) + [2])
    return record, outcome.epochs


def test_records_and_epochs_of_schema_1_are_read(store: Store, earlier: tuple[Record, list[EpochRecord]]) -> None:
    record, epochs = earlier

    records, problems = store.records()

    assert problems == []
    assert records == [record.model_copy(update={"schema_version": 1})]
    assert store.epochs(record.run_id) == epochs
    predictions = store.predictions(record)
    assert predictions is not None
    assert len(predictions.labels) == 4


def test_records_of_schema_1_have_a_place_in_the_index(
    store: Store, earlier: tuple[Record, list[EpochRecord]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a folder of many would be read anew by every command."""
    monkeypatch.setattr(store_module, "WORTH_AN_INDEX", 1)
    (store.root / ".index.jsonl").unlink()
    records, _ = store.records()

    monkeypatch.setattr(store_module, "_read_record", None)  # to open a shard would be an error

    assert store.records() == (records, [])


def test_timings_without_back_ends_are_read(store: Store, make_record: Callable[..., Record]) -> None:
    """A frozen backbone's training was timed as steps of its head: these are not called training any more."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    record = stored_in(store, Result(make_record("mobilenet", features_cached=True)))
    rows = [
        {"run_id": record.run_id, "kind": kind, "batch_size": size, "sample": 0, "seconds": 0.01}
        | {"yardstick_seconds": 0.02, "contended": False, "device": "cpu", "threads": 2, "precision": "fp32"}
        | {"peak_memory_mb": 1.0, "measured_at": moment}
        for kind, size in (("training", 64), ("inference", 1), ("inference", 250))
    ]
    (store.root / "timings").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), store.root / "timings" / f"{record.run_id}.parquet")

    timings = store.timings(record.run_id)
    (comparison,) = comparisons([record], store)

    assert [(row.backend, row.reference_seconds) for row in timings] == [(BEFORE_BACKENDS, 0.02)] * 3
    speeds = comparison.entries[0].speeds
    assert speeds.training is None
    assert speeds.head is not None
    assert speeds.head.images_per_second == 6400
    assert speeds.single is not None
    assert any("of an earlier version" in note for note in footnotes(comparison))
    eager = [row.model_copy(update={"backend": "eager"}) for row in timings]
    store.write_timings(record.run_id, eager)
    assert store.timings(record.run_id) == eager
