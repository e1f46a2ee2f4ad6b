"""A results folder in a notebook: frames with units, and the verdicts of the pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from factories import record_of, result_of, stored_in

import bench
from bench.errors import UserError
from bench.reporting.frames import Results
from bench.reporting.store import Store
from bench.reporting.verdicts import RECIPES, Word
from bench.spec import Timing


@pytest.fixture
def results(tmp_path: Path) -> Results:
    store = Store(tmp_path)
    store.prepare()
    for model, accuracy in (("cnn", 0.99), ("mobilenet", 0.81)):
        for seed in range(3):
            record = stored_in(store, result_of(record_of(model, seed=seed, test_accuracy=accuracy + seed / 1000)))
    timing = {"run_id": record.run_id, "kind": "inference", "backend": "eager", "batch_size": 1, "contended": False}
    timing |= {"device": "cpu", "threads": 2, "precision": "fp32", "measured_at": record.ended_at}
    store.write_timings(record.run_id, [Timing(**timing, sample=0, seconds=0.01)])
    return bench.load_results(tmp_path)


def test_runs_epochs_and_timings_are_frames_with_units(results: Results) -> None:
    accuracy = results.runs.groupby("model").test_accuracy_share.mean()

    assert accuracy.to_dict() == pytest.approx({"cnn": 0.991, "mobilenet": 0.811})
    assert {"train_seconds", "peak_memory_mb", "test_loss_nats", "input_size_pixels"} <= set(results.runs.columns)
    assert len(results.epochs) == results.runs.epochs.sum()
    assert list(results.timings.seconds) == [0.01]


def test_the_answer_and_the_verdicts_are_those_of_the_pages(results: Results) -> None:
    (answer,) = results.answers().values()
    by_metric = {verdict.metric: verdict for verdict in results.compare("mobilenet", "cnn")}

    assert answer.use == "cnn"
    assert by_metric[RECIPES].word is Word.BETTER


def test_a_name_that_is_not_there_is_one_sentence(results: Results, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cnnn"):
        results.compare("cnnn", "mobilenet")
    with pytest.raises(UserError, match="holds no runs"):
        bench.load_results(tmp_path / "nowhere")


def test_an_empty_folder_has_empty_frames(tmp_path: Path) -> None:
    Store(tmp_path).prepare()

    assert bench.load_results(tmp_path).runs.empty


def test_importing_the_package_imports_nothing_large(modules_after: Callable[[str], set[str]]) -> None:
    assert not {"pandas", "torch", "ray"} & modules_after("import bench")
