"""A record says what was asked for, what was measured, and nothing that is not known."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from bench.reporting.scores import scores_of
from bench.reporting.store import Store
from bench.spec import DatasetInfo, Job, Measured, Outcome, Predictions, Recipe, Record, Run, Status
from bench.workflows.record import assemble

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run_of() -> Run:
    data = DatasetInfo(name="mnist", sha256="d" * 64, train_images=60_000, test_images=10_000, classes=10)
    recipe = Recipe(epochs=3, batch_size=32, lr=0.01)
    origin = {"weights": "file mine.pth", "weights_sha256": "a" * 64, "plugin_sha256": "b" * 64, "workers": 2}
    (run,) = Job(model="cnn", dataset=data, recipe=recipe, seeds=(4,), **origin).runs()
    return run


def test_the_unknown_is_null() -> None:
    run = run_of()
    failed = Measured(status=Status.FAILED, started_at=NOW, ended_at=NOW, reason="it broke")

    record = assemble(run, Outcome(run.id, failed)).record

    known = {"schema_version", "reason", "attempts", "weights_sha256", "plugin_sha256", "judged_on"}
    known |= set(Recipe.model_fields) | set(run.input.columns())
    optional = {name for name, field in Record.model_fields.items() if not field.is_required()} - known
    assert {name: getattr(record, name) for name in optional} == dict.fromkeys(optional)


def test_a_record_says_what_was_run_and_measured() -> None:
    run = run_of()
    measured = Measured(status=Status.OK, started_at=NOW, ended_at=NOW, test_accuracy=0.5)

    result = assemble(run, Outcome(run.id, measured, checkpoint=b"x"), attempts=3, contended=True, git_commit="c")

    record = result.record
    assert (record.run_id, record.job_id, record.seed) == (run.id, run.job_id, 4)
    assert (record.dataset, record.dataset_sha256) == ("mnist", "d" * 64)
    assert (record.train_images, record.test_images, record.classes) == (60000, 10000, 10)
    assert (record.epochs, record.batch_size, record.lr, record.bn_mode) == (3, 32, 0.01, "eval")
    assert (record.weights, record.weights_sha256, record.plugin_sha256) == ("file mine.pth", "a" * 64, "b" * 64)
    assert (record.workers, record.test_accuracy) == (2, 0.5)
    assert (record.input_size, record.input_channels, record.input_crop) == (28, 1, 1.0)
    assert (record.input_interpolation, record.input_mean, record.input_std) == ("bilinear", "0.1307", "0.3081")
    assert (record.attempts, record.contended, record.git_commit) == (3, True, "c")
    assert record.checkpoint == f"checkpoints/{run.id}.safetensors"
    assert result.checkpoint == b"x"


def test_the_scores_are_those_of_the_predictions_that_are_stored(tmp_path: Path) -> None:
    run = run_of()
    measured = Measured(status=Status.OK, started_at=NOW, ended_at=NOW, test_accuracy=0.5)
    top = np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [0, 5, 6, 7, 8], [9, 1, 2, 3, 0]], dtype=np.int16)
    shares = np.tile(np.array([0.5, 0.2, 0.1, 0.1, 0.05], dtype=np.float32), (4, 1))
    labels = np.array([0, 0, 5, 5], dtype=np.int16)
    said = Predictions(labels, top[:, 0].copy(), shares[:, 0].copy(), top, shares)
    store = Store(tmp_path)
    store.prepare()

    result = assemble(run, Outcome(run.id, measured, predictions=said))
    store.write(result)

    stored, (record,) = store.predictions(result.record), store.records()[0]
    assert stored is not None
    again = scores_of(stored, record.classes).model_dump()
    assert {name: getattr(record, name) for name in again} == again
    assert (record.test_top5_accuracy, record.test_balanced_accuracy, record.test_imbalance) == (0.75, 0.25, 1.0)


def test_a_measurement_without_a_column_is_refused() -> None:
    with pytest.raises(ValidationError, match="train_secs"):
        Measured(status=Status.OK, started_at=NOW, ended_at=NOW, train_secs=3.0)
