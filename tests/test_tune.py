"""python -m bench.tune as a user runs it: what it refuses, and a sweep that is killed and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from factories import START, job_of, recorded
from running import command, environment

from bench import run, tune
from bench.config.run import Options
from bench.config.space import Range, Space
from bench.errors import UserError
from bench.reporting.store import Store
from bench.reporting.sweeps import Sweep, read_sweeps, write_sweep
from bench.spec import DatasetInfo, Job, Recipe, Record, Result, Status
from bench.workflows.tuned import note_sources, with_tuned_values

PLUGIN = """
import time
from torch import nn

class One(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, classes))

    def forward(self, images):
        if self.training:
            time.sleep(0.05)
        return self.body(images)

class Two(One):
    pass
"""


def refused(capsys: pytest.CaptureFixture[str], words: str, main: Callable[[list[str]], int] = tune.main) -> str:
    """The one line that a refused command prints; it must not have made anything."""
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lr 0.1 0.01", "--lr 0.1 0.01: LOW is above HIGH"),
        ("--lr 0.1 0.1", "the range is empty; --lr-grid 0.1"),
        ("--lr 0 0.1", "--lr: '0' is not allowed"),
        ("--lr 0.1", "--lr: expected 2 arguments"),
        ("--lr nan 1", "--lr: 'nan' is not allowed"),
        ("--lr-grid 0.1 0.1", "named twice"),
        ("--lr-grid", "expected at least one argument"),
        ("--lr 0.01 0.1 --lr-grid 0.1", "give one of them"),
        ("--trials 0", "--trials: '0' is not allowed"),
        ("--time-budget 0", "--time-budget: '0' is not allowed"),
        ("--validation-size 0", "--validation-size: '0' is not allowed"),
        ("--epochs 2 --grace-period 3", "--grace-period 3 is longer than --epochs 2"),
        ("--reduction-factor 1", "--reduction-factor: '1' is not allowed"),
        ("--scheduler hyperband", "--scheduler: 'hyperband' is not allowed"),
        ("--until-ci 1", "unknown option '--until-ci'"),
        ("--lr-from-tune", "unknown option '--lr-from-tune'"),
        ("--early-stopping 3", "unknown option '--early-stopping'"),
        ("--models cnn --dataset synthetic --validation-size 1000", "leave none to train on"),
        ("--models cnn --dataset synthetic --train-size 950", "--train-size: 950 is more than the 900"),
        ("--space missing.yaml", "--space: cannot read missing.yaml"),
    ],
)
def test_wrong_usage_is_one_message(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, said: str) -> None:
    assert said in refused(capsys, words)
    assert not list(tmp_path.glob("results/runs/*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lrr: [0.1, 0.2]", "unknown field 'lrr'"),
        ("lr: {low: 0.1, high: 0.01}", "low 0.1 is above high 0.01"),
        ("lr: {low: 0.1, high: 0.1}", "is empty"),
        ("batch_size: [32, 100000]", "--batch-size: 100000 is more than the 900 training images"),
        ("image_size: [4, 64]\nlr: [0.1, 1]", "--image-size: cnn takes images of at least 10 pixels, not of 4"),
        ("epochs: [1, 2]\nlr: 0.1", "--grace-period 3 is longer than the 2 epochs of a trial"),
    ],
)
def test_a_wrong_space_is_one_message(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "space.yaml").write_text(text)
    assert said in refused(capsys, "--models cnn --dataset synthetic --epochs 5 --grace-period 3 --space space.yaml")


def test_learning_rates_from_a_flag_and_a_space_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("lr: [0.1, 0.01]\n")
    assert "give one of them" in refused(capsys, "--lr-grid 1 --space space.yaml")


def test_a_preset_with_variants_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_text("variants:\n  - models: cnn\n")
    assert "variants is for python -m bench.run" in refused(capsys, "--experiment preset.yaml")
    (tmp_path / "preset.yaml").write_text("early-stopping: 3\n")
    assert "early_stopping is for python -m bench.run" in refused(capsys, "--experiment preset.yaml")


def test_without_optuna_the_message_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install -e '.[tune]'" in refused(capsys, "--search optuna --models cnn --dataset synthetic")


def test_the_help_needs_neither_torch_nor_ray(modules_after: Callable[[str], set[str]]) -> None:
    loaded = modules_after("from bench import tune\ntry:\n    tune.main(['--help'])\nexcept SystemExit:\n    pass")
    assert not {"torch", "ray", "optuna"} & loaded


# --- bench.run --lr-from-tune ----------------------------------------------------------------------------------------


def test_without_a_sweep_the_message_names_the_command_that_makes_one(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "--lr-from-tune --models cnn --dataset synthetic --results mine", run.main)
    assert "mine holds no finished sweep of cnn on synthetic" in said
    assert said.endswith("python -m bench.tune --models cnn --dataset synthetic --results mine")


def stored_sweep(folder: Path, dataset: DatasetInfo, sweep_id: str, hour: int, best: float, **changes: object) -> None:
    sweep = Sweep.model_validate(
        {
            "sweep_id": sweep_id,
            "model": "cnn",
            "dataset": dataset,
            "weights": "none",
            "weights_sha256": None,
            "plugin_sha256": None,
            "recipe": Recipe(validation_size=100),
            "space": Space(ranges={"lr": Range(low=1e-4, high=1e-1, log=True)}),
            "seeds": (0,),
            "search": "random",
            "search_seed": 0,
            "scheduler": "asha",
            "grace_period": 1,
            "reduction_factor": 3.0,
            "trials": 2,
            "gpus_per_trial": 0.0,
            "started_at": START,
            "finished_at": START.replace(hour=hour),
            **changes,
        }
    )
    store = Store(folder)
    store.prepare()
    write_sweep(store, sweep)
    for lr, score in ((best, 0.9), (best / 10, 0.8)):
        recipe = Recipe(lr=lr, validation_size=100)
        (trial,) = job_of("cnn", dataset=dataset, recipe=recipe, judged_on="validation", sweep_id=sweep_id).runs()
        record = recorded(
            trial, status=Status.OK, started_at=START, ended_at=START, validation_accuracy=score, epochs_done=5
        )
        store.write(Result(record))


def test_the_latest_finished_sweep_on_the_same_data_is_what_counts(
    tmp_path: Path, make_job: Callable[..., Job], make_record: Callable[..., Record]
) -> None:
    job = make_job("cnn", recipe=Recipe(epochs=5), seeds=(0, 1))
    stored_sweep(tmp_path, job.dataset, "early", 1, 0.05)
    stored_sweep(tmp_path, job.dataset, "later", 2, 0.02)
    stored_sweep(tmp_path, job.dataset, "unfinished", 3, 0.03, finished_at=None)
    other = DatasetInfo(name="other", sha256="f" * 64, train_images=10, test_images=10, classes=10)
    stored_sweep(tmp_path, other, "elsewhere", 4, 0.04)
    # A run that there is already at this very learning rate is not trained again, but says where it came from.
    there = make_record("cnn", recipe=Recipe(epochs=5, lr=0.02))
    Store(tmp_path).write(Result(there))

    (tuned,), notes = with_tuned_values([job], Options(results=tmp_path))
    assert tuned.recipe == Recipe(epochs=5, lr=0.02)
    assert (tuned.lr_source or "").startswith("sweep later: 2 trials, 10 epochs")
    assert tuned.runs()[0].id == there.run_id
    assert notes == [f"cnn: lr 0.02, from {tuned.lr_source}"]
    note_sources(Store(tmp_path), [tuned])
    stored = {record.run_id: record for record in Store(tmp_path).records()[0]}
    assert stored[there.run_id].lr_source == tuned.lr_source
    assert stored[there.run_id].test_accuracy == there.test_accuracy

    with pytest.raises(UserError, match="--lr and --lr-from-tune: sweep later has chosen lr for cnn"):
        with_tuned_values([job], Options(results=tmp_path, lr=0.1))
    sgd = job.model_copy(update={"recipe": Recipe(epochs=5, optimizer="sgd")})
    _, (note,) = with_tuned_values([sgd], Options(results=tmp_path))
    assert note.endswith("; but that sweep had optimizer adam")


# --- a sweep of two models, killed half-way --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_that_was_killed_half_way_repeats_no_finished_trial(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    words = "--models mine.py:One mine.py:Two --dataset synthetic --epochs 3 --batch-size 90 --no-timing"
    words += " --lr-grid 0.0001 0.001 0.01 0.1 --scheduler fifo"
    log = tmp_path / "log"
    with log.open("w") as out:
        first = subprocess.Popen(
            [sys.executable, "-m", "bench.tune", *words.split()],
            cwd=tmp_path,
            env=environment(PYTHONUNBUFFERED="1"),
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 200
        while log.read_text().count(" of 4 trials") < 3:
            assert first.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()

    def trials() -> pd.DataFrame:
        table = pd.read_parquet(tmp_path / "results" / "runs")
        return table[table["judged_on"] == "validation"].set_index("run_id").sort_index()

    before = trials()
    done = before[before["status"] == "ok"]
    shards = {name: (tmp_path / "results" / "runs" / f"{name}.parquet").read_bytes() for name in done.index}
    assert 3 <= len(done) < 8
    assert set(before["status"]) <= {"ok", "interrupted"}
    # Both sweeps went on at the same time.
    assert set(done["model"]) == {"mine.py:One", "mine.py:Two"}

    second = command("bench.tune", *words.split(), cwd=tmp_path)
    assert second.code == 0, second
    assert "Traceback" not in second.out + second.err
    after = trials()
    assert len(after) == 8
    assert set(after["status"]) == {"ok"}
    assert sorted(after.groupby("model")["lr"].apply(list).map(sorted)) == [[0.0001, 0.001, 0.01, 0.1]] * 2
    for name, shard in shards.items():  # not trained again, not even written again
        assert (tmp_path / "results" / "runs" / f"{name}.parquet").read_bytes() == shard
    overlap = after.groupby("model")[["started_at", "ended_at"]].agg({"started_at": "min", "ended_at": "max"})
    assert overlap["started_at"].max() < overlap["ended_at"].min()

    runs = pd.read_parquet(tmp_path / "results" / "runs")
    final = runs[runs["judged_on"] == "test"].set_index("model")
    for sweep in read_sweeps(tmp_path / "results"):
        own = after[after["sweep_id"] == sweep.sweep_id]
        assert len(own) == 4
        best = own[own["validation_accuracy"] == own["validation_accuracy"].max()]
        assert final.loc[sweep.model, "lr"] == best["lr"].min()
        assert final.loc[sweep.model, "validation_size"] == 0
        assert final.loc[sweep.model, "lr_source"].startswith(f"sweep {sweep.sweep_id}: 4 trials, 12 epochs")
    assert "12 epochs" in (tmp_path / "results" / "tuning.md").read_text()
    assert "## Sweeps" in (tmp_path / "results" / "summary.md").read_text()

    third = command("bench.tune", *words.split(), cwd=tmp_path)
    assert third.code == 0, third
    assert "every trial that is asked for is already there" in third.out
    pd.testing.assert_frame_equal(trials(), after)
