"""A results folder in object storage holds what one on a disk holds, and loses nothing while it cannot be written."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from factories import job_of, record_of, result_of
from object_storage import BUSY, EXPIRED, ObjectStorage
from running import write_at_once

from bench.errors import UserError
from bench.reporting import files, images
from bench.reporting import store as store_module
from bench.reporting.remote import RemoteStore, open_store, worker_url
from bench.reporting.store import Store
from bench.spec import Deployment, Result, Status, Timing
from bench.storage import Place, StorageError, place_of
from bench.workflows.direct import DirectStore
from bench.workflows.report import write_pages

KINDS = ("runs", "epochs", "predictions", "timings", "checkpoints", "unfinished")


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty results folder in object storage."""
    made = open_store(place_of(request.getfixturevalue(f"{request.param}_url")))
    made.prepare()
    return made


@pytest.fixture
def on_s3(s3_url: str) -> RemoteStore:
    made = open_store(place_of(s3_url))
    assert isinstance(made, RemoteStore)
    made.prepare()
    return made


def names(root: Place, kind: str) -> list[str]:
    return list(files.listed(root / kind))


def everything(root: Place) -> dict[str, bytes]:
    """The content of every file, by its path in the folder."""
    folders = ("", *KINDS, "deployments", "images", "plots", "sweeps", "set-aside")
    found = [f"{folder}/{name}".lstrip("/") for folder in folders for name in files.listed(root / folder)]
    return {
        name: files.read(root / name)
        for name in found
        if files.is_file(root / name) and (root / name).name not in (".bench", ".index.jsonl")
    }


def timing_of(run_id: str, backend: str = "eager") -> Timing:
    figures = {"sample": 0, "seconds": 0.01, "reference_seconds": 0.02, "contended": False}
    where = {"device": "cpu", "threads": 2, "precision": "fp32", "measured_at": datetime(2026, 1, 1, tzinfo=UTC)}
    return Timing.model_validate(
        {"run_id": run_id, "backend": backend, "kind": "inference", "batch_size": 1, **figures, **where}
    )


def test_what_is_written_is_read_back_and_lies_where_it_does_on_a_disk(store: Store, tmp_path: Path) -> None:
    local = Store(tmp_path / "results")
    local.prepare()
    result, failed = result_of(record_of()), Result(record_of(seed=1, status=Status.FAILED, minutes=1))
    run_id = result.record.run_id
    for each in (store, local):
        each.save_state("another", b"epoch 2")
        each.save_state(run_id, b"epoch 2")
        each.write(result)
        each.write(failed)
        each.write(Result(record_of(status=Status.FAILED)))  # a failure does not replace a success
        each.write_timings(run_id, [timing_of(run_id)])

    assert store.holds_runs()
    assert store.records() == ([result.record, failed.record], [])
    assert store.epochs(run_id) == list(result.epochs)
    predictions = store.predictions(result.record)
    assert predictions is not None
    assert predictions.predicted.tolist() == [0, 1, 3, 9]
    assert store.timings(run_id) == [timing_of(run_id)]
    assert store.timed() == {run_id}
    assert files.read(store.checkpoints()[run_id]) == b"a checkpoint"
    assert store.states([run_id, "another"]) == {"another": b"epoch 2"}
    assert store.state(run_id) is None
    assert everything(store.root) == everything(local.root)


def test_the_pages_have_the_same_bytes_as_from_a_disk(store: Store, tmp_path: Path) -> None:
    local = Store(tmp_path / "results")
    local.prepare()
    for each in (local, store):
        files.make_folder(each.root / "plots")
        files.write_whole(each.root / "plots" / "gone-accuracy.svg", b"of an earlier report")
        for model, seed in itertools.product(("cnn", "mobilenet"), range(2)):
            each.write(result_of(record_of(model, seed=seed, test_accuracy=0.9 + seed / 100)))
        write_pages(each, show=False)

    made = everything(store.root)
    assert made == everything(local.root)
    assert {"summary.md", "report.html", "answer.json"} <= made.keys()
    plots = {name for name in made if name.startswith("plots/")}
    assert plots
    assert "plots/gone-accuracy.svg" not in plots


def test_torn_and_foreign_records_are_set_aside(store: Store) -> None:
    record = record_of()
    store.write(result_of(record))
    files.write_whole(store.root / "runs" / "notes.parquet", b"not a table at all")

    assert store.records()[0] == [result_of(record).record]
    assert names(store.root, "runs") == [f"{record.run_id}.parquet", "notes.parquet"]
    problems = store.records(set_aside=True)[1]

    assert "notes.parquet is no record" in problems[0]
    assert "moved to" in problems[0]
    assert store.set_aside() == ["notes.parquet"]
    assert names(store.root, "runs") == [f"{record.run_id}.parquet"]


def test_trials_can_be_forgotten(store: Store) -> None:
    results = [result_of(record_of(seed=seed)) for seed in range(2)]
    for result in results:
        store.write(result)
    store.forget([results[0].record.run_id, "never there"])
    assert store.records()[0] == [results[1].record]
    assert store.epochs(results[0].record.run_id) == []


def test_many_records_are_read_by_an_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WORTH_AN_INDEX", 20)
    monkeypatch.setattr(files, "_AT_ONCE", 7)  # several rounds
    written = [record_of(seed=seed, minutes=seed) for seed in range(30)]
    for record in written:
        store.write(Result(record))
    assert store.records() == (written, [])
    read: list[str] = []
    monkeypatch.setattr(
        store_module, "_read_record", lambda file, content: read.append(file.name) or (record_of(seed=3), True)
    )

    assert store.records() == (written, [])
    assert read == [], "all of them are in the index"

    store.write(Result(written[3].model_copy(update={"test_accuracy": 0.5})))
    store.records()
    assert read == [f"{written[3].run_id}.parquet"], "what has changed since is read anew"


def test_records_are_fetched_many_at_once(on_s3: RemoteStore, s3: ObjectStorage) -> None:
    written = [record_of(seed=seed, minutes=seed) for seed in range(20)]
    for record in written:
        on_s3.write(Result(record))
    with s3.failing(lambda method, path: 1.0 if method == "GET" and "/runs/" in path else None):
        start = datetime.now(UTC)
        assert on_s3.records() == (written, [])
    assert (datetime.now(UTC) - start).total_seconds() < 10, "one by one would be 20 s"


def test_what_cannot_be_seen_now_is_not_taken_for_missing(on_s3: RemoteStore, s3: ObjectStorage) -> None:
    file = files.write_whole(on_s3.root / "a", b"content") and on_s3.root / "a"
    looks = [lambda: files.is_file(file), lambda: files.is_folder(on_s3.root), lambda: files.listed(on_s3.root)]
    assert [bool(look()) for look in looks] == [True, True, True]
    for fault in (EXPIRED, (400, "Weird", "What?")):
        for look in looks:
            with s3.failing(lambda method, path, fault=fault: fault), pytest.raises(StorageError, match="cannot read"):  # type: ignore[misc]
                look()
    assert not files.is_file(on_s3.root / "b")
    assert not files.is_folder(on_s3.root / "b")


# --- what goes wrong on the way --------------------------------------------------------------------------------------


def test_a_storage_that_is_busy_slow_and_cuts_connections_holds_all_in_the_end(
    on_s3: RemoteStore, s3: ObjectStorage
) -> None:
    results = [result_of(record_of(seed=seed, minutes=seed)) for seed in range(2)]
    faults = itertools.cycle([BUSY, None, "cut", None, 0.2, None, None])
    with s3.failing(lambda method, path: next(faults)):
        for result in results:
            on_s3.write(result)
        assert on_s3.records() == ([result.record for result in results], [])
        assert on_s3.predictions(results[0].record) is not None

    assert not on_s3.kept.records()[0]
    assert names(on_s3.root, "predictions") == sorted(f"{result.record.run_id}.parquet" for result in results)


def test_an_upload_that_is_cut_leaves_the_old_object_and_the_new_one_is_kept(
    on_s3: RemoteStore, s3: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    old = result_of(record_of(test_accuracy=0.5))
    on_s3.write(old)
    new = result_of(record_of(test_accuracy=0.6))
    faults = iter(["cut"])
    with s3.failing(
        lambda method, path: next(faults, EXPIRED) if method == "PUT" and "/predictions/" in path else None
    ):
        on_s3.write(new)
        assert on_s3.records()[0] == [old.record], "a record is written last"
        assert on_s3.predictions(old.record) is not None
    assert str(on_s3.kept.root) in capsys.readouterr().err

    on_s3.ensure_sent()
    assert on_s3.records()[0] == [new.record]


def test_what_cannot_be_written_is_kept_and_brought_over(
    on_s3: RemoteStore, s3: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = result_of(record_of(seed=0)), result_of(record_of(seed=1, minutes=1))
    interrupted, run_id = record_of(seed=2, minutes=2, status=Status.INTERRUPTED), after.record.run_id
    on_s3.write(before)
    on_s3.write_timings(run_id, [timing_of(run_id, "openvino")])
    with s3.failing(lambda method, path: EXPIRED):
        on_s3.write(after)
        on_s3.write_timings(run_id, [timing_of(run_id)])
        on_s3.write(Result(interrupted))
        on_s3.save_state(interrupted.run_id, b"epoch 7")
        on_s3.write(Result(record_of(seed=0, status=Status.FAILED)))
        with pytest.raises(StorageError, match="expired") as caught:
            on_s3.ensure_sent()
    assert "Traceback" not in str(caught.value)
    assert str(on_s3.kept.root) in str(caught.value)
    assert capsys.readouterr().err.count("warning") == 1, "told once"
    assert on_s3.records()[0] == [before.record]

    again = open_store(on_s3.root)  # the next command
    again.prepare()

    assert f"brought over 3 results from {on_s3.kept.root}" in capsys.readouterr().out
    assert again.records() == ([before.record, after.record, interrupted], [])
    assert again.epochs(run_id) == list(after.epochs)
    assert again.predictions(after.record) is not None
    assert run_id in again.checkpoints()
    assert {row.backend for row in again.timings(run_id)} == {"eager", "openvino"}, "added to those that are there"
    assert again.states([interrupted.run_id]) == {interrupted.run_id: b"epoch 7"}
    assert not [file for kind in KINDS for file in (Path(str(on_s3.kept.root)) / kind).glob("*.*")], "kept no longer"


def test_deployments_that_were_kept_without_timings_are_brought_over(on_s3: RemoteStore, s3: ObjectStorage) -> None:
    run_id, now = record_of().run_id, datetime(2026, 1, 1, tzinfo=UTC)
    failed = Deployment(run_id=run_id, backend="openvino", status="failed", reason="no reason", prepared_at=now)
    with s3.failing(lambda method, path: EXPIRED):
        on_s3.write_deployments(run_id, [failed])
    on_s3.ensure_sent()
    assert on_s3.deployments(run_id) == [failed]
    assert on_s3.timed() == set(), "it was not timed"


def test_what_another_user_could_have_kept_is_not_brought_over(on_s3: RemoteStore, s3: ObjectStorage) -> None:
    with s3.failing(lambda method, path: EXPIRED):
        on_s3.write(result_of(record_of()))
    Path(str(on_s3.kept.root)).chmod(0o777)
    with pytest.raises(UserError, match="every user can write"):
        on_s3.ensure_sent()
    assert on_s3.records()[0] == []


def test_what_is_kept_can_be_copied_by_hand(on_s3: RemoteStore, s3: ObjectStorage) -> None:
    result = result_of(record_of())
    with s3.failing(lambda method, path: EXPIRED):
        on_s3.write(result)
    fs, root = on_s3.root.fs, on_s3.root.path  # type: ignore[union-attr]
    for file in Path(str(on_s3.kept.root)).rglob("*.*"):
        if file.is_file():
            fs.put_file(str(file), f"{root}/{file.relative_to(str(on_s3.kept.root)).as_posix()}")
    assert on_s3.records() == ([result.record], [])


def test_a_record_that_cannot_be_read_now_is_neither_lost_nor_set_aside(on_s3: RemoteStore, s3: ObjectStorage) -> None:
    record = record_of()
    on_s3.write(result_of(record))
    with (
        s3.failing(lambda method, path: EXPIRED if method == "GET" and "/runs/" in path else None),
        pytest.raises(StorageError, match="cannot read"),
    ):
        on_s3.records(set_aside=True)
    with s3.failing(lambda method, path: EXPIRED), pytest.raises(StorageError):
        on_s3.timings(record.run_id)  # if it were said that there are none, the next ones would replace them
    assert names(on_s3.root, "runs") == [f"{record.run_id}.parquet"]


WRITER = """
import dataclasses, pickle, sys
from bench.reporting.remote import open_store
from bench.storage import place_of
result = pickle.loads(sys.stdin.buffer.read())
store = open_store(place_of(sys.argv[1]))
store.prepare()
for number in range(4):
    for name in (f"{sys.argv[2]}-{number}", "both"):
        store.write(dataclasses.replace(result, record=result.record.model_copy(update={"run_id": name})))
    assert all(record.test_accuracy == result.record.test_accuracy for record in store.records(set_aside=True)[0])
"""


def test_two_processes_that_write_into_one_prefix_lose_no_record(s3_url: str, tmp_path: Path) -> None:
    result = result_of(record_of())
    write_at_once(WRITER, (s3_url, "one"), (s3_url, "other"), given=result, cwd=tmp_path)
    store = Store(place_of(s3_url))
    records, problems = store.records()
    assert problems == []
    assert len(records) == 9
    assert len(names(store.root, "predictions")) == 9


# --- what workers write themselves -----------------------------------------------------------------------------------


def test_workers_reach_object_storage_and_nothing_else(tmp_path: Path) -> None:
    assert worker_url(place_of("s3://bucket/prefix")) == "s3://bucket/prefix"
    assert worker_url(place_of("memory://prefix")) is None
    assert worker_url(tmp_path) is None


def test_a_worker_stores_the_large_files_and_its_states(
    on_s3: RemoteStore, s3_url: str, make_outcome: Callable[[], tuple]
) -> None:
    run, outcome = make_outcome()
    direct = pickle.loads(pickle.dumps(DirectStore(s3_url)))  # noqa: S301 - as Ray sends it
    assert direct.load(run.id) is None
    assert direct.save(run.id, b"epoch 1")
    assert direct.load(run.id) == b"epoch 1"

    kept = direct.keep(run, outcome)

    assert (kept.predictions, kept.checkpoint) == (None, None)
    from bench.workflows.record import assemble

    assert assemble(run, kept).record == assemble(run, outcome).record, "the record is the same either way"
    on_s3.write(assemble(run, kept))
    (record,) = on_s3.records()[0]
    assert on_s3.predictions(record) is not None
    assert files.read(on_s3.root / str(record.checkpoint)) == outcome.checkpoint


@pytest.fixture
def make_outcome() -> Callable[[], tuple]:
    from bench.spec import Measured, Outcome

    def make() -> tuple:
        run = job_of().runs()[0]
        predictions = result_of(record_of()).predictions
        now = datetime(2026, 1, 1, tzinfo=UTC)
        measured = Measured(status=Status.OK, started_at=now, ended_at=now)
        return run, Outcome(run.id, measured, [], predictions, b"a checkpoint")

    return make


def test_what_a_worker_cannot_store_goes_through_the_driver(
    s3: ObjectStorage, s3_url: str, make_outcome: Callable[[], tuple]
) -> None:
    run, outcome = make_outcome()
    direct = DirectStore(s3_url)
    with s3.failing(lambda method, path: EXPIRED):
        assert direct.keep(run, outcome) is outcome
        s3.asked.clear()
        assert not direct.save(run.id, b"epoch 1")
        assert direct.load(run.id) is None
        assert s3.asked == [], "after a failure it does not try, and wait, again"
    assert DirectStore("nowhere://bucket/prefix").keep(run, outcome) is outcome


def test_test_images_are_kept_and_found(store: Store) -> None:
    import numpy as np

    pixels = np.arange(2 * 64, dtype=np.uint8).reshape(2, 1, 8, 8)
    for _ in range(2):
        images.save(store.root, "e" * 64, pixels, np.array([0, 1]), ("cat", "dog"), dataset="pets")
    kept = images.load(store.root, "e" * 64)
    assert kept is not None
    assert np.array_equal(kept.images, pixels)
    assert images.class_names(store.root, "e" * 64) == ("cat", "dog")
    assert images.load(store.root, "f" * 64) is None
    assert len(names(store.root, "images")) == 1
