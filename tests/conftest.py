"""What tests share: factories of runs, records and outcomes, small data, and registries that are put back."""

from __future__ import annotations

import dataclasses
import gc
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from factories import job_of, record_of, result_of
from hypothesis import settings
from object_storage import BUCKET, ObjectStorage, free_port, object_storage

from bench.cluster.session import ask_for_own_token
from bench.learning.data import datasets
from bench.learning.data.datasets import DATASETS, Dataset, Split
from bench.learning.models.registry import MODELS
from bench.spec import Job, Record, Result, Run, slug

settings.register_profile("bench", deadline=None)  # machines are shared: time says nothing
settings.load_profile("bench")

# several processes compute at once: a thread that waits shall let the others work
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ask_for_own_token()  # before a test imports Ray

ROOT = Path(__file__).parents[1]

RAY_FIRST = ("tests/test_run.py", "tests/test_faults.py")
RAY_LAST = (
    "tests/test_object_storage.py",
    "tests/test_any_model.py",
    "tests/test_setups.py",
    "tests/test_nodes.py",
    "tests/test_autoscaler.py",
    "tests/test_slurm.py",
    "tests/test_tune.py",
    "tests/cluster/test_session.py",
    "tests/cluster/test_tune.py",
)
USES_RAY = (*RAY_FIRST, *RAY_LAST)

STARTS_A_PROCESS = {"modules_after", "browser", "s3_server"}
"""Fixtures that make a test heavy."""

SKIPPED: list[str] = []
AVOIDABLE = re.compile("MNIST|Chromium|could not import|not installed")
"""Reasons to skip a test that do not hold where everything is installed; a machine may lack a compiler, say."""


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "fail if a test is skipped for want of MNIST, Chromium or a package"
    parser.addoption("--no-skips", action="store_true", help=about)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and AVOIDABLE.search(str(report.longrepr)):
        SKIPPED.append(f"{report.nodeid}: {report.longrepr}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if SKIPPED and session.config.getoption("--no-skips") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for line in SKIPPED if config.getoption("--no-skips") else ():
        terminalreporter.write_line(f"SKIPPED, and --no-skips: {line}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes, one begins with RAY_FIRST; whichever is free takes the next file."""
    from xdist.scheduler import LoadScopeScheduling

    class RayFirst(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "Ray first" if file in RAY_FIRST else file

    return RayFirst(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of RAY_FIRST take as long as all others together."""
    items.sort(key=lambda item: (_file(item) in RAY_LAST) - (_file(item) in RAY_FIRST))
    for item in items:
        if _file(item) in USES_RAY:
            item.add_marker("ray")
        if STARTS_A_PROCESS & set(getattr(item, "fixturenames", ())):
            item.add_marker("heavy")


def _file(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module", autouse=True)
def small_collections() -> None:
    """Leave the objects of earlier modules, PyTorch's among them, out of garbage collections.

    statsmodels asks for a collection in each Holm correction.
    """
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectStorage]:
    with object_storage() as storage:
        yield storage


@pytest.fixture
def s3(s3_server: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    """An S3 server that this process and those that it starts can use, until the test ends."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    s3_server.asked.clear()
    return s3_server


@pytest.fixture
def s3_url(s3: ObjectStorage, request: pytest.FixtureRequest) -> str:
    """The URL of an empty results folder."""
    return f"s3://{BUCKET}/{slug(request.node.name)}-{uuid.uuid4().hex[:6]}"


@pytest.fixture(scope="session")
def gs_server() -> Iterator[str]:
    """The address of a server for Google Cloud Storage, an emulator in this process."""
    from gcp_storage_emulator.server import create_server

    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def gs_url(gs_server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty results folder in Google Cloud Storage, for this process and those that it starts."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gs_server)
    return f"gs://{BUCKET}/{slug(request.node.name)}-{uuid.uuid4().hex[:6]}"


@pytest.fixture
def memory_url() -> Iterator[str]:
    """The URL of an empty folder in the memory of this process."""
    url = f"memory://{uuid.uuid4().hex[:6]}"
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True) if fsspec.filesystem("memory").exists(url) else None


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
def make_result() -> Callable[[Record], Result]:
    return result_of


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
    """Whatever a test registers is forgotten after it, and so is every file of the user's that it loaded."""
    models, data, modules = dict(MODELS), dict(DATASETS), set(sys.modules)
    yield
    for registry, before in ((MODELS, models), (DATASETS, data)):
        registry.clear()
        registry.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("bench_user_code_"):
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
