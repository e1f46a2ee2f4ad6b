"""What is stored is read back, by us and by others, whatever else lies in the folder; writing is all or nothing."""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from factories import stored_in
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.reporting import store as store_module
from bench.reporting.files import write_whole
from bench.reporting.store import Store
from bench.spec import SCHEMA_VERSION, Deployment, Predictions, Record, Result, Status, Timing

EVERYTHING_ELSE: dict[str, Any] = {
    "lr_source": "a sweep of 12 trials",
    "sweep_id": "a sweep",
    "precision_used": "bf16",
    "image_storage": "streamed",
    "image_size": 64,
    "train_size": 500,
    "validation_size": 100,
    "target_accuracy": 0.99,
    "validation_accuracy": 0.98,
    "epochs_done": 5,
    "images_per_epoch": 500,
    "target_epoch": 3,
    "early_stopping": 2,
    "best_epoch": 3,
    "target_seconds": 1.25,
    "validation_seconds": 0.125,
    "test_top5_accuracy": 0.999,
    "test_balanced_accuracy": 0.97,
    "test_macro_f1": 0.96,
    "test_calibration_error": 0.01,
    "test_imbalance": 1.25,
}
"""Columns that an ordinary run leaves null."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "results")
    found.prepare()
    return found


@pytest.fixture
def filled(
    store: Store, make_record: Callable[..., Record], make_result: Callable[[Record], Result]
) -> tuple[Store, list[Record]]:
    """A store with a run that is ok, one that failed early, one that diverged; the records as they were stored."""
    ok = make_result(
        make_record(weights="file a.pth", weights_sha256="1" * 64, plugin_sha256="2" * 64, **EVERYTHING_ELSE)
    )
    failed = Result(make_record(seed=1, status=Status.FAILED, minutes=1, reason="RuntimeError: größer | als\nzwei"))
    diverged = Result(make_record("mobilenet", status=Status.DIVERGED, minutes=2, contended=True, device="cpu"))
    return store, [stored_in(store, outcome) for outcome in (ok, failed, diverged)]


def files_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


# --- there and back -----------------------------------------------------------------------------------------------


def test_every_field_of_a_record_is_read_back(filled: tuple[Store, list[Record]]) -> None:
    store, written = filled

    records, problems = store.records()

    assert problems == []
    assert records == written
    ok = records[0].model_dump()
    assert [name for name, value in ok.items() if value is None] == ["reason"]  # every other column was tried
    assert records[0].started_at.utcoffset().total_seconds() == 0
    assert records[0].started_at.microsecond == 678901


def test_each_run_is_one_shard_named_after_it(filled: tuple[Store, list[Record]]) -> None:
    store, written = filled

    assert files_in(store.root / "runs") == sorted(f"{record.run_id}.parquet" for record in written)


def test_epochs_predictions_and_checkpoint_are_beside_the_record(
    store: Store, make_record: Callable[..., Record], make_result: Callable[[Record], Result]
) -> None:
    outcome = make_result(make_record())

    record = stored_in(store, outcome)

    assert store.epochs(record.run_id) == outcome.epochs
    assert record.checkpoint == f"checkpoints/{record.run_id}.safetensors"
    assert (store.root / record.checkpoint).read_bytes() == b"a checkpoint"
    said = pd.read_parquet(store.root / "predictions" / f"{record.run_id}.parquet")
    assert said["image"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(said["label"], outcome.predictions.labels)
    assert np.array_equal(said["predicted"], outcome.predictions.predicted)
    assert np.array_equal(said["probability"], outcome.predictions.probability)
    assert [str(kind) for kind in said.dtypes[:4]] == ["int32", "int16", "int16", "float32"]
    assert np.array_equal(np.stack(said["top_classes"]), outcome.predictions.top_classes)
    assert np.array_equal(np.stack(said["top_probabilities"]), outcome.predictions.top_probabilities)


def test_a_failed_run_is_a_record_and_nothing_else(filled: tuple[Store, list[Record]]) -> None:
    store, written = filled
    failed = written[1]

    assert failed.checkpoint is None
    assert store.epochs(failed.run_id) == []
    assert [name for name in files_in(store.root) if failed.run_id in name] == [f"runs/{failed.run_id}.parquet"]


def test_records_come_in_the_order_in_which_runs_started(store: Store, make_record: Callable[..., Record]) -> None:
    for seed, minutes in ((0, 5), (1, 3), (2, 4), (3, 3)):
        store.write(Result(make_record(seed=seed, minutes=minutes)))

    assert [record.seed for record in store.records()[0]] == [1, 3, 2, 0]


def test_a_run_that_is_trained_again_replaces_its_record(store: Store, make_record: Callable[..., Record]) -> None:
    store.write(Result(make_record(status=Status.FAILED)))
    store.write(Result(make_record(test_accuracy=0.5)))

    records, _ = store.records()

    assert [(record.status, record.test_accuracy) for record in records] == [(Status.OK, 0.5)]


def test_an_empty_folder_holds_no_records(tmp_path: Path) -> None:
    assert Store(tmp_path).records() == ([], [])
    assert Store(tmp_path / "missing").records() == ([], [])


def test_the_state_to_go_on_from_is_kept_until_the_run_ends(store: Store, make_record: Callable[..., Record]) -> None:
    record = make_record()
    for state in (b"epoch 1", b"epoch 2"):
        store.save_state(record.run_id, state)

    assert store.states([record.run_id, "another"]) == {record.run_id: b"epoch 2"}
    store.write(Result(make_record(status=Status.INTERRUPTED)))
    assert store.states([record.run_id]) == {record.run_id: b"epoch 2"}
    store.write(Result(record))
    assert store.states([record.run_id]) == {}


def test_rows_of_back_ends_replace_those_of_the_same(store: Store, make_record: Callable[..., Record]) -> None:
    run_id = stored_in(store, Result(make_record())).run_id
    now = datetime(2026, 1, 2, tzinfo=UTC)
    whole = Deployment(
        run_id=run_id,
        backend="eager",
        status="ok",
        images=10,
        correct=9,
        accuracy=0.9,
        agreement=1.0,
        disagreements=0,
        largest_difference=0.0,
        only_eager_right=0,
        only_this_right=0,
        prepare_seconds=0.5,
        deployed_bytes=1000,
        threads=2,
        precision="fp32",
        device="cpu",
        version="torch 2",
        prepared_at=now,
    )
    failed = Deployment(run_id=run_id, backend="openvino", status="failed", reason="no reason", prepared_at=now)
    assert store.deployments(run_id) == []

    store.write_deployments(run_id, [whole, failed])
    assert store.deployments(run_id) == [whole, failed]

    again = whole.model_copy(update={"backend": "openvino"})
    store.write_deployments(run_id, [again])
    assert store.deployments(run_id) == [whole, again]
    assert pd.read_parquet(store.root / "deployments")["backend"].tolist() == ["eager", "openvino"]


def test_timings_are_read_back(store: Store, make_record: Callable[..., Record]) -> None:
    run_id = stored_in(store, Result(make_record())).run_id
    samples = [
        Timing(
            run_id=run_id,
            kind="inference",
            backend="eager",
            batch_size=250,
            sample=number,
            seconds=0.1 + number / 3,
            contended=number == 1,
            device="cpu",
            threads=2,
            precision="bf16",
            peak_memory_mb=None if number else 12.5,
            measured_at=datetime(2026, 1, 2, 3, 4, number, 5, tzinfo=UTC),
        )
        for number in range(3)
    ]
    assert (store.timings(run_id), store.timed()) == ([], set())

    for wanted in (samples, samples[:2]):
        store.write_timings(run_id, wanted)
        assert store.timings(run_id) == wanted
    assert store.timed() == {run_id}
    assert pd.read_parquet(store.root / "timings")["seconds"].tolist() == [sample.seconds for sample in samples[:2]]


def test_predictions_are_read_back_in_the_order_of_the_images(
    store: Store, make_record: Callable[..., Record], make_result: Callable[[Record], Result]
) -> None:
    outcome = make_result(make_record())
    record = stored_in(store, outcome)
    run_id = record.run_id
    file = store.root / "predictions" / f"{run_id}.parquet"
    assert outcome.predictions is not None

    for _ in range(2):
        said = store.predictions(record)
        assert said is not None
        assert np.array_equal(said.labels, outcome.predictions.labels)
        assert np.array_equal(said.predicted, outcome.predictions.predicted)
        assert np.array_equal(said.probability, outcome.predictions.probability)
        assert (said.labels.dtype, said.probability.dtype) == (np.int16, np.float32)
        assert np.array_equal(said.top_classes, outcome.predictions.top_classes)
        assert np.array_equal(said.top_probabilities, outcome.predictions.top_probabilities)
        assert (said.top_classes.dtype, said.top_probabilities.dtype) == (np.int16, np.float32)
        pq.write_table(pq.read_table(file).sort_by([("image", "descending")]), file)


def test_predictions_of_an_earlier_version_have_no_top_five(
    store: Store, make_record: Callable[..., Record], make_result: Callable[[Record], Result]
) -> None:
    outcome = make_result(make_record())
    record = stored_in(store, outcome)
    run_id = record.run_id
    file = store.root / "predictions" / f"{run_id}.parquet"
    pq.write_table(pq.read_table(file).select(["image", "label", "predicted", "probability"]), file)

    said = store.predictions(record)

    assert said is not None
    assert outcome.predictions is not None
    assert (said.top_classes, said.top_probabilities) == (None, None)
    assert np.array_equal(said.predicted, outcome.predictions.predicted)
    store.write(Result(outcome.record, predictions=said))
    again = store.predictions(record)
    assert again is not None
    assert again.top_classes is None
    assert np.array_equal(again.probability, said.probability)


def test_predictions_of_few_and_many_classes_are_one_table(store: Store, make_record: Callable[..., Record]) -> None:
    for seed, classes in enumerate((2, 5)):
        top = np.tile(np.arange(classes, dtype=np.int16), (3, 1))
        shares = np.full(top.shape, 1 / classes, dtype=np.float32)
        said = Predictions(np.zeros(3, np.int16), np.zeros(3, np.int16), shares[:, 0].copy(), top, shares)
        record = stored_in(store, Result(make_record(seed=seed), predictions=said))
        again = store.predictions(record)
        assert again is not None
        assert np.array_equal(again.top_classes, top)

    assert sorted(set(pd.read_parquet(store.root / "predictions")["top_classes"].map(len))) == [2, 5]
    assert len(pa.dataset.dataset(store.root / "predictions").to_table()) == 6


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and nothing else"])
def test_what_is_missing_or_damaged_beside_a_record_is_as_if_it_were_not_there(
    content: bytes | None, store: Store, make_record: Callable[..., Record]
) -> None:
    record = make_record()
    if content is not None:
        (store.root / "timings").mkdir()
        for folder in ("epochs", "predictions", "timings"):
            (store.root / folder / f"{record.run_id}.parquet").write_bytes(content)

    there = store.epochs(record.run_id), store.predictions(record), store.timings(record.run_id)
    assert there == ([], None, [])


# --- the index ----------------------------------------------------------------------------------------------------

VERSION = f'"schema_version":{SCHEMA_VERSION}'.encode()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that were opened."""
    names: list[str] = []
    read = store_module._read_record

    def noted(file: Path, content: bytes) -> Any:
        names.append(file.name)
        return read(file, content)

    monkeypatch.setattr(store_module, "_read_record", noted)
    return names


def index(store: Store) -> Path:
    return store.root / ".index.jsonl"


def test_what_was_written_here_is_read_without_opening_it(
    filled: tuple[Store, list[Record]], opened: list[str]
) -> None:
    store, written = filled

    opened.clear()
    assert store.records() == (written, [])
    assert opened == []
    index(store).unlink()
    assert store.records() == (written, [])
    assert len(opened) == 3
    assert not index(store).exists()  # three shards are soon read, and reading leaves a folder as it is


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("not an index\n{}\n[]\n"),
        lambda file: file.write_bytes(file.read_bytes()[:-200]),
        lambda file: file.write_bytes(file.read_bytes()[200:]),
        lambda file: file.write_bytes(file.read_bytes().replace(VERSION, b'"schema_version":999')),
        lambda file: file.write_bytes(file.read_bytes().replace(b'"status":"ok"', b'"status":"abducted"')),
        lambda file: file.write_bytes(file.read_bytes().replace(b'"size":', b'"size":1')),
        lambda file: (file.unlink(), file.mkdir()),
        lambda file: os.truncate(file, 10),
    ],
)
def test_an_index_that_is_damaged_only_costs_time(
    change: Callable[[Path], Any], filled: tuple[Store, list[Record]], make_record: Callable[..., Record]
) -> None:
    store, written = filled
    change(index(store))

    assert store.records() == (written, [])
    added = stored_in(store, Result(make_record(seed=7, minutes=9)))
    assert store.records() == ([*written, added], [])


@pytest.mark.parametrize("stranger", ["torn", "damaged", "foreign", "two rows", "text"])
def test_a_shard_that_changed_is_not_taken_from_the_index(stranger: str, filled: tuple[Store, list[Record]]) -> None:
    store, written = filled
    file = store.root / "runs" / f"{written[0].run_id}.parquet"
    STRANGERS[stranger](file, file.read_bytes())
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))  # as it would be on any file system a moment later

    records, problems = store.records()

    assert records == written[1:]
    assert len(problems) == 1


def test_a_shard_that_somebody_else_wrote_or_removed_counts(
    filled: tuple[Store, list[Record]], make_record: Callable[..., Record], tmp_path: Path
) -> None:
    store, written = filled
    other = Store(tmp_path / "other")
    other.prepare()
    moved = stored_in(other, Result(make_record("mobilenet", seed=5, minutes=7)))
    name = f"{moved.run_id}.parquet"

    (other.root / "runs" / name).rename(store.root / "runs" / name)
    (store.root / "runs" / f"{written[0].run_id}.parquet").unlink()

    assert store.records() == ([*written[1:], moved], [])
    assert other.records() == ([], [])


def test_many_shards_without_an_index_get_one(
    store: Store, make_record: Callable[..., Record], opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "WORTH_AN_INDEX", 5)
    written = [stored_in(store, Result(make_record(seed=seed, minutes=seed))) for seed in range(6)]
    index(store).unlink()
    (store.root / "runs" / "torn.parquet").write_bytes(b"PAR1")

    for expected in (7, 1):  # the torn one is looked at again
        opened.clear()
        records, problems = store.records()
        assert (records, len(problems), len(opened)) == (written, 1, expected)


def test_a_record_of_which_a_newer_version_knows_more_is_not_kept_in_the_index(
    filled: tuple[Store, list[Record]], opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, written = filled
    monkeypatch.setattr(store_module, "WORTH_AN_INDEX", 1)
    rewritten(store, written[0], lambda table: table.append_column("mood", pa.array(["good"])))

    for _ in range(2):
        opened.clear()
        assert store.records() == (written, [])
        assert opened == [f"{written[0].run_id}.parquet"]


def test_runs_that_are_trained_again_and_again_do_not_make_the_index_grow(
    store: Store, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "WORTH_AN_INDEX", 5)
    for accuracy in range(10):
        store.write(Result(make_record(test_accuracy=accuracy / 10)))
        store.records()

    assert index(store).read_text().count("run_id") < 10
    assert [record.test_accuracy for record in store.records()[0]] == [0.9]


def test_several_may_write_at_once(store: Store, make_record: Callable[..., Record], opened: list[str]) -> None:
    records = [make_record(seed=seed, minutes=seed) for seed in range(24)]

    def write(mine: list[Record]) -> None:
        for record in mine:
            Store(store.root).write(Result(record))

    threads = [threading.Thread(target=write, args=(records[first::4],)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    opened.clear()
    assert store.records() == (records, [])
    assert opened == []


numbers = st.none() | st.floats(allow_nan=False)


@hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    loss=numbers,
    reason=st.text(st.characters(exclude_categories=["Cs"])),
    moment=st.datetimes(),
    count=st.none() | st.integers(0, 2**62),
)
def test_the_index_says_what_the_shard_says(
    loss: float | None,
    reason: str,
    moment: datetime,
    count: int | None,
    store: Store,
    make_record: Callable[..., Record],
) -> None:
    drawn = {"test_loss": loss, "reason": reason, "ended_at": moment.replace(tzinfo=UTC), "macs": count}
    written = stored_in(store, Result(make_record().model_copy(update=drawn)))

    from_index = store.records()[0]
    index(store).unlink()

    assert from_index == store.records()[0] == [written]


def test_a_loss_that_is_no_number_stays_one(store: Store, make_record: Callable[..., Record]) -> None:
    store.write(Result(make_record(status=Status.DIVERGED, train_loss=math.nan, test_loss=math.inf)))

    for _ in range(2):
        (record,) = store.records()[0]
        assert record.train_loss is not None
        assert math.isnan(record.train_loss)
        assert record.test_loss == math.inf
        index(store).unlink(missing_ok=True)


# --- others read it -----------------------------------------------------------------------------------------------


def test_all_shards_have_the_same_schema(filled: tuple[Store, list[Record]]) -> None:
    store, written = filled

    schemas = [pq.read_schema(store.root / "runs" / f"{record.run_id}.parquet") for record in written]

    assert schemas[0].names == list(Record.model_fields)
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert pa.null() not in schemas[0].types
    assert schemas[0].metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    described = Record.model_fields["train_seconds"].description
    assert described is not None
    assert schemas[0].field("train_seconds").metadata[b"description"] == described.encode()
    for required in ("run_id", "status", "started_at"):
        assert not schemas[0].field(required).nullable
    assert schemas[0].field("test_accuracy").nullable


def test_pandas_pyarrow_and_duckdb_read_one_table(filled: tuple[Store, list[Record]]) -> None:
    store, written = filled
    folder = store.root / "runs"

    by_pandas = pd.read_parquet(folder)
    by_arrow = pyarrow.dataset.dataset(folder).to_table()
    table = f"read_parquet('{folder}/*.parquet')"
    with duckdb.connect() as connection:
        columns = [row[0] for row in connection.execute(f"describe select * from {table}").fetchall()]  # noqa: S608
        by_duckdb = connection.execute(f"select run_id, test_accuracy from {table}").fetchall()  # noqa: S608

    expected = list(Record.model_fields)
    assert list(by_pandas.columns) == by_arrow.column_names == columns == expected
    assert len(by_pandas) == by_arrow.num_rows == len(by_duckdb) == 3
    accuracies = {(record.run_id, record.test_accuracy) for record in written}
    assert {(row["run_id"], row["test_accuracy"]) for row in by_arrow.to_pylist()} == accuracies
    assert set(by_duckdb) == accuracies
    assert by_pandas["train_seconds"].isna().sum() == 2  # unknown is null, not 0


def test_epochs_of_several_runs_are_one_table(
    store: Store, make_record: Callable[..., Record], make_result: Callable[[Record], Result]
) -> None:
    for seed in (0, 1):
        store.write(make_result(make_record(seed=seed)))

    table = pd.read_parquet(store.root / "epochs")

    assert table.groupby("run_id")["epoch"].apply(list).tolist() == [[1, 2, 3, 4, 5]] * 2


# --- what does not belong there -----------------------------------------------------------------------------------


def torn(file: Path, whole: bytes) -> None:
    file.write_bytes(whole[: len(whole) // 2])


def damaged(file: Path, whole: bytes) -> None:
    file.write_bytes(whole[:4] + b"\xff" * (len(whole) - 12) + whole[-8:])


def foreign(file: Path, _: bytes) -> None:
    pq.write_table(pa.table({"name": ["somebody else's"], "value": [3]}), file)


def two_rows(file: Path, whole: bytes) -> None:
    table = pq.read_table(pa.BufferReader(whole))
    pq.write_table(pa.concat_tables([table, table]), file)


def no_row(file: Path, whole: bytes) -> None:
    pq.write_table(pq.read_table(pa.BufferReader(whole)).slice(0, 0), file)


def unknown_status(file: Path, whole: bytes) -> None:
    table = pq.read_table(pa.BufferReader(whole))
    place = table.schema.get_field_index("status")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(["abducted"])), file)


def odd_version(file: Path, whole: bytes) -> None:
    table = pq.read_table(pa.BufferReader(whole))
    pq.write_table(table.replace_schema_metadata({"schema_version": "two"}), file)


STRANGERS = {
    "torn": torn,
    "damaged": damaged,
    "foreign": foreign,
    "two rows": two_rows,
    "no row": no_row,
    "unknown status": unknown_status,
    "odd version": odd_version,
    "empty": lambda file, _: file.touch(),
    "text": lambda file, _: file.write_text("run_id,status\n"),
    "a folder": lambda file, _: file.mkdir(),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_file_that_is_no_record_is_named_and_the_rest_is_read(
    stranger: str, filled: tuple[Store, list[Record]]
) -> None:
    store, written = filled
    file = store.root / "runs" / "a-stranger.parquet"
    STRANGERS[stranger](file, (store.root / "runs" / f"{written[0].run_id}.parquet").read_bytes())

    records, problems = store.records()

    assert records == written
    assert len(problems) == 1
    assert str(file) in problems[0]
    assert "\n" not in problems[0]


def rewritten(store: Store, record: Record, change: Callable[[pa.Table], pa.Table]) -> None:
    file = store.root / "runs" / f"{record.run_id}.parquet"
    pq.write_table(change(pq.read_table(file)), file)


def test_a_record_of_a_newer_version_is_refused_with_the_reason(filled: tuple[Store, list[Record]]) -> None:
    store, written = filled
    newer = {"schema_version": str(SCHEMA_VERSION + 1)}
    rewritten(store, written[0], lambda table: table.replace_schema_metadata(newer))

    records, problems = store.records()

    assert records == written[1:]
    assert len(problems) == 1
    assert written[0].run_id in problems[0]
    assert f"newer version: schema {SCHEMA_VERSION + 1}, known up to {SCHEMA_VERSION}" in problems[0]


def test_a_record_with_a_column_that_was_dropped_or_not_yet_there_is_read(
    filled: tuple[Store, list[Record]],
) -> None:
    store, written = filled
    rewritten(store, written[0], lambda table: table.append_column("mood", pa.array(["good"])).drop(["git_commit"]))

    records, problems = store.records()

    assert problems == []
    assert records[0] == written[0].model_copy(update={"git_commit": None})


# --- all or nothing -----------------------------------------------------------------------------------------------


def full_disk(handle: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"a long first version", b"the second"):
        write_whole(file, content)
        assert file.read_bytes() == content

    assert files_in(tmp_path) == ["file"]
    umask = os.umask(0)
    os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask  # others may read it, as with any other file


@pytest.mark.parametrize("before", [None, b"the old version"], ids=["new file", "old file"])
def test_writing_that_fails_leaves_what_was_there_and_nothing_else(
    before: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    if before is not None:
        file.write_bytes(before)
    monkeypatch.setattr(os, "fsync", full_disk)

    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"x" * 100_000)

    assert files_in(tmp_path) == ([] if before is None else ["file"])
    assert before is None or file.read_bytes() == before


def test_a_rename_that_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()

    with pytest.raises(OSError):
        write_whole(tmp_path / "file", b"content")

    assert files_in(tmp_path) == []


def test_a_full_disk_is_said_in_one_line_and_earlier_runs_are_kept(
    filled: tuple[Store, list[Record]],
    make_record: Callable[..., Record],
    make_result: Callable[[Record], Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, written = filled
    before = files_in(store.root)
    monkeypatch.setattr(os, "fsync", full_disk)

    with pytest.raises(UserError, match="No space left") as caught:
        store.write(make_result(make_record(seed=9)))
    with pytest.raises(UserError, match="No space left"):
        store.save_state("a run", b"state")

    assert str(store.root) in str(caught.value)
    assert files_in(store.root) == before
    assert store.records() == (written, [])


@pytest.mark.parametrize("folder", ["epochs", "predictions", "checkpoints"])
def test_without_all_that_belongs_to_it_there_is_no_record(
    folder: str, store: Store, make_record: Callable[..., Record], make_result: Callable[[Record], Result]
) -> None:
    (store.root / folder).rmdir()
    (store.root / folder).touch()

    with pytest.raises(UserError, match="cannot write"):
        store.write(make_result(make_record()))

    assert store.records() == ([], [])


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_folder_below_a_regular_file_is_refused(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    root = tmp_path / "file" / below

    with pytest.raises(UserError, match=f"--results {root}: cannot write there"):
        Store(root).prepare()

    assert (tmp_path / "file").read_text() == "mine"


def test_preparing_twice_does_no_harm(filled: tuple[Store, list[Record]]) -> None:
    store, written = filled
    store.prepare()

    assert store.records() == (written, [])
