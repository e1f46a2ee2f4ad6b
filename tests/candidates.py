"""A results folder as people fill it: some candidates with names as long as theirs, timed on two back ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from factories import record_of

from bench.reporting.store import Store
from bench.spec import DatasetInfo, Deployment, EpochRecord, Recipe, Record, Result, Timing

PHOTOS = DatasetInfo(name="folder:photos", sha256="e" * 64, train_images=20_000, test_images=4_000, classes=12)
NAMES = (
    "timm/mobilenetv3_small_050",
    "torchvision/resnet18",
    "path/mine.py:Net",
    "timm/tf_efficientnet_lite0",
    "torchvision/mobilenet_v3_large",
    "cnn",
    "timm/convnext_atto",
    "path/to/a/folder/models.py:SmallNetwork",
    "mobilenet",
    "torchvision/efficientnet_b0",
    "timm/vit_tiny_patch16_224",
    "strided-cnn",
    "torchvision/shufflenet_v2_x0_5",
)
BACKENDS = ("eager", "onnxruntime")
AT = datetime(2026, 1, 1, tzinfo=UTC)


def candidates(folder: Path, count: int, *, seeds: int = 1, backends: tuple[str, ...] = BACKENDS) -> Store:
    """A folder with so many candidates: models by name, and the same ones with other learning rates."""
    store = Store(folder)
    store.prepare()
    rng = np.random.default_rng(count)
    for number in range(count):
        name = NAMES[number % len(NAMES)]
        recipe = Recipe(lr=(1e-3, 3e-4, 1e-2, 3e-3)[number // len(NAMES)])
        size = 10 ** rng.uniform(5, 7.5)
        accuracy = 0.99 - 0.3 * rng.random() ** 2 - 0.05 / np.log10(size)
        milliseconds = (size / 1e6) ** 0.7 * rng.uniform(0.5, 2)
        for seed in range(seeds):
            share = float(np.clip(accuracy + 0.004 * rng.standard_normal(), 0, 1))
            record = _record(name, seed, recipe, share, size, number)
            store.write(Result(record, _epochs(record, share)))
            if seed == 0:
                store.write_timings(record.run_id, _timings(record, milliseconds, backends, rng))
                store.write_deployments(record.run_id, [_deployment(record, name, size) for name in backends])
    return store


def _record(name: str, seed: int, recipe: Recipe, share: float, size: float, number: int) -> Record:
    right = round(share * PHOTOS.test_images)
    return record_of(
        name,
        seed=seed,
        recipe=recipe,
        dataset=PHOTOS,
        minutes=number,
        test_accuracy=right / PHOTOS.test_images,
        test_correct=right,
        total_parameters=round(size),
        trainable_parameters=round(size / 7),
        macs=round(30 * size),
        contended=True,
        train_seconds=20 + size / 1e6,
        feature_seconds=None,
        features_cached=None,
    )


def _epochs(record: Record, share: float) -> list[EpochRecord]:
    return [
        EpochRecord(
            run_id=record.run_id,
            epoch=epoch,
            train_loss=1 / epoch,
            train_accuracy=share * (1 - 0.5 / epoch),
            seconds=4.0,
            images_per_second=5000.0,
        )
        for epoch in range(1, 6)
    ]


def _timings(record: Record, milliseconds: float, backends: tuple[str, ...], rng: np.random.Generator) -> list[Timing]:
    rows = []
    calls = [("training", "eager", 64, 90.0)]
    calls += [("inference", name, size, 0.4 * size + 0.6) for name in backends for size in (1, 250)]
    for kind, backend, size, factor in calls:
        quicker = 0.5 if backend == "onnxruntime" else 1.0
        for sample in range(200):
            seconds = quicker * factor * milliseconds * rng.uniform(0.95, 1.3) / 1000
            rows.append(
                Timing(
                    run_id=record.run_id,
                    kind=kind,
                    backend=backend,
                    batch_size=size,
                    sample=sample,
                    seconds=seconds,
                    reference_seconds=0.005,
                    contended=False,
                    device="cpu",
                    threads=2,
                    precision="fp32",
                    measured_at=AT + timedelta(minutes=sample // 20),
                )
            )
    return rows


def _deployment(record: Record, backend: str, size: float) -> Deployment:
    right = record.test_correct or 0
    return Deployment(
        run_id=record.run_id,
        backend=backend,
        status="ok",
        images=record.test_images,
        correct=right,
        accuracy=right / record.test_images,
        agreement=1.0,
        disagreements=0,
        largest_difference=1e-5,
        only_eager_right=0,
        only_this_right=0,
        prepare_seconds=1.5,
        deployed_bytes=round(4 * size * (1.01 if backend == "eager" else 1.0)),
        threads=2,
        precision="fp32",
        device="cpu",
        version="torch 2.15.0",
        prepared_at=AT,
    )
