"""bench.run with its results in object storage: what a kill, a bad connection or expired credentials leave behind.

python -m pytest tests/test_object_storage.py -m "slow or not slow"    # all of it
"""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from object_storage import BUSY, EXPIRED, ObjectStorage
from running import Running, command, gone

from bench.reporting import files
from bench.reporting.store import Store
from bench.spec import Record
from bench.storage import place_of
from bench.workflows.report import write_pages

PLUGIN = """
import time
from torch import nn

class slow(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(32, classes)

    def forward(self, images):
        if self.training and len(images) > 2:  # not in the trial before the training
            time.sleep(0.05)
        return self.head(self.body(images))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[list[str]], Running]]:
    started: list[Running] = []

    def go(words: list[str]) -> Running:
        started.append(Running(folder, words, BENCH_CACHE=str(folder / "cache")))
        return started[-1]

    yield go
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def words(url: str, *, seeds: int, epochs: int = 2) -> list[str]:
    what = ["--models", "mine.py:slow", "cnn", "--dataset", "synthetic", "--cpus-per-worker", "1"]
    return [*what, "--seeds", str(seeds), "--epochs", str(epochs), "--results", url]


def records(url: str) -> dict[str, Record]:
    found, problems = Store(place_of(url)).records()
    assert problems == []
    return {record.run_id: record for record in found}


def check_whole(url: str, runs: int) -> dict[str, Record]:
    """Every run is there once, with all that belongs to it, and nothing unfinished is left."""
    found, root = records(url), place_of(url)
    assert len(found) == runs
    assert {record.status for record in found.values()} == {"ok"}
    for kind in ("epochs", "predictions", "checkpoints"):
        stems = [name.removesuffix(".parquet").removesuffix(".safetensors") for name in files.listed(root / kind)]
        assert sorted(stems) == sorted(found), kind
    assert Store(root).ids("unfinished") == []
    return found


def test_a_killed_driver_and_a_bad_connection_lose_nothing(
    s3: ObjectStorage, s3_url: str, folder: Path, start: Callable[[list[str]], Running]
) -> None:
    faults = itertools.cycle([None] * 9 + [BUSY] + [None] * 9 + ["cut"] + [None] * 9 + [0.3])
    lock = threading.Lock()

    def fault(method: str, path: str) -> object:
        with lock:
            return next(faults)

    with s3.failing(fault):  # type: ignore[arg-type]
        running = start(words(s3_url, seeds=1, epochs=8))
        running.wait_for(lambda log: "slow seed 0: epoch 3/8" in log)
        workers = running.workers()
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
        assert gone(workers, 20) == [], "a worker outlived the driver"
        finished = records(s3_url)
        assert len(finished) < 2, "it was to be killed before its end"

        ran = command("bench.run", *words(s3_url, seeds=1, epochs=8), cwd=folder, BENCH_CACHE=str(folder / "cache"))

    assert ran.code == 0, ran
    assert "slow seed 0: epoch 2/8" not in ran.out, "it went on after the epochs that were done"
    found = check_whole(s3_url, 2)
    assert finished.items() <= found.items(), "a finished run was lost or trained again"
    sent = [re.sub(r"\?.*", "", line) for line in s3.asked if line.startswith("PUT")]
    assert any("/unfinished/" in line for line in sent)

    local = Store(folder / "local")  # the same pages, byte for byte, as from a folder with the same files
    local.prepare()
    root = place_of(s3_url)
    for kind in ("runs", "epochs", "predictions", "checkpoints", "images"):
        (folder / "local" / kind).mkdir(exist_ok=True)
        for name in files.listed(root / kind):
            (folder / "local" / kind / name).write_bytes(files.read(root / kind / name))
    write_pages(local, show=False)
    plots = [f"plots/{name}" for name in files.listed(root / "plots")]
    for name in ("summary.md", "report.html", "answer.json", *plots):
        assert files.read(root / name) == (folder / "local" / name).read_bytes(), name


@pytest.mark.slow
def test_credentials_that_expire_lose_nothing_and_the_same_command_brings_it_over(
    s3: ObjectStorage, s3_url: str, folder: Path, start: Callable[[list[str]], Running]
) -> None:
    running = start(words(s3_url, seeds=1))
    running.wait_for(lambda log: "epoch 1/2" in log)
    with s3.failing(lambda method, path: EXPIRED):
        assert running.process.wait(120) == 2, running.log.read_text()
    said = running.log.read_text()
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    kept = Path(re.search(r"is kept in (\S+):", error)[1])  # type: ignore[index]
    assert "token has expired" in error
    there = Store(kept).records()[0]
    assert {record.status for record in there} == {"ok"}

    before = {record.run_id: record for record in there} | records(s3_url)
    assert len(before) == 2
    ran = command("bench.run", *words(s3_url, seeds=1), cwd=folder, BENCH_CACHE=str(folder / "cache"))

    assert ran.code == 0, ran
    assert "brought over" in ran.out
    assert "every run that is asked for is already there" in ran.out
    assert check_whole(s3_url, 2) == before
    assert b"accuracy" in files.read(place_of(s3_url) / "summary.md")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_command_killed_at_twenty_moments_loses_no_run_and_ends_on_the_same_bits(
    s3: ObjectStorage, s3_url: str, folder: Path, start: Callable[[list[str]], Running]
) -> None:
    chance = random.Random(1)  # noqa: S311 - moments, not secrets
    ran = command("bench.run", *words(f"{s3_url}-whole", seeds=3), cwd=folder)
    assert ran.code == 0, ran
    whole = {run_id: record.model_sha256 for run_id, record in check_whole(f"{s3_url}-whole", 6).items()}
    finished: dict[str, Record] = {}
    kills = rounds = 0
    while kills < 20:
        url = f"{s3_url}-{rounds}"
        kills += start(words(url, seeds=3)).kill_after(chance.uniform(1, 35))
        there = records(url)
        assert finished.items() <= there.items(), "a finished run was lost or trained again"
        finished = there
        for name in files.listed(place_of(url) / "predictions"):
            pyarrow.parquet.read_table(files.source_of(place_of(url) / "predictions" / name))
        if len(finished) == 6:
            assert {run_id: record.model_sha256 for run_id, record in finished.items()} == whole
            finished, rounds = {}, rounds + 1
    url = f"{s3_url}-{rounds}"
    ran = command("bench.run", *words(url, seeds=3), cwd=folder)
    assert ran.code == 0, ran
    found = check_whole(url, 6)
    assert finished.items() <= found.items(), "a finished run was lost or trained again"
    assert {run_id: record.model_sha256 for run_id, record in found.items()} == whole


@pytest.mark.slow
def test_two_commands_into_one_prefix_train_each_run_and_lose_none(
    s3: ObjectStorage, s3_url: str, folder: Path, start: Callable[[list[str]], Running]
) -> None:
    running = start(words(s3_url, seeds=2))
    other = command("bench.run", *words(s3_url, seeds=1), cwd=folder, BENCH_CACHE=str(folder / "cache"))
    assert other.code == 0, other
    assert running.process.wait(120) == 0, running.log.read_text()
    check_whole(s3_url, 4)


@pytest.mark.slow
def test_two_workers_go_on_from_the_state_in_object_storage_when_one_is_killed(
    s3: ObjectStorage, s3_url: str, folder: Path, start: Callable[[list[str]], Running]
) -> None:
    what = ["--models", "mine.py:slow", "--dataset", "synthetic", "--epochs", "4", "--workers-per-job", "2"]
    running = start([*what, "--results", s3_url])
    running.wait_for(lambda log: "epoch 2/4" in log)
    workers = [one for one in running.workers() if "RayTrainWorker" in " ".join(one.cmdline())]
    assert len(workers) == 2
    workers[-1].kill()
    assert running.process.wait(180) == 0, running.log.read_text()
    log = running.log.read_text()
    assert "attempt 2" in log
    assert log.count("epoch 1/4") == 1, "a finished epoch is not repeated"
    (record,) = check_whole(s3_url, 1).values()
    assert record.attempts == 2
    assert len([line for line in s3.asked if line.startswith("PUT") and "/unfinished/" in line]) >= 3


@pytest.mark.slow
def test_a_sweep_and_its_winner_are_in_object_storage(s3: ObjectStorage, s3_url: str, folder: Path) -> None:
    arguments = ["--models", "cnn", "--dataset", "synthetic", "--epochs", "2", "--trials", "3", "--results", s3_url]
    ran = command("bench.tune", *arguments, "--no-timing", cwd=folder)
    assert ran.code == 0, ran
    found = records(s3_url)
    assert sum(record.judged_on == "validation" for record in found.values()) == 3
    assert sum(record.judged_on == "test" for record in found.values()) == 1
    assert len(files.listed(place_of(s3_url) / "sweeps", ".json")) == 1
    assert files.is_file(place_of(s3_url) / "tuning.md")
    again = command("bench.tune", *arguments, "--no-timing", cwd=folder)
    assert again.code == 0, again
    assert records(s3_url) == found
