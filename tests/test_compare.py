"""bench.compare finds what is different, leaves alone what is not, and says what was wrong with a request."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare import main
from bench.errors import UserError
from bench.history import main as history
from bench.reporting import timing_stats, verdicts
from bench.reporting.comparison import Pair
from bench.reporting.entries import Entry
from bench.reporting.speed import summarise
from bench.reporting.store import Store
from bench.reporting.verdicts import Side
from bench.spec import DatasetInfo, Predictions, Recipe, Record, Result, Timing
from bench.workflows.compare import check, read_limits

IMAGES = 1000
DATA = DatasetInfo(name="data", sha256="a" * 64, train_images=100, test_images=IMAGES, classes=10)
LABELS = (np.arange(IMAGES) % 10).astype(np.int16)
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)

Make = Callable[..., Record]
Fill = Callable[..., Store]


def blocks(
    random: np.random.Generator,
    run_id: str,
    *,
    seconds: float = 0.01,
    noise: float = 0.02,
    machine: float = 0.1,
    count: int = 40,
    calls: Sequence[tuple[str, int, int]] = (("training", 64, 3), ("inference", 1, 20), ("inference", 250, 1)),
) -> list[Timing]:
    """Timings of a whole command: blocks in turns, samples alike within a block.

    Args:
        random: for the noise.
        run_id: that was timed.
        seconds: an image takes about.
        noise: relative standard deviation of the command, and three times that of a block, to the reference step.
        machine: by which all is faster or slower than at another time, which the reference step shows.
        count: of blocks.
        calls: what is timed: its kind, its batch size, and samples of it in a block.
    """
    shared: dict[str, Any] = {"run_id": run_id, "contended": False, "device": "cpu", "threads": 2, "precision": "fp32"}
    pace = random.normal(0, machine)
    found = []
    for kind, size, samples in calls:
        command = random.normal(0, noise)
        sample = 0
        for block in range(count):
            now = pace + random.normal(0, machine)
            level = now + command + random.normal(0, 3 * noise)
            for taken in seconds * size**0.8 * np.exp(level + random.normal(0, noise, samples)):
                row = {"kind": kind, "backend": "eager", "batch_size": size, "sample": sample, "seconds": taken}
                row |= {"reference_seconds": 0.008 * np.exp(now), "measured_at": MOMENT + timedelta(seconds=block)}
                found.append(Timing(**shared, **row))
                sample += 1
    return found


@pytest.fixture(scope="module")
def fill(make_record: Make) -> Fill:
    """A results folder of jobs: for each model how many images its seeds got wrong."""

    def make(folder: Path, models: dict[str, list[int]], **fields: Any) -> Store:
        store = Store(folder)
        store.prepare()
        random = np.random.default_rng(len(str(folder)))
        for model, seeds in models.items():
            for seed, missed in enumerate(seeds):
                predicted = np.where(np.arange(IMAGES) < missed, (LABELS + 1) % 10, LABELS).astype(np.int16)
                answers = Predictions(LABELS, predicted, np.full(IMAGES, 0.5, dtype=np.float32))
                accuracy = 1 - missed / IMAGES
                record = make_record(model, seed=seed, dataset=DATA, test_accuracy=accuracy, **fields)
                store.write(Result(record, predictions=answers))
            store.write_timings(record.run_id, blocks(random, record.run_id, noise=0.003))
        return store

    return make


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


# --- models -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(fill: Fill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with three seeds each; the tests only read them."""
    return fill(tmp_path_factory.mktemp("compare") / "results", {"cnn": [8, 9, 10], "mobilenet": [190, 200, 210]}).root


def test_two_models_of_a_folder_are_compared_in_every_metric(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cnn", "mobilenet", "--results", results) == 0

    shown = capsys.readouterr().out
    assert "cnn and mobilenet on data: 100 training and 1,000 test images" in shown
    assert "- cnn vs mobilenet (recipe): different, mobilenet is worse, -19.10 points [" in shown
    assert "- cnn seed 0 vs mobilenet seed 0 (checkpoint): different" in shown
    assert "- cnn vs mobilenet (training throughput): not distinguishable" in shown
    assert "- cnn vs mobilenet (parameters): the same." in shown


def test_json_has_every_metric_with_its_interval(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cnn", "mobilenet", "--results", results, "--format", "json") == 0

    found = json.loads(capsys.readouterr().out)
    (pair,) = found["pairs"]
    metrics = {row["metric"]: row for row in pair["metrics"]}
    assert list(metrics) == [
        "accuracy",
        "checkpoint-accuracy",
        "training-throughput",
        "inference-throughput",
        "latency-p50",
        "latency-p95",
        "parameters",
        "memory",
    ]
    accuracy = metrics["accuracy"]
    assert (accuracy["first_value"], accuracy["second_value"]) == pytest.approx((0.991, 0.8))
    assert accuracy["low"] < accuracy["difference"] < accuracy["high"] < 0
    assert (accuracy["finding"], metrics["parameters"]["p"]) == ("worse", None)


def test_markdown_is_tables_and_lists(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cnn", "mobilenet", "--results", results, "--format", "markdown", "--fail", "accuracy:-50pp") == 0

    shown = capsys.readouterr().out
    assert "### cnn and mobilenet on data" in shown
    assert "| accuracy (recipe) | 99.10 % | 80.00 % | -19.10 points |" in " ".join(shown.split())
    assert "- Kept: cnn and mobilenet, accuracy (recipe): -19.10 points" in shown


def test_jobs_of_one_model_are_named_by_their_label(
    fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lr in (0.001, 0.01):
        fill(tmp_path, {"cnn": [10]}, recipe=Recipe(lr=lr))
    fill(tmp_path, {"mobilenet": [10]})

    assert run("cnn", "mobilenet", "--results", tmp_path) == 2
    assert "name one of 'cnn (lr 0.001)', 'cnn (lr 0.01)'" in capsys.readouterr().err
    assert run("cnn (lr 0.001)", "cnn (lr 0.01)", "--results", tmp_path) == 0
    assert run("cnn (lr 0.001)", "mobilenet", "--results", tmp_path) == 0


def test_models_trained_under_differing_circumstances_are_noted(
    fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, {"cnn": [8]}, threads=1)
    fill(tmp_path, {"mobilenet": [190]}, threads=2)

    assert run("cnn", "mobilenet", "--results", tmp_path) == 0
    assert "\nnote: cnn was trained with 1 thread, mobilenet with 2 threads\n" in capsys.readouterr().out
    assert run("cnn", "mobilenet", "--results", tmp_path, "--format", "markdown") == 0
    assert "\n- note: cnn was trained with 1 thread" in capsys.readouterr().out
    assert run("cnn", "mobilenet", "--results", tmp_path, "--format", "json") == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["notes"] == ["note: cnn was trained with 1 thread, mobilenet with 2 threads"]


# --- versions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def versions(fill: Fill, tmp_path: Path) -> tuple[Path, Path]:
    for name in ("before", "after"):
        fill(tmp_path / name, {"cnn": [10, 11, 12], "mobilenet": [200, 210, 220]})
    return tmp_path / "before", tmp_path / "after"


def timed(folder: Path, model: str, **how: Any) -> None:
    """Time a model again."""
    store = Store(folder)
    (run_id,) = [run_id for run_id in store.timed() if run_id.startswith(model)]
    store.write_timings(run_id, blocks(np.random.default_rng(5), run_id, noise=0.003, **how))


LIMITS = "accuracy:-0.2pp,throughput:-5%"


def test_a_version_and_itself_keep_every_limit(versions: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*versions, "--fail", LIMITS) == 0

    shown = capsys.readouterr().out
    assert f"OLD is {versions[0]}\nNEW is {versions[1]}" in shown
    assert "FAILED" not in shown
    assert shown.count("kept: ") == 6
    assert "different" not in shown


def test_versions_trained_under_differing_circumstances_are_noted(
    fill: Fill, versions: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*versions) == 0
    assert "note:" not in capsys.readouterr().out
    fill(versions[1], {"cnn": [10, 11, 12]}, torch_version="2.16.0", device="NVIDIA H100")

    assert run(*versions) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert notes == [
        "note: OLD was trained on the CPU, NEW on NVIDIA H100",
        "note: OLD was trained with torch 2.15.0, NEW with torch 2.16.0",
    ]


def test_a_tenth_slower_breaks_the_limit_and_is_named(
    versions: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    timed(versions[1], "mobilenet", seconds=0.01 / 0.9)

    assert run(*versions, "--fail", LIMITS) == 1

    broken = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert len(broken) == 2
    assert broken[0].startswith("FAILED: mobilenet, training throughput: -")
    assert broken[1].startswith("FAILED: mobilenet, inference throughput: -")
    assert all("limit throughput:-5% (p" in line for line in broken)
    assert run(*versions, "--fail", "throughput:-20%,accuracy:-0.2pp") == 0
    assert run(*reversed(versions), "--fail", LIMITS) == 0  # faster is no failure


def test_a_worse_accuracy_breaks_the_limit(
    versions: tuple[Path, Path], fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(versions[1], {"cnn": [20, 21, 22]})

    assert run(*versions, "--fail", LIMITS) == 1
    assert "FAILED: cnn, accuracy (recipe): -1.00 points, from 98.90 % to 97.90 %" in capsys.readouterr().out
    assert run(*versions, "--fail", "accuracy:-2pp") == 0


def test_with_few_seeds_the_checkpoints_are_judged(
    fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [fill(tmp_path / name, {"cnn": [missed]}).root for name, missed in (("a", 10), ("b", 30))]

    assert run(*folders, "--fail", "accuracy:-0.2pp") == 1
    assert "FAILED: cnn, accuracy (checkpoint): -2.00 points" in capsys.readouterr().out


def test_a_limit_that_cannot_be_checked_is_no_success(
    versions: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in versions:
        for file in (folder / "timings").iterdir():
            file.unlink()

    assert run(*versions, "--fail", LIMITS) == 2

    told = capsys.readouterr()
    assert told.err == ("error: --fail: throughput:-5% cannot be checked, OLD and NEW were not timed\n")
    assert "kept: cnn, accuracy" in told.out
    assert "not checked: cnn, training throughput" in told.out


def test_models_of_one_version_only_are_named(fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = fill(tmp_path / "a", {"cnn": [10], "mobilenet": [10]}).root
    new = fill(tmp_path / "b", {"cnn": [10], "mlp": [10]}).root

    assert run(old, new) == 0

    shown = capsys.readouterr().out
    assert "mobilenet on data: 100 training and 1,000 test images: only in OLD" in shown
    assert "mlp on data: 100 training and 1,000 test images: only in NEW" in shown
    assert run(old, new, "--fail", "accuracy:-0.2pp") == 2
    assert "nothing can be checked for mobilenet on data" in capsys.readouterr().err


def test_a_torn_file_is_reported_and_kept(versions: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (versions[0] / "runs" / "torn.parquet").write_bytes(b"PAR1")

    assert run(*versions) == 0
    assert "torn.parquet is no record of a run" in capsys.readouterr().out
    assert (versions[0] / "runs" / "torn.parquet").exists()  # comparing changes nothing


def test_a_model_whose_recipe_changed_is_still_the_model(
    fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = fill(tmp_path / "a", {"cnn": [10]}).root
    fill(tmp_path / "a", {"mobilenet": [10]}, plugin_sha256="1" * 64)
    new = fill(tmp_path / "b", {"cnn": [10]}, recipe=Recipe(epochs=9)).root
    fill(tmp_path / "b", {"mobilenet": [10]}, plugin_sha256="2" * 64)
    fill(tmp_path / "b", {"mobilenet": [10]}, plugin_sha256="2" * 64, recipe=Recipe(lr=0.5))

    assert run(old, new, "--format", "json") == 0

    found = json.loads(capsys.readouterr().out)
    assert [pair["title"].split(" on ")[0] for pair in found["pairs"]] == [
        "cnn",
        "mobilenet in OLD, mobilenet (lr 0.001) in NEW",
    ]
    assert found["notes"][2:] == ["mobilenet (lr 0.5) on data: 100 training and 1,000 test images: only in NEW"]


@pytest.fixture
def repository(fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two revisions; the second has another result, and results of its own in a second folder."""
    folder = tmp_path / "repository"
    (folder / "deep").mkdir(parents=True)

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    git("init", "-q")
    reference = folder / "results" / "reference"
    for number in (1, 2):
        fill(reference / "one", {"cnn": [10 * number]})
        if number == 2:
            fill(reference / "two", {"cnn": [10]})
        git("add", "-A")
        git("commit", "-qm", str(number))
    monkeypatch.chdir(folder / "deep")
    return folder


def test_two_revisions_of_a_repository_are_compared(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("HEAD~1", "HEAD:one", "--fail", "accuracy:-0.2pp") == 1
    assert "-1.00 points, from 99.00 % to 98.00 %" in capsys.readouterr().out
    assert run("HEAD~1", "HEAD:results/reference/two", "--fail", "accuracy:-0.2pp") == 0
    assert run("HEAD~1", repository / "results" / "reference" / "one", "--fail", "accuracy:-0.2pp") == 1


def test_the_revisions_of_a_folder_are_a_history(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert history(["../results/reference/one", "--revisions", "5"]) == 0

    lines = capsys.readouterr().out.splitlines()
    revisions = subprocess.run(["git", "log", "--format=%h"], capture_output=True, check=True, text=True).stdout.split()
    rows = [line.split() for line in lines if line.startswith(tuple(revisions))]
    assert [row[:2] for row in rows] == [[revisions[1], "99.00"], [revisions[0], "98.00"]]
    assert history(["../results/reference/three", "--revisions", "5"]) == 2
    assert "git knows no changes of ../results/reference/three here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "HEAD",
            "HEAD~1",
            "HEAD holds several results: name one, HEAD:results/reference/one or HEAD:results/reference/two",
        ),
        (
            "HEAD:three",
            "HEAD~1",
            "HEAD:three: three holds no runs in that revision; results there: results/reference/one",
        ),
        ("HEAD~7", "HEAD~1", "HEAD~7 is neither a model (results holds no finished runs), nor a results folder, nor a"),
        ("--", "HEAD", "the following arguments are required: NEW"),
        ("../results/reference", "HEAD~1", "name one, ../results/reference/one or ../results/reference/two"),
        ("..", "HEAD~1", ".. holds no runs"),
    ],
)
def test_a_revision_that_is_not_clear_is_refused_with_what_to_name(
    old: str, new: str, words: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(old, new) == 2
    assert words in capsys.readouterr().err


# --- wrong usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cnm", "mobilenet"], "did you mean 'cnn'?"),
        (["cnn", "cnnn"], "cnnn is neither a model in"),
        (["mobilenett", "mobilenet"], "mobilenett is neither a model in"),
        (["cnn", "cnn"], "cnn and cnn are the same"),
        (["cnn"], "the following arguments are required: NEW"),
        (["cnn", "mobilenet", "third"], "'third' belongs to no option"),
        (["cnn", "mobilenet", "--format", "xml"], "'xml' is not allowed"),
        (["cnn", "mobilenet", "--fail", ""], "unknown metric in --fail: ''"),
        (["cnn", "mobilenet", "--fail", "acuracy:-1pp"], "did you mean 'accuracy'?"),
        (["cnn", "mobilenet", "--fail", "accuracy:-1%"], "as in 'accuracy:-0.2pp'"),
        (["cnn", "mobilenet", "--fail", "accuracy"], "as in 'accuracy:-0.2pp'"),
        (["cnn", "mobilenet", "--fail", "accuracy:0.2pp"], "it falls; write 'accuracy:-0.2pp'"),
        (["cnn", "mobilenet", "--fail", "latency:-5%"], "it rises; write 'latency:+5%'"),
        (["cnn", "mobilenet", "--fail", "throughput:-nan%"], "as in 'throughput:-5%'"),
    ],
)
def test_wrong_usage_is_one_message(
    arguments: Sequence[str], words: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--results", results) == 2

    told = capsys.readouterr()
    assert words in told.err
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_models_that_never_saw_the_same_data_are_refused(
    fill: Fill, tmp_path: Path, make_record: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fill(tmp_path, {"cnn": [10]})
    store.write(Result(make_record("mobilenet")))

    assert run("cnn", "mobilenet", "--results", tmp_path) == 2
    assert "not trained on the same data set" in capsys.readouterr().err


def test_folders_without_anything_in_common_are_refused(
    fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = fill(tmp_path / "a", {"cnn": [10]}).root, fill(tmp_path / "b", {"mlp": [10]}).root

    assert run(old, new) == 2
    assert "nothing to compare" in capsys.readouterr().err


@given(st.text(max_size=20))
def test_any_limits_are_read_or_refused(text: str) -> None:
    try:
        limits = read_limits(text)
    except UserError:
        return
    assert limits


def test_neither_torch_nor_ray_is_imported(modules_after: Callable[[str], set[str]]) -> None:
    modules = modules_after("import bench.compare, bench.workflows.compare")
    assert not {"torch", "ray", "scipy.stats", "statsmodels", "matplotlib"} & modules
    assert not {"pandas", "pyarrow"} & modules_after("import bench.compare")


# --- noise --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many more sessions it would take is not asked here, and takes as long as all else."""
    monkeypatch.setattr(timing_stats, "sample_size", lambda *_, **__: 3.0)
    monkeypatch.setattr(timing_stats, "_RESAMPLES", 99)


JUDGED = (("training", 64, 3), ("inference", 250, 1))
"""The calls behind the two throughputs; the latency of one image would take five times as many samples."""


def pairs_of(random: np.random.Generator, make_record: Make, slower: dict[str, float]) -> list[Pair]:
    """Two models, each timed once in OLD and once in NEW, where some are slower by a factor."""
    pairs = []
    for model in ("cnn", "mobilenet"):
        record = make_record(model)
        sides = []
        for name, factor in (("OLD", 1.0), ("NEW", slower.get(model, 1.0))):
            speeds = summarise([blocks(random, record.run_id, seconds=0.01 * factor, calls=JUDGED)])
            sides.append(Side(name, Entry(model, [record], speeds), Store(Path("nowhere"))))
        pairs.append(
            Pair(model, model, [verdicts.speed(metric, *sides) for metric in (verdicts.TRAINING, verdicts.INFERENCE)])
        )
    return pairs


def test_a_version_and_itself_seldom_give_an_alarm(make_record: Make, no_power: None) -> None:
    random = np.random.default_rng(0)
    limits = read_limits("throughput:-5%")

    alarms = sum(bool(check(pairs_of(random, make_record, {}), limits).broken) for _ in range(50))

    assert alarms <= 3


def test_a_model_that_became_a_tenth_slower_is_found(make_record: Make, no_power: None) -> None:
    random = np.random.default_rng(0)
    limits = read_limits("throughput:-5%")

    found = [check(pairs_of(random, make_record, {"cnn": 1 / 0.9}), limits).broken for _ in range(25)]

    assert sum(any(line.startswith("cnn") for line in broken) for broken in found) >= 23
    assert sum(any(line.startswith("mobilenet") for line in broken) for broken in found) <= 1
