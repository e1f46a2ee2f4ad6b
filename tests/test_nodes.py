"""A cluster of machines with nothing in common: own files, own network, own processes; joined by a token alone.

python -m pytest tests/test_nodes.py -m "slow or not slow"            # all of it
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import safetensors.torch
import torch
from machines import PORT, Machine, Site, bench_run, join, site, start_head, until, wait_for_ray, why_not

from bench.config.run import Options
from bench.learning.context import LocalContext
from bench.learning.execute import execute
from bench.workflows.plan import Plan, make_plan

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(600),
]

PLUGIN = """
import os, time
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, classes))

    def forward(self, images):
        if self.training and len(images) > 2:  # not in the trial before the training
            time.sleep(float(os.environ.get("SECONDS_A_BATCH", 0)))
        return super().forward(images)
"""
SLOW = {"SECONDS_A_BATCH": "0.12"}
"""Environment of a node on which a run takes seconds."""
EPOCHS, BATCHES = 4, 10
NO_DASHBOARD = "--include-dashboard=false"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of the user's, data, and weights to begin with."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "mine.py").write_text(PLUGIN)
    chance = np.random.default_rng(0)
    labels = np.arange(740) % 10
    images = chance.integers(0, 100, (740, 8, 8), np.uint8)
    images[np.arange(740), labels % 8, :] += 100
    np.savez(folder / "data.npz", x_train=images[:640], y_train=labels[:640], x_test=images[640:], y_test=labels[640:])
    torch.manual_seed(1)
    layers = {"1.weight": (32, 64), "1.bias": (32,), "4.weight": (10, 32), "4.bias": (10,)}
    safetensors.torch.save_file(
        {name: 0.1 * torch.randn(shape) for name, shape in layers.items()}, folder / "net.safetensors"
    )
    return folder


def words(*more: object, seeds: int = 6) -> list[str]:
    told = [
        "--models",
        "mine.py:Net",
        "--dataset",
        "npz:data.npz",
        "--weights",
        "net.safetensors",
        "--trainable",
        "all",
    ]
    return [*told, "--epochs", str(EPOCHS), "--seeds", str(seeds), *map(str, more)]


def plan_of(files: Path, seeds: int = 6) -> Plan:
    """What a command with :func:`words` trains."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        return make_plan(
            Options(
                models=("mine.py:Net",),
                dataset="npz:data.npz",
                weights=("net.safetensors",),
                trainable="all",
                epochs=EPOCHS,
                seeds=(seeds,),
            )
        )


@pytest.fixture(scope="module")
def expected(files: Path) -> dict[str, str | None]:
    """The digest of the predictions of each run, trained in this process, by run id."""
    plan = plan_of(files)
    (job,) = plan.jobs
    outcomes = [execute(run, plan.inputs[run.inputs_key], LocalContext()) for run in job.runs()]
    return {outcome.run_id: outcome.measured.predictions_sha256 for outcome in outcomes}


@pytest.fixture
def machines() -> Iterator[Site]:
    with site() as made:
        yield made


def give(files: Path, machine: Machine) -> None:
    """Copy the user's files to a machine."""
    for file in files.iterdir():
        shutil.copy(file, machine.work)


def records(machine: Machine) -> pd.DataFrame:
    """The runs in the results folder of a machine."""
    return pd.read_parquet(machine.work / "results" / "runs").set_index("run_id").sort_index()


def epochs_in(log: str) -> dict[str, list[int]]:
    """The epochs that the progress lines tell of, by seed."""
    told: dict[str, list[int]] = {}
    for seed, epoch in re.findall(rf"seed (\d+): epoch (\d+)/{EPOCHS}", log):
        told.setdefault(seed, []).append(int(epoch))
    return told


def start_bench(machine: Machine, *options: str) -> tuple[psutil.Popen, Path]:
    log = machine.work / "log"
    log.unlink(missing_ok=True)
    return machine.start(*bench_run(*options), log=log), log


@pytest.fixture
def cluster(machines: Site, files: Path) -> Iterator[tuple[Machine, list[Machine]]]:
    """A head that trains nothing and has the user's files, and two nodes that have one CPU and nothing else."""
    head = machines.add("head", has_bench=True)
    nodes = [machines.add(name) for name in ("first", "second")]
    give(files, head)
    starting = [start_head(head, "--num-cpus=0", NO_DASHBOARD)]
    starting += [join(node, head, "--num-cpus=1", **SLOW) for node in nodes]
    for machine, process in zip((head, *nodes), starting, strict=True):
        wait_for_ray(machine, process)
    yield head, nodes


def ends_well(machine: Machine, running: psutil.Popen, log: Path, expected: dict[str, str | None]) -> pd.DataFrame:
    """Wait for a command's end; each run ended once, with the predictions of one machine."""
    assert running.wait(300) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    found = records(machine)
    assert set(found.status) == {"ok"}
    assert found.predictions_sha256.to_dict() == expected
    return found


def test_six_runs_on_nodes_that_share_nothing_one_killed_and_one_late(
    machines: Site, cluster: tuple[Machine, list[Machine]], expected: dict[str, str | None]
) -> None:
    head, (first, _) = cluster
    late = machines.add("late")
    running, log = start_bench(head, *words("--address", f"{head.address}:{PORT}"))
    until(lambda: log.read_text().count("epoch 2/4") == 2, 90, log.read_text, running)  # both train
    first.kill()
    join(late, head, "--num-cpus=1", **SLOW)

    found = ends_well(head, running, log, expected)

    assert sorted(found.attempts) == [1, 1, 1, 1, 1, 2]
    assert set(found.node) == {"second", "late"}
    told = [epoch for epochs in epochs_in(log.read_text()).values() for epoch in epochs]
    assert len(told) <= 6 * EPOCHS + 1, "more than one epoch was repeated"
    assert "a worker was lost; attempt 2" in log.read_text()
    assert not list((head.work / "results").rglob("*.tmp"))
