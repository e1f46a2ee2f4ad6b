"""What tests share: factories of runs, records and outcomes, small data, and registries that are put back."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from bench.cluster.session import ask_for_own_token
from bench.learning import datasets
from bench.learning.datasets import DATASETS, Dataset, Split
from bench.learning.models import MODELS
from bench.spec import DatasetInfo, EpochRecord, Job, Outcome, Predictions, Recipe, Record, Run, Status

settings.register_profile("bench", deadline=None)  # machines are shared: time says nothing
settings.load_profile("bench")

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes compute at once: a thread that waits shall let the others work
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ask_for_own_token()  # before a test imports Ray

ROOT = Path(__file__).parents[1]
START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
DIGITS = DatasetInfo(name="mnist-5k", sha256="d" * 64, train_images=4000, test_images=1000, classes=10)


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
            "ray_version": "2.60.0",
            "bench_version": "0.1.0",
            "git_commit": "0123456789abcdef+",
        }
    else:
        figures = {"reason": "it broke"}
    return Record.of(
        job.runs()[0],
        status=status,
        started_at=started_at,
        ended_at=started_at + timedelta(seconds=30),
        **{**figures, **measured},
    )


def outcome_of(record: Record) -> Outcome:
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
    )
    return Outcome(record, epochs, predictions, b"a checkpoint")


USES_RAY = ("test_run.py", "test_setups.py", "test_tune.py", "test_faults.py", "test_session.py", "test_sweep.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in two processes: all that start Ray in one, as each takes the whole machine; the rest beside."""
    from xdist.scheduler import LoadScopeScheduling

    class RayInOne(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if Path(file).name in USES_RAY else file

    return RayInOne(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts Ray begins first: it takes as long as all the rest."""
    items.sort(key=lambda item: item.path.name not in USES_RAY)
    for item in items:
        if item.path.name in USES_RAY:
            item.add_marker("ray")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def make_job() -> Callable[..., Job]:
    return job_of


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    return lambda model="cnn", *, seed=0, **fields: job_of(model, seeds=(seed,), **fields).runs()[0]


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    return record_of


@pytest.fixture(scope="session")
def make_outcome() -> Callable[[Record], Outcome]:
    return outcome_of


@pytest.fixture(scope="session")
def synthetic() -> Dataset:
    return datasets.load("synthetic")


@pytest.fixture(scope="session")
def tiny(synthetic: Dataset) -> Dataset:
    """200 training and 100 test images of the synthetic ten classes."""
    train = Split(synthetic.train.images[:200], synthetic.train.labels[:200])
    test = Split(synthetic.test.images[:100], synthetic.test.labels[:100])
    return dataclasses.replace(synthetic, name="tiny", sha256="e" * 64, train=train, test=test)


@pytest.fixture
def registries() -> Iterator[None]:
    """Whatever a test registers is forgotten after it, and so is every plugin that it loaded."""
    models, data, modules = dict(MODELS), dict(DATASETS), set(sys.modules)
    yield
    for registry, before in ((MODELS, models), (DATASETS, data)):
        registry.clear()
        registry.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("bench_plugin_"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def modules_after() -> Callable[[str], set[str]]:
    """Names of the modules that a new Python process has imported after it ran some code."""

    def run(code: str) -> set[str]:
        code += "\nimport sys\nprint('MODULES', *sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return set(done.stdout.rsplit("MODULES", 1)[1].split())

    return run


@pytest.fixture
def mnist_dir() -> Path:
    """The whole MNIST, where the environment says."""
    folder = os.environ.get("BENCH_MNIST_DIR")
    if not folder:
        pytest.skip("needs the whole MNIST: BENCH_MNIST_DIR is not set")
    return Path(folder)
