"""Faults injected for real: processes killed, memory and disks filled, files torn, keys pressed.

python -m pytest tests/test_faults.py -m "slow or not slow"            # all of it
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet
import pytest
import torch
from factories import MOBILENET
from running import Ran, Running, command, environment, gone, ray_node, write_at_once

from bench.errors import UserError
from bench.learning.context import LocalContext
from bench.learning.data import datasets
from bench.learning.data.preprocessing import DeviceSplit
from bench.learning.data.statistics import mean_and_std
from bench.learning.execute import execute
from bench.learning.features import features_of
from bench.learning.inputs import Inputs
from bench.learning.models.build import build
from bench.learning.models.heads import without_head
from bench.learning.user_code import UserCode
from bench.reporting.store import Store
from bench.reporting.summary import write_summary
from bench.spec import Job, ModelInput, Recipe, Result, Run
from bench.workflows.record import assemble

PLUGIN = """
from torch import nn

def model(change):
    class Changed(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Dropout(0.5))
            self.head = nn.Linear(32, classes)

        def forward(self, images):
            if self.training and len(images) > 2:  # not in the trial before the training
                change(images)
            return self.head(self.body(images))

    return Changed

@model
def slow(images):
    import time
    time.sleep(0.05)

@model
def sleeper(images):
    import time
    time.sleep(10**6)

@model
def hungry(images):
    import psutil, resource, torch
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2 * 10**9, hard))
    try:
        torch.zeros(4 * 10**9)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

@model
def glutton(images):
    import time, torch
    kept = torch.ones(15 * 10**8)
    time.sleep(20)

@model
def halving(images):
    if len(images) > 16:
        raise MemoryError("more than 16 images do not fit")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path


def records(folder: Path) -> pd.DataFrame:
    found = pd.read_parquet(folder / "results" / "runs").set_index("run_id").sort_index()
    return found.assign(model=found.model.str.removeprefix("mine.py:"))


def arguments(*models: str, epochs: int = 2, **more: object) -> list[str]:
    flags = [word for name, value in more.items() for word in ("--" + name.replace("_", "-"), str(value))]
    names = [name if name == "cnn" else f"mine.py:{name}" for name in models]
    return ["--models", *names, "--dataset", "synthetic", "--epochs", str(epochs), *flags]


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def go(words: list[str], **more: str) -> Running:
        started.append(Running(folder, words, **more))
        return started[-1]

    yield go
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def ok(folder: Path, ran: Ran, runs: int) -> pd.DataFrame:
    assert ran.code == 0, ran
    found = records(folder)
    assert len(found) == runs
    assert set(found.status) == {"ok"}
    return found


# --- a worker is killed ----------------------------------------------------------------------------------------------


def test_a_run_goes_on_when_one_of_its_two_workers_is_killed(folder: Path, start: Callable[..., Running]) -> None:
    running = start(arguments("slow", epochs=4, workers_per_job=2))
    running.wait_for(lambda log: "epoch 2/4" in log)
    workers = [one for one in running.workers() if "RayTrainWorker" in " ".join(one.cmdline())]
    assert len(workers) == 2
    workers[-1].kill()
    assert running.process.wait(120) == 0, running.log.read_text()
    log = running.log.read_text()
    assert "attempt 2" in log
    assert log.count("epoch 1/4") == 1, "a finished epoch is not repeated"
    found = records(folder).iloc[0]
    assert (found.status, found.attempts) == ("ok", 2)


# --- Ray or the command is killed ------------------------------------------------------------------------------------


def finished_runs(folder: Path) -> dict[str, int]:
    return {file.stem: file.stat().st_mtime_ns for file in (folder / "results" / "runs").glob("*.parquet")}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_command_killed_at_twenty_moments_loses_no_run_and_ends_on_the_same_bits(
    folder: Path, start: Callable[..., Running]
) -> None:
    """Kill a six-run command and start it again, twenty times; whenever it gets through, begin anew."""
    words = [*arguments("slow", "cnn", epochs=2, seeds=3), "--cpus-per-worker", "1"]
    chance = random.Random(1)  # noqa: S311 - moments, not secrets
    whole = ok(folder, command("bench.run", *words, cwd=folder), 6)
    shutil.rmtree(folder / "results")
    finished: dict[str, int] = {}
    kills = 0
    while kills < 20:
        kills += start(words).kill_after(chance.uniform(1, 35))
        there = finished_runs(folder)
        assert finished.items() <= there.items(), "a finished run was lost or trained again"
        finished = there
        for file in (folder / "results").rglob("*.parquet"):
            pyarrow.parquet.read_table(file)
        if len(finished) == 6:
            same_as(whole, folder)
            finished = {}
    ok(folder, command("bench.run", *words, cwd=folder), 6)
    assert finished.items() <= finished_runs(folder).items(), "a finished run was lost or trained again"
    same_as(whole, folder)


def same_as(whole: pd.DataFrame, folder: Path) -> None:
    """What was killed and went on is what was never killed; then make room for the next round."""
    found = records(folder)
    assert list(found.index) == list(whole.index)
    assert list(found.model_sha256) == list(whole.model_sha256)
    assert set(found.status) == {"ok"}
    shutil.rmtree(folder / "results")


def test_a_run_whose_ray_and_then_whose_driver_is_killed_goes_on_to_the_same_bits(
    folder: Path, start: Callable[..., Running]
) -> None:
    words = [*arguments("slow", epochs=6), "--cpus-per-worker", "1"]

    running = start(words)
    running.wait_for(lambda log: "epoch 2/6" in log)
    time.sleep(0.5)  # what it takes to go on from there follows the line at once; the next epoch takes a second
    (raylet,) = (one for one in running.family() if one.name() == "raylet")
    raylet.kill()
    assert running.process.wait(60) == 1, running.log.read_text()
    said = running.log.read_text()
    assert "error: Ray was lost" in said
    assert "Traceback" not in said
    assert list(records(folder).status) == ["interrupted"]

    running = start(words)
    said = running.wait_for(lambda log: "epoch 4/6" in log)
    workers = running.workers()
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    assert gone(workers, 20) == [], "a worker outlived the driver"
    assert "epoch 2/6" not in said, "it went on after the epoch that was done"

    ran = command("bench.run", *words, cwd=folder)
    resumed = ok(folder, ran, 1).iloc[0]
    for epoch in (1, 2, 3):
        assert f"epoch {epoch}/6" not in ran.out
    whole = execute(only_run(folder, "slow", epochs=6), inputs(folder), LocalContext()).measured
    assert resumed.name == only_run(folder, "slow", epochs=6).id
    assert resumed.model_sha256 == whole.model_sha256
    assert resumed.predictions_sha256 == whole.predictions_sha256


def inputs(folder: Path) -> Inputs:
    return Inputs(datasets.load("synthetic"), None, UserCode("mine.py", (folder / "mine.py").read_text()))


def only_run(folder: Path, model: str, epochs: int) -> Run:
    given = inputs(folder)
    assert given.code is not None
    data = given.dataset
    mean, std = mean_and_std(data.train.images, 1)
    (run,) = Job(
        model=f"mine.py:{model}",
        dataset=data.info,
        recipe=Recipe(epochs=epochs),
        input=ModelInput(mean=mean, std=std),
        plugin_sha256=given.code.sha256,
    ).runs()
    return run


def slow_result(folder: Path) -> Result:
    """One epoch of the slow model, trained in this process."""
    run = only_run(folder, "slow", epochs=1)
    return assemble(run, execute(run, inputs(folder), LocalContext()))


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_control_c_ends_every_process_and_keeps_what_was_trained(folder: Path, start: Callable[..., Running]) -> None:
    words = arguments("cnn", "slow", epochs=60)
    running = start([*words[:-1], "60"])
    running.wait_for(lambda log: "slow seed 0: epoch 2/60" in log)
    family = running.family()
    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert running.process.wait(10) == 130, running.log.read_text()
    assert gone(family, 5) == []
    log = running.log.read_text()
    assert "Traceback" not in log, log
    assert "slow seed 0: interrupted from the keyboard" in log
    assert len([line for line in log.splitlines() if "slow" in line and "interrupted" in line]) == 1, "told once"
    found = records(folder)
    assert found.status[found.model == "slow"].tolist() == ["interrupted"]
    assert (folder / "results" / "summary.md").exists()
    assert "interrupted" in (folder / "results" / "summary.md").read_text()


# --- memory and time run out -----------------------------------------------------------------------------------------


def test_a_hang_and_a_lack_of_memory_become_records_and_spoil_no_other_run(folder: Path) -> None:
    words = [*arguments("sleeper", "hungry", "cnn", timeout=20), "--cpus-per-worker", "1"]
    ran = command("bench.run", *words, cwd=folder)
    assert ran.code == 1, ran
    assert "Traceback" not in ran.out + ran.err
    assert "raylet" not in ran.out + ran.err
    found = records(folder).set_index("model")
    assert found.status.to_dict() == {"sleeper": "timeout", "hungry": "oom", "cnn": "ok"}, ran
    assert "--timeout" in found.reason["sleeper"]
    assert (found.ended_at - found.started_at)["sleeper"].total_seconds() < 30
    summary = (folder / "results" / "summary.md").read_text()
    assert "timeout" in summary
    assert "oom" in summary
    again = command("bench.run", *words, cwd=folder)
    assert again.code == 1, again
    assert "--retry-failed" in again.out, "what failed is left as it was"
    given = inputs(folder)
    data = given.dataset.info
    (alone,) = Job(model="cnn", dataset=data, recipe=Recipe(epochs=2)).runs()
    assert execute(alone, given, LocalContext()).measured.predictions_sha256 == found.predictions_sha256["cnn"]


@pytest.mark.slow
def test_ray_ends_the_run_that_fills_the_memory_and_not_the_command(folder: Path) -> None:
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 4e9) / memory.total
    settings = {"RAY_memory_usage_threshold": f"{threshold:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    ran = command("bench.run", *arguments("glutton"), cwd=folder, **settings)
    assert ran.code == 1, ran
    found = records(folder).iloc[0]
    assert (found.status, found.reason) == ("oom", "ended by Ray because the machine ran out of memory")
    assert "Ray was lost" not in ran.out + ran.err


@pytest.mark.slow
def test_a_worker_that_sleeps_for_ever_is_ended_soon_after_its_timeout(folder: Path) -> None:
    ran = command("bench.run", *arguments("sleeper", timeout=5), cwd=folder)
    assert ran.code == 1, ran
    found = records(folder).iloc[0]
    assert found.status == "timeout"
    assert (found.ended_at - found.started_at).total_seconds() < 15


def test_a_batch_that_does_not_fit_is_halved_when_asked(folder: Path) -> None:
    run, given = only_run(folder, "halving", epochs=1), inputs(folder)
    assert execute(run, given, LocalContext()).measured.status == "oom"
    record = execute(run, given, LocalContext(), oom_backoff=True).measured
    assert (record.status, run.recipe.batch_size, record.batch_size_used) == ("ok", 64, 16)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_by_the_command(folder: Path) -> None:
    ran = command("bench.run", *arguments("halving", batch_size=64), "--oom-backoff", cwd=folder)
    found = ok(folder, ran, 1).iloc[0]
    assert (found.batch_size, found.batch_size_used) == (64, 16)


# --- a disk is full --------------------------------------------------------------------------------------------------


def digests(folder: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*.*") if file.is_file()}


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("a file system of 8 MB cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(b"x" * 4096)


def test_features_that_fill_the_disk_are_made_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, spec = DeviceSplit.of(datasets.load("synthetic").train, "cpu"), MOBILENET
    embedding = without_head(build(spec, 10, None, seed=0), "classifier")
    cache = folder / "cache"
    with small_disk(cache):
        monkeypatch.setenv("BENCH_CACHE", str(cache))
        fill(cache)
        os.truncate(cache / "ballast", 6_000_000)  # room for the first of the features' 5 MB
        found = features_of(data, embedding, spec, data_key="synthetic")
        left = [file for file in (cache / "features").iterdir() if file.suffix != ".lock"]
    assert not left
    monkeypatch.setenv("BENCH_CACHE", str(folder / "roomy"))
    assert torch.equal(found.values, features_of(data, embedding, spec, data_key="synthetic").values)


def test_a_full_disk_leaves_what_was_there(folder: Path) -> None:
    result = slow_result(folder)
    with small_disk(folder / "results"):
        store = Store(folder / "results")
        store.prepare()
        store.write(result)
        fill(store.root)
        before = digests(store.root)
        other = dataclasses.replace(result, record=result.record.model_copy(update={"run_id": "other"}))
        for write in (
            lambda: store.write(other),
            lambda: store.save_state("x", b"x" * 10_000),
            lambda: write_summary(store),
        ):
            with pytest.raises(UserError, match=r"results.*No space left on device"):
                write()
        assert digests(store.root) == before
        ran = command("bench.report", cwd=folder)
        assert ran.code == 2, ran
        assert "No space left on device" in ran.err
        assert "Traceback" not in ran.err
        assert digests(store.root) == before


@pytest.mark.slow
def test_a_disk_that_fills_between_two_commands_loses_nothing(folder: Path) -> None:
    results = folder / "results"
    with small_disk(results):
        ok(folder, command("bench.run", *arguments("slow"), cwd=folder), 1)
        fill(results)
        before = digests(results)
        ran = command("bench.run", *arguments("slow", "cnn"), cwd=folder)
        assert ran.code == 2, ran
        assert "results" in ran.err
        assert "No space left on device" in ran.err
        assert "Traceback" not in ran.err
        assert before.items() <= digests(results).items()
        assert not list(results.rglob("*.tmp"))


# --- files are torn --------------------------------------------------------------------------------------------------


def test_torn_and_foreign_shards_are_reported_and_set_aside(folder: Path) -> None:
    result = slow_result(folder)
    store = Store(folder / "results")
    store.prepare()
    for name in ("victim", "other"):
        store.write(dataclasses.replace(result, record=result.record.model_copy(update={"run_id": name})))
    runs = store.root / "runs"
    content = (runs / "victim.parquet").read_bytes()
    (runs / "notes.parquet").write_text("not a table at all")
    for length in [*range(0, len(content), 4096), 1, 100, len(content) // 2, len(content) - 1]:
        (runs / "victim.parquet").write_bytes(content[:length])
        found, problems = store.records()
        assert [record.run_id for record in found] == ["other"], length
        assert len(problems) == 2
    ran = command("bench.report", cwd=folder)
    assert ran.code == 0, ran
    for name in ("victim.parquet", "notes.parquet"):
        assert name in ran.err
        assert (store.root / "set-aside" / name).exists()
        assert name in (store.root / "summary.md").read_text()
    assert [file.name for file in runs.iterdir()] == ["other.parquet"]


# --- two write at once -----------------------------------------------------------------------------------------------

WRITER = """
import dataclasses, pickle, sys
from pathlib import Path
from bench.errors import UserError
from bench.learning.data import datasets
from bench.learning.context import LocalContext
from bench.learning.execute import execute
from bench.learning.inputs import Inputs
from bench.learning.user_code import UserCode
from bench.reporting.store import Store
from bench.reporting.summary import write_summary
from bench.spec import Job, Recipe, Run
from bench.reporting.summary import write_summary
result = pickle.loads(sys.stdin.buffer.read())
store = Store(Path("results"))
store.prepare()
for number in range(20):
    for name in (f"{sys.argv[1]}-{number}", "both"):
        store.write(dataclasses.replace(result, record=result.record.model_copy(update={"run_id": name})))
    assert all(record.test_accuracy == result.record.test_accuracy for record in store.records()[0])
    write_summary(store)
"""


def test_two_processes_that_write_into_one_folder_lose_no_record(folder: Path) -> None:
    result = slow_result(folder)
    write_at_once(WRITER, ("one",), ("other",), given=result, cwd=folder)
    found, problems = Store(folder / "results").records()
    assert problems == []
    assert len(found) == 41
    assert not list((folder / "results").rglob("*.tmp"))


@pytest.mark.slow
def test_two_commands_into_one_folder_train_each_run_and_lose_none(folder: Path, start: Callable[..., Running]) -> None:
    running = start(arguments("slow", seeds=2))
    other = command("bench.run", *arguments("slow", "cnn", seeds=1), cwd=folder)
    assert other.code == 0, other
    assert running.process.wait(120) == 0, running.log.read_text()
    found = records(folder)
    assert sorted(zip(found.model, found.seed, strict=True)) == [("cnn", 0), ("slow", 0), ("slow", 1)]
    assert set(found.status) == {"ok"}
    for run_id in found.index:
        assert len(pd.read_parquet(folder / "results" / "predictions" / f"{run_id}.parquet")) == 200
        assert len(pd.read_parquet(folder / "results" / "epochs" / f"{run_id}.parquet")) == 2


# --- two download at once --------------------------------------------------------------------------------------------

FETCHER = """
import sys
from pathlib import Path
from bench.learning import cache
cache.download(sys.argv[1], Path("cache") / "weights.bin", sha256_prefix=sys.argv[2])
"""


def cold_cache(folder: Path, rounds: int) -> None:
    content = random.Random(0).randbytes(3_000_000)  # noqa: S311 - contents, not secrets
    (folder / "served").mkdir()
    (folder / "served" / "weights.bin").write_bytes(content)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/weights.bin"
        words = [sys.executable, "-c", FETCHER, url, hashlib.sha256(content).hexdigest()]
        for _ in range(rounds):
            shutil.rmtree(folder / "cache", ignore_errors=True)
            processes = [subprocess.Popen(words, cwd=folder, env=environment()) for _ in range(8)]
            assert [process.wait(120) for process in processes] == [0] * 8
            assert (folder / "cache" / "weights.bin").read_bytes() == content
            assert [file.name for file in (folder / "cache").iterdir() if not file.name.endswith(".lock")] == [
                "weights.bin"
            ]
        server.shutdown()


def test_eight_processes_fill_a_cold_cache_with_one_whole_file(folder: Path) -> None:
    cold_cache(folder, rounds=1)


@pytest.mark.slow
def test_eight_processes_fill_a_cold_cache_with_one_whole_file_twenty_times(folder: Path) -> None:
    cold_cache(folder, rounds=20)


# --- a node is lost --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_on_a_node_that_is_killed_is_trained_again_on_another(
    folder: Path, start: Callable[..., Running]
) -> None:
    port = 20_000 + os.getpid() % 20_000
    alone = {**environment(RAY_AUTH_MODE="disabled"), "http_proxy": "", "https_proxy": ""}
    address = subprocess.run(["hostname", "-i"], capture_output=True, text=True, check=True).stdout.split()[0]
    head = ("--head", "--num-cpus=1", f"--port={port}", "--include-dashboard=false")
    with (
        ray_node(*head, env=alone),
        ray_node("--num-cpus=1", f"--address={address}:{port}", env=alone) as second,
    ):
        running = start(
            [*arguments("slow", "cnn", epochs=12), "--cpus-per-worker", "1", "--address", f"{address}:{port}"], **alone
        )
        running.wait_for(lambda log: "slow seed 0: epoch 2/12" in log)
        (raylet,) = (one for one in second.children(recursive=True) if one.name() == "raylet")
        raylet.kill()
        assert running.process.wait(280) == 0, running.log.read_text()
        found = records(folder)
        assert set(found.status) == {"ok"}, found.reason
        assert found.attempts.max() <= 2
