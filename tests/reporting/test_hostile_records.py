"""Stored records with something absurd in them: every page and export is made, and names what was left out."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import DIGITS, START, record_of, result_of

from bench.compare import main as compare
from bench.export import main as export
from bench.report import main as report
from bench.reporting import images
from bench.reporting.store import Store
from bench.spec import Deployment, Predictions, Record, Result, Timing

IMAGES = 40
NAN, INF = math.nan, math.inf


def answers(images: int = IMAGES, seed: int = 0, **changed: Any) -> Predictions:
    labels = (np.arange(images) % 10).astype(np.int16)
    random = np.random.default_rng(seed)
    predicted = np.where(random.random(images) < 0.1, (labels + 1) % 10, labels).astype(np.int16)
    return replace(Predictions(labels, predicted, random.random(images, dtype=np.float32)), **changed)


def all_of(number: float, kind: type[np.generic] = np.int16) -> np.ndarray:
    return np.full(IMAGES, number, kind)


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Store, list[Result]]:
    """Three seeds of each of two models, with all that belongs to them."""
    store = Store(tmp_path / "results")
    store.prepare()
    results = []
    for model in ("cnn", "mobilenet"):
        for seed in range(3):
            record = record_of(model, seed=seed, test_accuracy=0.9 + seed / 100)
            results.append(replace(result_of(record), predictions=answers(seed=seed + 10 * (model == "cnn"))))
            store.write(results[-1])
    keep_images(store, np.random.default_rng(1).integers(0, 255, (IMAGES, 1, 28, 28)).astype(np.uint8))
    return store, results


def keep_images(store: Store, pixels: np.ndarray) -> None:
    shutil.rmtree(store.root / "images", ignore_errors=True)
    labels = answers().labels[: len(pixels)]
    images.save(store.root, DIGITS.sha256, pixels, labels, [str(number) for number in range(10)], dataset="mnist-5k")


def changed(store: Store, result: Result, predictions: Predictions | None = None, **columns: Any) -> Record:
    """The record of a result that was stored with other columns or predictions."""
    record = result.record.model_copy(update=columns)
    store.write(replace(result, record=record, predictions=predictions or result.predictions))
    return record


def plots_in(store: Store) -> set[str]:
    return {file.stem.removeprefix("mnist-5k-") for file in (store.root / "plots").glob("*.svg")}


def all_commands(store: Store) -> None:
    """Every command that reads a results folder ends well."""
    given = ["--results", str(store.root)]
    assert report(given) == 0
    assert compare(["cnn", "mobilenet", *given]) == 0
    places = ["--csv", str(store.root.parent / "runs.csv"), "--tensorboard", str(store.root.parent / "events")]
    assert export([*given, *places]) == 0


@pytest.mark.parametrize(
    ("predictions", "reason"),
    [
        (answers(predicted=all_of(999)), "a predicted class is 999, but there are 10 classes"),
        (answers(predicted=all_of(-1)), "a predicted class is -1"),
        (answers(labels=all_of(10)), "a label is 10"),
        (answers(probability=all_of(NAN, np.float32)), "a probability is not between 0 and 1"),
        (answers(probability=all_of(7, np.float32)), "a probability is not between 0 and 1"),
        (answers(0), "there are none"),
        (
            answers(
                top_classes=np.full((IMAGES, 5), 99, np.int16), top_probabilities=np.zeros((IMAGES, 5), np.float32)
            ),
            "one of the five most probable classes is 99",
        ),
    ],
    ids=str,
)
def test_predictions_that_are_none_are_left_out_with_the_reason(
    predictions: Predictions, reason: str, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    store.prepare()
    record = changed(store, result_of(record_of()), predictions)
    problems: list[str] = []

    assert store.predictions(record, problems) is None
    assert len(problems) == 1
    assert f"The stored predictions of {record.run_id} are left out: {reason}" in problems[0]


@pytest.mark.parametrize("value", [NAN, INF, -INF, -0.5])
@pytest.mark.parametrize(
    "name",
    ["test_accuracy", "test_macro_f1", "test_imbalance", "train_seconds", "peak_memory_mb", "train_images_per_second"],
)
def test_a_figure_that_no_run_can_have_is_unknown_and_named(name: str, value: float, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    record = changed(store, result_of(record_of()), **{name: value})

    (read,), problems = store.records()

    assert read == record.model_copy(update={name: None})
    assert len(problems) == 1
    assert f"{record.run_id} has figures that no run can have measured" in problems[0]
    assert f"{name} = " in problems[0]


def test_the_loss_of_a_diverged_run_may_be_infinite(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    changed(store, result_of(record_of()), test_loss=INF, train_loss=NAN)

    (read,), problems = store.records()

    assert (read.test_loss, problems) == (INF, [])


def test_many_absurd_records_in_one_folder_stop_no_command(
    folder: tuple[Store, list[Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, results = folder
    thousand = changed(store, results[0], answers(predicted=all_of(999)), classes=10)
    fewer = changed(store, results[1], classes=3)
    changed(store, results[2], test_accuracy=NAN, train_seconds=INF, test_loss=NAN, peak_memory_mb=-1.0)
    (store.root / "predictions" / f"{results[3].record.run_id}.parquet").unlink()
    (store.root / "epochs" / f"{results[3].record.run_id}.parquet").write_bytes(b"")
    hostile = [epoch.model_copy(update={"train_loss": INF, "train_accuracy": NAN}) for epoch in results[4].epochs]
    store.write(replace(results[4], epochs=hostile))
    changed(store, results[5], total_parameters=0, macs=0, test_imbalance=INF)

    all_commands(store)

    said = capsys.readouterr()
    assert (said.out + said.err).count(f"{results[2].record.run_id} has figures that no run can have measured") == 3
    assert f"The stored predictions of {thousand.run_id} are left out: a predicted class is 999" in said.out  # export
    page = (store.root / "report.html").read_text()
    assert f"The stored predictions of {thousand.run_id} are left out" in page
    assert f"{fewer.run_id} is left out of what is counted by class: it names 3 classes, most runs 10" in page
    plots = plots_in(store)
    assert {"accuracy", "learning-curves", "accuracy-parameters"} <= plots
    assert any(name.startswith("confusion-cnn") for name in plots)
    assert any(name.startswith("confusion-mobilenet") for name in plots)
    assert (store.root / "summary.md").is_file()


@pytest.mark.parametrize(
    ("timing", "deployment"),
    [
        ({"seconds": 0.0}, {"accuracy": 1.5}),
        ({"seconds": -1.0}, {"correct": -1}),
        ({"seconds": NAN}, {"agreement": NAN}),
        ({"seconds": INF}, {"prepare_seconds": -INF}),
        ({"reference_seconds": 0.0}, {"images": -5}),
        ({"batch_size": 0}, {"largest_difference": -1.0}),
    ],
    ids=str,
)
def test_timings_that_nothing_can_have_are_as_if_it_had_not_been_timed(
    timing: dict[str, Any], deployment: dict[str, Any], folder: tuple[Store, list[Result]]
) -> None:
    store, results = folder
    good, bad = (result.record.run_id for result in results[:2])
    shared = {"kind": "inference", "backend": "eager", "contended": False, "device": "cpu", "threads": 2}
    sample = {**shared, "batch_size": 1, "sample": 0, "seconds": 0.01, "precision": "fp32", "measured_at": START}
    sample |= {"reference_seconds": 0.01, "peak_memory_mb": None}
    answer = {"backend": "eager", "status": "ok", "prepared_at": START}
    for run_id, spoilt in ((good, False), (bad, True)):
        row = {**sample, "run_id": run_id, **(timing if spoilt else {})}
        store.write_timings(run_id, [Timing.model_construct(**row)])
        row = {**answer, "run_id": run_id, **(deployment if spoilt else {})}
        store.write_deployments(run_id, [Deployment.model_construct(**row)])

    assert len(store.timings(good)) == len(store.deployments(good)) == 1
    assert store.timings(bad) == store.deployments(bad) == []
    all_commands(store)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda store: shutil.rmtree(store.root / "images"),
        lambda store: next((store.root / "images").iterdir()).write_bytes(b"no archive"),
        lambda store: keep_images(store, np.zeros((IMAGES, 2, 8, 8), np.uint8)),
        lambda store: keep_images(store, np.zeros((IMAGES, 1, 0, 0), np.uint8)),
        lambda store: keep_images(store, np.zeros((5, 1, 8, 8), np.uint8)),
    ],
    ids=["none", "damaged", "two channels", "no pixels", "of other images"],
)
def test_without_usable_test_images_only_what_shows_them_is_missing_and_named(
    spoil: Callable[[Store], None], folder: tuple[Store, list[Result]]
) -> None:
    store, _ = folder
    spoil(store)

    assert report(["--results", str(store.root)]) == 0

    names = plots_in(store)
    assert not any(name.startswith("wrong-") for name in names)
    assert sum(name.startswith("confusion-") for name in names) == 2
    assert "gets wrong" in (store.root / "report.html").read_text()


def test_a_plot_that_cannot_be_drawn_is_named_and_the_others_are_drawn(
    folder: tuple[Store, list[Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise IndexError("index 999 is out of bounds")

    monkeypatch.setattr("bench.reporting.tradeoffs.accuracy_against_parameters", broken)
    store, _ = folder

    assert report(["--results", str(store.root)]) == 0

    assert (
        "Accuracy against parameters cannot be drawn from what is stored (IndexError: index 999"
        in (store.root / "report.html").read_text()
    )
    assert "accuracy-parameters" not in plots_in(store)
    assert {"accuracy", "learning-curves"} <= plots_in(store)
