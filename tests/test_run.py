"""bench.run as a user runs it: real processes, real Ray, small data."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset
import pytest
from running import Ran, command, environment, ray_node

from bench.learning.checkpoint import load_trained
from bench.learning.context import LocalContext
from bench.learning.data import datasets
from bench.learning.data.preprocessing import DeviceSplit
from bench.learning.evaluation import Evaluation, evaluate
from bench.learning.execute import execute
from bench.learning.inputs import Inputs
from bench.learning.models.registry import MODELS
from bench.learning.models.weights import Wish, find, read
from bench.spec import Job, ModelInput, Recipe

TEN_MODELS = """
from torch import nn

def make(width):
    def build(classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, classes))
    return build

for number in range(9):
    globals()[f"mlp{number}"] = make(8 + number)

class broken(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Linear(784, classes)
        self.steps = 0

    def forward(self, images):
        self.steps += 1
        if self.training and self.steps > 3:
            raise RuntimeError("this model breaks in its third step")
        return self.layer(images.flatten(1))
"""


def records(results: Path) -> pd.DataFrame:
    return pd.read_parquet(results / "runs").sort_values("run_id").reset_index(drop=True)


@pytest.fixture(scope="module")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    """The main job on the digits that a package ships."""
    cwd = tmp_path_factory.mktemp("main-job")
    ran = command(
        "bench.run",
        *("--models", "cnn", "mobilenet"),
        cwd=cwd,
        timing=True,
        BENCH_CACHE=str(cwd / "cache"),
    )
    assert ran.code == 0, ran
    return ran, cwd / "results"


def test_main_job_trains_both_models_on_real_digits(main_job: tuple[Ran, Path]) -> None:
    found = records(main_job[1]).set_index("model")
    assert list(found.index) == ["cnn", "mobilenet"]
    assert set(found.status) == {"ok"}
    assert set(found.dataset) == {"mnist-5k"}
    assert (found.train_images == 4000).all()
    assert (found.test_images == 1000).all()
    assert list(found.trainable_parameters) == [225_034, 165_258]
    assert list(found.total_parameters) == [225_034, 2_389_130]
    assert found.test_accuracy["cnn"] > 0.93  # 95.7 % after two of the five epochs over 4,000 digits
    assert found.weights["cnn"] == "none"
    assert found.weights["mobilenet"].startswith("ImageNet")


def test_ray_trains_what_this_process_trains(main_job: tuple[Ran, Path]) -> None:
    found = records(main_job[1]).set_index("model").loc["mobilenet"]
    data = datasets.load("mnist-5k")
    weights = find(Wish("bundled"), "mobilenet", MODELS["mobilenet"].sources)
    assert weights is not None
    form = ModelInput.model_validate(MODELS["mobilenet"].wants(True))
    job = Job(model="mobilenet", dataset=data.info, recipe=Recipe(), input=form, weights_sha256=weights.sha256)

    measured = execute(job.runs()[0], Inputs(data, weights), LocalContext(threads=int(found.threads))).measured

    assert job.runs()[0].id == found.run_id
    assert measured.model_sha256 == found.model_sha256
    assert measured.predictions_sha256 == found.predictions_sha256


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU trains one model at a time")
def test_each_model_was_timed_alone_after_the_training(main_job: tuple[Ran, Path]) -> None:
    ran, results = main_job

    timings = pd.read_parquet(results / "timings")
    runs = records(results)

    assert "timing cnn, mobilenet, one at a time" in ran.out
    assert re.search(r"timing: [5-9]\.\d s so far", ran.out)  # the process that times takes 5 s even to start
    assert set(timings["run_id"]) == set(runs["run_id"])
    assert set(zip(timings["kind"], timings["batch_size"], strict=True)) == {
        ("training", 64),  # of cnn
        ("extraction", 250),  # of mobilenet
        ("head", 64),
        ("inference", 1),
        ("inference", 250),
    }
    deployments = pd.read_parquet(results / "deployments").set_index("run_id")
    assert set(deployments["backend"]) == {"eager"}
    apart = deployments["correct"] - runs.set_index("run_id")["test_correct"]
    assert apart.abs().max() <= 1  # features were extracted with folded batch-norm layers, which rounds otherwise
    assert timings["measured_at"].min() > runs["ended_at"].max()
    assert timings["contended"].notna().all()


def test_the_two_models_train_at_the_same_time(main_job: tuple[Ran, Path]) -> None:
    found = records(main_job[1])
    assert found.started_at.max() < found.ended_at.min()
    assert found.contended.all()


def test_output_is_plain_and_free_of_ray(main_job: tuple[Ran, Path]) -> None:
    ran = main_job[0]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", ran.out + ran.err), "control characters"
    assert "using mnist-5k" in ran.out
    assert "--data-dir" in ran.out
    for model in ("cnn", "mobilenet"):
        for epoch in range(1, 6):
            figures = r"loss [\d.]+  train acc [\d.]+ %  [\d,]+ images/s  \d\d:\d\d left"
            assert re.search(rf"{model} seed 0: epoch {epoch}/5  {figures}", ran.out), ran
    assert "2 of 2 runs done" in ran.out
    for word in ("raylet", "TrainController", "Warning", "Traceback", "ray.io"):
        assert word not in ran.out + ran.err, ran


def test_the_comparison_is_on_the_screen_and_in_the_summary(main_job: tuple[Ran, Path]) -> None:
    ran, results = main_job
    summary = (results / "summary.md").read_text()
    for text in (ran.out, summary):
        assert "mnist-5k: 4,000 training and 1,000 test images" in text
        for row in ("Test accuracy", "Trainable parameters", "Total parameters", "Training throughput", "MACs per"):
            assert row in text
    accuracy = records(results).set_index("model").test_accuracy
    assert f"{100 * accuracy['cnn']:.2f} %" in summary
    for label in ("PyTorch", "Ray", "Git commit", "CPU cores"):
        assert label in summary


def test_other_tools_read_the_runs_as_one_table(main_job: tuple[Ran, Path]) -> None:
    folder = main_job[1] / "runs"
    by_pandas = pd.read_parquet(folder)
    by_pyarrow = pyarrow.dataset.dataset(folder).to_table()
    by_duckdb = duckdb.read_parquet(f"{folder}/*.parquet").df()
    assert list(by_pandas.columns) == by_pyarrow.column_names == list(by_duckdb.columns)
    assert len(by_pandas) == by_pyarrow.num_rows == len(by_duckdb) == 2
    schemas = {pyarrow.parquet.read_schema(file).to_string(show_field_metadata=False) for file in folder.iterdir()}
    assert len(schemas) == 1


def test_report_makes_the_summary_again_byte_for_byte_without_torch_or_ray(main_job: tuple[Ran, Path]) -> None:
    results = main_job[1]
    before = (results / "summary.md").read_bytes()
    (results / "summary.md").unlink()
    code = (
        "import sys; from bench.report import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'ray', 'torchvision'} & set(sys.modules), 'heavy imports'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--results", str(results)], env=environment(), check=False)
    assert done.returncode == 0
    assert (results / "summary.md").read_bytes() == before


def evaluate_checkpoint(results: Path, record: Any, dataset: str, data_dir: Path | None = None) -> Evaluation:
    trained = load_trained(read(results / record.checkpoint, "the checkpoint"))
    test = DeviceSplit.of(datasets.load(dataset, data_dir).test, "cpu")
    return evaluate(trained.module, trained.spec, test)


def test_a_checkpoint_evaluated_alone_gives_its_recorded_accuracy(main_job: tuple[Ran, Path]) -> None:
    results = main_job[1]
    for record in records(results).itertuples():
        again = evaluate_checkpoint(results, record, "mnist-5k")
        stored = pd.read_parquet(results / "predictions" / f"{record.run_id}.parquet")
        assert again.accuracy == record.test_accuracy
        assert np.array_equal(again.predictions.predicted, stored.predicted)
        assert hashlib.sha256(stored.predicted.to_numpy(np.int16).tobytes()).hexdigest() == record.predictions_sha256


def test_the_same_command_again_trains_nothing(main_job: tuple[Ran, Path]) -> None:
    results = main_job[1]
    before = {file: file.stat().st_mtime_ns for file in results.rglob("*.parquet")}
    ran = command("bench.run", "--models", "mobilenet", "cnn", cwd=results.parent)
    assert ran.code == 0, ran
    assert "already there" in ran.out
    assert {file: file.stat().st_mtime_ns for file in results.rglob("*.parquet")} == before


def test_a_dry_run_says_what_is_there_already_and_tells_variants_apart(main_job: tuple[Ran, Path]) -> None:
    work = main_job[1].parent
    (work / "rates.yaml").write_text("models: [cnn]\nvariants: [{lr: 0.001}, {lr: 0.5}]\n")
    ran = command("bench.run", "--experiment", "rates.yaml", "--dry-run", cwd=work)
    assert ran.code == 0, ran
    assert "1 run (1 of 2 are there already)" in ran.out
    assert "cnn (lr 0.5)" in ran.out
    assert "cnn (lr 0.001)" not in ran.out


@pytest.mark.slow
def test_the_same_seed_gives_the_same_predictions(main_job: tuple[Ran, Path], tmp_path: Path) -> None:
    ran = command("bench.run", *("--models", "cnn", "mobilenet", "--dataset", "mnist-5k"), cwd=tmp_path)
    assert ran.code == 0, ran
    again, before = records(tmp_path / "results"), records(main_job[1])
    assert list(again.run_id) == list(before.run_id)
    assert list(again.predictions_sha256) == list(before.predictions_sha256)
    assert list(again.model_sha256) == list(before.model_sha256)


TWO_OUTPUTS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU())
        self.head, self.aux = nn.Linear(64, classes), nn.Linear(64, classes)

    def forward(self, images):
        features = self.body(images)
        return (self.head(features), self.aux(features)) if self.training else self.head(features)
"""


def test_two_workers_average_their_gradients(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TWO_OUTPUTS)  # nothing trains its second output
    ran = command(
        "bench.run",
        *("--models", "cnn", "mine.py:Net", "--workers-per-job", 2, "--dataset", "synthetic"),
        *("--epochs", 3, "--no-timing"),
        cwd=tmp_path,
    )
    assert ran.code == 0, ran  # the run itself fails if the workers' weights differ in a bit
    found = records(tmp_path / "results")
    assert set(found.workers) == {2}
    assert set(found.attempts) == {1}
    for record in found.itertuples():
        stored = pd.read_parquet(tmp_path / "results" / "predictions" / f"{record.run_id}.parquet")
        assert list(stored.image) == list(range(200))
        assert record.test_correct == (stored.label == stored.predicted).sum()
        assert record.test_accuracy > 0.90


@pytest.mark.slow
def test_a_hundred_runs_two_at_a_time_end_well_but_for_those_of_a_broken_model(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TEN_MODELS)
    models = [f"mine.py:mlp{number}" for number in range(9)]
    broken = "mine.py:broken"
    share = max(1, (os.cpu_count() or 1) // 2)
    ran = command(
        "bench.run",
        *("--models", *models, broken, "--dataset", "synthetic", "--epochs", 1),
        *("--seeds", 10, "--cpus-per-worker", share),
        cwd=tmp_path,
        timeout=280,
    )
    assert ran.code == 1, ran
    found = records(tmp_path / "results")
    assert sorted(found.model) == sorted(10 * [*models, broken])
    assert found.attempts.max() == 1
    failed = found[found.model == broken]
    assert (found.drop(failed.index).status == "ok").all()
    assert (failed.status == "failed").all()
    assert failed.reason.str.contains("breaks in its third step").all()
    assert failed.test_accuracy.isna().all()
    for start in found.started_at:
        assert ((found.started_at <= start) & (found.ended_at > start)).sum() <= 2
    summary = (tmp_path / "results" / "summary.md").read_text()
    assert "Runs that did not finish" in summary
    assert "breaks in its third step" in summary


SLOW_AND_QUICK = """
import time
from torch import nn


def quick(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))


class Slow(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(784, classes))
        self.first = True

    def forward(self, images):
        if self.training and len(images) > 2 and self.first:
            self.first = False
            time.sleep(5)
        return super().forward(images)
"""


@pytest.mark.slow
def test_a_place_that_became_free_takes_waiting_seeds_of_the_other_job(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLOW_AND_QUICK)
    share = max(1, (os.cpu_count() or 1) // 2)
    ran = command(
        "bench.run",
        *("--models", "mine.py:Slow", "mine.py:quick", "--dataset", "synthetic", "--epochs", 1, "--seeds", 4),
        *("--cpus-per-worker", share, "--no-timing"),
        cwd=tmp_path,
    )
    assert ran.code == 0, ran
    found = records(tmp_path / "results")
    assert (found.attempts == 1).all()
    assert len(found) == 8
    slow = found[found.model == "mine.py:Slow"]
    at_once = [((slow.started_at <= start) & (slow.ended_at > start)).sum() for start in slow.started_at]
    assert max(at_once) == 2


def test_dry_run_prints_the_placement_and_trains_nothing(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "models: [cnn]\ndataset: synthetic\nseeds: 3\nepochs: 7\nlr: 1e-2\ntrain_size: 500\nquestion: Is it quick?\n"
    )
    ran = command("bench.run", "--experiment", preset, "--epochs", 4, "--dry-run", cwd=tmp_path)
    assert ran.code == 0, ran
    assert "Is it quick?" in ran.out
    assert "epochs 4" in ran.out  # the command line overrides the preset
    assert "lr 0.01" in ran.out
    assert "training cnn on synthetic (500 of 1,000 training and 200 test images): 3 runs" in ran.out
    assert "CPUs each" in ran.out
    assert not (tmp_path / "results").exists()


def test_what_can_never_fit_ends_soon_and_says_what_is_there(tmp_path: Path) -> None:
    start = time.monotonic()
    ran = command("bench.run", *("--models", "cnn", "--dataset", "synthetic", "--workers-per-job", 999), cwd=tmp_path)
    assert ran.code == 3, ran
    assert "999 workers" in ran.err
    assert f"{os.cpu_count()} CPUs" in ran.err
    assert "Traceback" not in ran.err
    assert time.monotonic() - start < 30  # 10 s on an idle machine; tests share theirs


def test_a_running_cluster_is_used_and_results_come_to_the_driver(tmp_path: Path) -> None:
    port = 20_000 + os.getpid() % 20_000
    head = ("--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false")
    with ray_node(*head, env=environment()):
        ran = command(
            "bench.run",
            *("--models", "cnn", "--dataset", "synthetic", "--epochs", 1, "--address", f"127.0.0.1:{port}"),
            cwd=tmp_path,
            http_proxy="",  # gRPC would ask it for the cluster
            https_proxy="",
        )
        assert ran.code == 0, ran
        assert list(records(tmp_path / "results").status) == ["ok"]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()  # the cluster goes on after the command


@pytest.mark.slow
@pytest.mark.mnist
def test_two_workers_count_each_of_the_10000_test_images_once(tmp_path: Path, mnist_dir: Path) -> None:
    ran = command(
        "bench.run",
        *("--models", "cnn", "--workers-per-job", 2, "--dataset", "mnist", "--data-dir", mnist_dir, "--epochs", 1),
        cwd=tmp_path,
    )
    assert ran.code == 0, ran
    record = records(tmp_path / "results").iloc[0]
    stored = pd.read_parquet(tmp_path / "results" / "predictions")
    assert record.test_images == 10_000
    assert list(stored.image) == list(range(10_000))
    assert record.test_accuracy == (stored.label == stored.predicted).mean()
    assert record.test_accuracy > 0.97
    assert evaluate_checkpoint(tmp_path / "results", record, "mnist", mnist_dir).accuracy == record.test_accuracy
