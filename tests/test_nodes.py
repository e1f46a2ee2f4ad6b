"""A cluster of machines with nothing in common: own files, own network, own processes; joined by a token alone.

python -m pytest tests/test_nodes.py -m "slow or not slow"            # all of it
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import ray
import safetensors.torch
import torch
from machines import PORT, WORK, Machine, Site, bench_run, join, site, start_head, until, wait_for_ray, why_not
from running import ROOT, command, environment, gone

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


def repeated_epochs(log: Path) -> int:
    """How many epochs the progress lines of six runs tell of more than once."""
    told = re.findall(rf"seed (\d+): epoch (\d+)/{EPOCHS}", log.read_text())
    assert len(set(told)) == 6 * EPOCHS
    return len(told) - len(set(told))


def wait_until_both_train(running: psutil.Popen, log: Path) -> None:
    """Wait until a run on each of the two nodes has half of its epochs behind it."""
    until(lambda: log.read_text().count("epoch 2/4") >= 2, 150, log.read_text, running)


def start_bench(machine: Machine, *options: str) -> tuple[psutil.Popen, Path]:
    log = machine.work / "log"
    log.unlink(missing_ok=True)
    return machine.start(*bench_run(*options), log=log), log


def start_cluster(machines: Site, files: Path, *options: str) -> tuple[Machine, list[Machine]]:
    """A head that trains nothing and has the user's files, and two nodes that have one CPU and nothing else."""
    head = machines.add("head", has_bench=True)
    nodes = [machines.add(name) for name in ("first", "second")]
    give(files, head)
    wait_for_ray(head, start_head(head, "--num-cpus=0", *options))  # nodes that come before it give up soon
    joining = [join(node, head, "--num-cpus=1", **SLOW) for node in nodes]
    for node, process in zip(nodes, joining, strict=True):
        wait_for_ray(node, process)
    return head, nodes


def ends_well(
    machine: Machine, running: psutil.Popen, log: Path, expected: dict[str, str | None], *, seconds: float = 300
) -> pd.DataFrame:
    """Wait for a command's end; each run ended once, with the predictions of one machine."""
    assert running.wait(seconds) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    found = records(machine)
    assert set(found.status) == {"ok"}
    assert found.predictions_sha256.to_dict() == expected
    return found


def test_six_runs_on_nodes_that_share_nothing_one_killed_and_one_late(
    machines: Site, files: Path, expected: dict[str, str | None]
) -> None:
    head, (first, _) = start_cluster(machines, files, NO_DASHBOARD)
    late = machines.add("late")
    running, log = start_bench(head, *words("--address", f"{head.address}:{PORT}"))
    wait_until_both_train(running, log)
    first.kill()
    join(late, head, "--num-cpus=1", **SLOW)

    found = ends_well(head, running, log, expected)

    assert sorted(found.attempts) == [1, 1, 1, 1, 1, 2]
    assert set(found.node) == {"second", "late"}
    assert repeated_epochs(log) <= 1
    assert "a worker was lost; attempt 2" in log.read_text()
    assert not list((head.work / "results").rglob("*.tmp"))


MAKER = """
import time
from machines import Site

made = Site()
machines = [made.add("near"), made.add("far", delay_ms=25, loss=0.01)]
machines[0].start("sleep", "1000")
print("made", *(machine.pid for machine in machines), flush=True)
time.sleep(1000)
"""


def test_machines_end_with_the_process_that_made_them_also_if_it_is_killed() -> None:
    environ = environment(PYTHONPATH=f"{ROOT}:{ROOT}/tests")
    maker = psutil.Popen([sys.executable, "-c", MAKER], env=environ, stdout=subprocess.PIPE, text=True)
    said = maker.stdout.readline().split()
    family = maker.children(recursive=True)
    assert said[0] == "made"
    assert {int(pid) for pid in said[1:]} < {process.pid for process in family}
    maker.kill()

    assert gone(family, 20) == []
    maker.wait()


# --- in full: one cluster after the other for all that follows -----------------------------------------------------


@dataclass(frozen=True)
class Wide:
    """A cluster that stays, and a machine beside it that is no node."""

    site: Site
    head: Machine
    nodes: list[Machine]
    laptop: Machine

    @property
    def address(self) -> str:
        return f"{self.head.address}:{PORT}"


@pytest.fixture(scope="module")
def wide(files: Path) -> Iterator[Wide]:
    with site() as made:
        head, nodes = start_cluster(made, files, "--dashboard-host=0.0.0.0")
        laptop = made.add("laptop", has_bench=True)
        give(files, laptop)
        yield Wide(made, head, nodes, laptop)


@pytest.fixture
def fresh(wide: Wide) -> None:
    shutil.rmtree(wide.head.work / "results", ignore_errors=True)


@pytest.mark.slow
def test_what_keeps_a_cluster_from_being_joined_is_told_in_a_sentence_within_15_seconds(wide: Wide) -> None:
    def refused(machine: Machine, address: str, *told: str, **variables: str) -> None:
        start = time.monotonic()
        ran = machine.bench(*words("--address", address), **variables)
        assert time.monotonic() - start < 15
        assert ran.code == 2, ran
        assert re.fullmatch(r"error: .*\n", ran.err), ran
        assert all(part in ran.err for part in (f"--address {address}: ", *told)), ran

    refused(wide.head, wide.address, "asks for a token", RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
    refused(wide.head, wide.address, "refuses this token", RAY_AUTH_TOKEN="f" * 64)
    refused(wide.laptop, wide.address, "not a node", "ray job submit")
    refused(wide.laptop, f"10.77.0.99:{PORT}", "nothing answers there")
    refused(wide.laptop, "auto", "no Ray cluster to connect to")


@pytest.mark.slow
def test_a_cluster_of_another_version_of_ray_is_named_with_both_versions(machines: Site, files: Path) -> None:
    head = machines.add("head", has_bench=True)
    give(files, head)
    (head.work / "sitecustomize.py").write_text("import ray\nray.__version__ = '2.9.0'\n")  # what the head stores
    wait_for_ray(head, start_head(head, "--num-cpus=1", NO_DASHBOARD, PYTHONPATH=WORK))
    (head.work / "sitecustomize.py").unlink()
    ran = head.bench(*words("--address", f"{head.address}:{PORT}"))

    assert ran.code == 2, ran
    assert re.fullmatch(rf"error: .*Ray: 2\.9\.0,.*Ray: {re.escape(ray.__version__)},.*\n", ran.err), ran


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_runs_with_two_workers_on_two_nodes_are_those_of_one_machine(wide: Wide, files: Path, tmp_path: Path) -> None:
    for file in files.iterdir():
        shutil.copy(file, tmp_path)
    alone = command("bench.run", *words("--workers-per-job", 2, "--cpus-per-worker", 1), cwd=tmp_path)
    assert alone.code == 0, alone
    expected = pd.read_parquet(tmp_path / "results" / "runs").set_index("run_id").predictions_sha256.to_dict()

    running, log = start_bench(wide.head, *words("--address", wide.address, "--workers-per-job", 2))
    found = ends_well(wide.head, running, log, expected)

    assert set(found.workers) == {2}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_a_sweep_tries_its_trials_on_nodes_that_share_nothing(wide: Wide) -> None:
    told = ["--models", "mine.py:Net", "--dataset", "npz:data.npz", "--trials", "4", "--epochs", "2"]
    ran = wide.head.run(sys.executable, "-m", "bench.tune", *told, "--no-timing", "--address", wide.address)

    assert ran.code == 0, ran
    assert "Traceback" not in ran.out + ran.err
    found = records(wide.head)
    assert set(found[found.judged_on == "validation"].node) == {"first", "second"}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_models_are_timed_on_one_node_of_each_kind_and_never_compared_across(wide: Wide) -> None:
    other = "sed 's/^model name.*/model name : Another Processor/' /proc/cpuinfo > /tmp/cpuinfo"
    done = wide.nodes[1].run("sh", "-c", f"{other} && mount --bind /tmp/cpuinfo /proc/cpuinfo")
    assert done.code == 0, done
    told = [word for word in bench_run(*words("--address", wide.address, seeds=1)) if word != "--no-timing"]
    ran = wide.head.run(*told, timeout=300)

    assert ran.code == 0, ran
    timed = pd.read_parquet(wide.head.work / "results" / "timings")
    assert timed.groupby("cpu").node.agg(set).to_dict()["Another Processor"] == {"second"}
    assert set(timed.node) == {"first", "second"}
    summary = (wide.head.work / "results" / "summary.md").read_text()
    assert "### Speed by device" in summary
    assert "| Another Processor" in summary


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_a_cable_that_is_out_for_20_seconds_costs_an_epoch_at_most(wide: Wide, expected: dict[str, str | None]) -> None:
    running, log = start_bench(wide.head, *words("--address", wide.address))
    wait_until_both_train(running, log)
    wide.site.link(wide.nodes[0], "down")
    time.sleep(20)
    wide.site.link(wide.nodes[0], "up")

    found = ends_well(wide.head, running, log, expected)

    assert found.attempts.sum() <= 7
    assert repeated_epochs(log) <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_a_node_behind_a_slow_link_that_loses_packets_trains_as_the_others(
    wide: Wide, expected: dict[str, str | None]
) -> None:
    far = wide.site.add("far", delay_ms=25, loss=0.01)
    wait_for_ray(far, join(far, wide.head, "--num-cpus=1", **SLOW))
    running, log = start_bench(wide.head, *words("--address", wide.address))

    found = ends_well(wide.head, running, log, expected)

    assert "far" in set(found.node)
    assert set(found.attempts) == {1}
    far.kill()


@pytest.mark.slow
def test_ray_job_submit_with_the_working_directory_runs_the_main_job(wide: Wide) -> None:
    pytest.importorskip("opencensus", reason="ray[default] is not installed")
    main = ["--models", "cnn", "mobilenet", "--dataset", "mnist-5k", "--train-size", "500", "--epochs", "1"]
    told = [*bench_run(*main, "--address", "auto", "--results", f"{WORK}/of-a-job")]
    ran = wide.laptop.run(
        *(str(Path(sys.executable).with_name("ray")), "job", "submit"),
        *(f"--address=http://{wide.head.address}:8265", f"--working-dir={ROOT}", "--", *told),
        timeout=300,
    )

    assert ran.code == 0, ran
    assert "[2 of 2 runs done" in ran.out
    found = pd.read_parquet(wide.head.work / "of-a-job" / "runs")
    assert set(found.model) == {"cnn", "mobilenet"}
    assert set(found.status) == {"ok"}
    assert set(found.node) <= {"first", "second"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("fresh")
def test_runs_on_a_node_whose_plug_is_pulled_are_trained_on_the_other(
    wide: Wide, expected: dict[str, str | None]
) -> None:
    running, log = start_bench(wide.head, *words("--address", wide.address))
    wait_until_both_train(running, log)
    wide.site.link(wide.nodes[0], "down")  # nobody is told that it is gone
    wide.nodes[0].kill()

    # Ray's own calls to a machine that says nothing more fail after 5 + 2 minutes
    found = ends_well(wide.head, running, log, expected, seconds=600)

    assert sorted(found.attempts) == [1, 1, 1, 1, 1, 2]
    assert set(found.node) == {"second"}
    assert repeated_epochs(log) <= 1
