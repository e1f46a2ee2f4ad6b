"""bench.export: what was stored is read back through the other tools' own APIs; twice is the same as once."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import Results, mnist_folder, trained
from factories import MOBILENET, built_in, stored_in
from PIL import Image
from running import command

from bench.demo.answers import Shelf
from bench.evaluate import main as evaluate
from bench.export import main
from bench.learning.checkpoint import load_trained
from bench.learning.context import LocalContext
from bench.learning.data import datasets
from bench.learning.evaluation import probabilities
from bench.learning.execute import Inputs, execute
from bench.learning.models import weights
from bench.learning.onnx import TIE, export_onnx, run_onnx
from bench.reporting.store import Store
from bench.spec import Job, Recipe, Record, Result, Status
from bench.workflows.record import assemble

Make = Callable[..., Record]

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def results() -> Results:
    return trained()


@pytest.fixture
def stored(tmp_path: Path, make_record: Make, make_result: Callable[[Record], Result]) -> Store:
    """A results folder with two seeds of one model, another data set, and a run that failed."""
    store = Store(tmp_path / "results")
    store.prepare()
    for seed in (0, 1):
        store.write(make_result(make_record(seed=seed, minutes=seed)))
    other = make_record().model_copy(update={"dataset": "other", "run_id": "cnn-other-seed0-abc"})
    store.write(make_result(other))
    store.write(Result(make_record(seed=7, status=Status.FAILED)))
    return store


def export(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


# --- MLflow ------------------------------------------------------------------------------------------------------


def test_mlflow_shows_each_run_once_however_often_it_is_exported(
    stored: Store, capsys: pytest.CaptureFixture[str], make_record: Make, make_result: Callable[[Record], Result]
) -> None:
    from mlflow.tracking import MlflowClient

    def shown() -> list[object]:
        client = MlflowClient(f"sqlite:///{stored.root}/mlflow.db")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments))

    for line in ("4 added, 0 replaced, 0 there already", "0 added, 0 replaced, 4 there already"):
        assert export("--results", stored.root, "--mlflow") == 0
        assert line in capsys.readouterr().out
        assert len(shown()) == 4

    client = MlflowClient(f"sqlite:///{stored.root}/mlflow.db")
    names = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    assert {"image classifiers on mnist-5k", "image classifiers on other"} <= set(names)
    runs = {run.info.run_name: run for run in client.search_runs([names["image classifiers on mnist-5k"]])}
    records = {record.run_id: record for record in stored.records()[0]}
    assert set(runs) == {run_id for run_id in records if "other" not in run_id}
    for run_id, run in runs.items():
        record = records[run_id]
        assert run.info.status == ("FINISHED" if record.status is Status.OK else "FAILED")
        assert run.info.start_time == int(record.started_at.timestamp() * 1000)
        assert set(Recipe.model_fields) <= set(run.data.params)
        assert not set(Recipe.model_fields) & set(run.data.metrics)
        assert run.data.params["model"] == "cnn"
        assert run.data.params["epochs"] == "5"
        assert run.data.params["seed"] == str(record.seed)
        assert run.data.metrics.get("test_accuracy") == record.test_accuracy
        if record.status is not Status.OK:
            assert run.data.tags["bench.reason"] == "it broke"
            continue
        assert run.data.tags["bench.device"] == "cpu"
        losses = client.get_metric_history(run.info.run_id, "epoch_train_loss")
        assert [(value.step, value.value) for value in losses] == [(k, 1 / k) for k in range(1, 6)]
        plots = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "plots")}
        assert plots == {"plots/training.png", "plots/confusion.png"}

    # a run that was trained again takes the place of the old one; a new one is added
    stored.write(make_result(make_record(seed=1, test_accuracy=0.5)))
    stored.write(make_result(make_record(seed=2)))
    assert export("--results", stored.root, "--mlflow") == 0
    assert "1 added, 1 replaced, 3 there already" in capsys.readouterr().out
    assert len(shown()) == 5


def test_an_interrupted_export_is_completed(
    stored: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", interrupted)
        assert export("--results", stored.root, "--mlflow") == 130
    assert export("--results", stored.root, "--mlflow") == 0
    capsys.readouterr()
    client = MlflowClient(f"sqlite:///{stored.root}/mlflow.db")
    assert len(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])) == 4


@pytest.mark.parametrize("name", ["what?", "lab #2", "of%20May", "a?b=c#d%2Fe", "plain name", "%", "ü"])
def test_the_local_store_lies_in_the_results_folder_whatever_that_is_called(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_record: Make
) -> None:
    store = Store(tmp_path / name / "results")
    store.prepare()
    store.write(Result(make_record()))

    for line in ("1 added, 0 replaced, 0 there already", "0 added, 0 replaced, 1 there already"):
        assert export("--results", store.root, "--mlflow") == 0
        assert line in capsys.readouterr().out

    assert (store.root / "mlflow.db").is_file()
    assert [folder.name for folder in tmp_path.iterdir()] == [name]
    assert [folder.name for folder in (tmp_path / name).iterdir()] == ["results"]


def test_a_server_that_cannot_be_reached_changes_nothing(stored: Store, tmp_path: Path) -> None:
    before = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*"))
    start = time.monotonic()
    ran = command(
        *("bench.export", "--results", stored.root, "--mlflow", "http://127.0.0.1:9"),
        *("--csv", "a.csv", "--tensorboard", "boards"),
        cwd=tmp_path,
    )
    assert time.monotonic() - start < 30
    assert ran.code == 2, ran
    assert ran.out == ""
    assert ran.err.splitlines() == ["error: --mlflow http://127.0.0.1:9: nothing answers there; nothing was changed"]
    assert sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "uri",
    [
        "nonsense://x",
        "sqlite:////nowhere/at/all.db",
        "sqlite:////proc/mlflow.db",
        "http://[",
        "ftp://127.0.0.1",
        "sqlite://",
        "sqlite:////nowhere/at?/all.db",
    ],
)
def test_an_mlflow_address_that_cannot_be_used_is_one_message(
    uri: str, stored: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    assert export("--results", stored.root, "--mlflow", uri) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: --mlflow")
    assert len(err.splitlines()) == 1
    assert time.monotonic() - start < 30  # MLflow itself tries for two minutes


# --- TensorBoard -------------------------------------------------------------------------------------------------


def test_tensorboard_shows_the_runs(stored: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    boards = tmp_path / "boards"
    for line in ("4 added, 0 replaced, 0 there already", "0 added, 0 replaced, 4 there already"):
        assert export("--results", stored.root, "--tensorboard", boards) == 0
        assert line in capsys.readouterr().out
        shown = EventMultiplexer().AddRunsFromDirectory(str(boards))
        shown.Reload()
        records = {record.run_id: record for record in stored.records()[0]}
        assert set(shown.Runs()) == set(records)
        for run_id, record in records.items():
            if record.status is not Status.OK:
                continue
            losses = shown.Scalars(run_id, "epoch/train_loss")
            assert [(value.step, value.value) for value in losses] == [(k, pytest.approx(1 / k)) for k in range(1, 6)]
            (accuracy,) = shown.Scalars(run_id, "run/test_accuracy")
            assert accuracy.value == pytest.approx(record.test_accuracy)
            accumulator = shown.GetAccumulator(run_id)
            assert accumulator.Tags()["images"] == ["plot/training", "plot/confusion"]
            start = accumulator.summary_metadata["_hparams_/session_start_info"].plugin_data.content
            chosen = set(HParamsPluginData.FromString(start).session_start_info.hparams)
            assert set(Recipe.model_fields) <= chosen
            scalars = {tag.removeprefix("run/") for tag in accumulator.Tags()["scalars"]}
            assert not set(Recipe.model_fields) & scalars


def test_tensorboard_replaces_a_run_that_was_trained_again(
    stored: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_record: Make,
    make_result: Callable[[Record], Result],
) -> None:
    boards = tmp_path / "boards"
    export("--results", stored.root, "--tensorboard", boards)
    stored.write(make_result(make_record(seed=1, test_accuracy=0.5)))
    capsys.readouterr()
    assert export("--results", stored.root, "--tensorboard", boards) == 0
    assert "0 added, 1 replaced, 3 there already" in capsys.readouterr().out
    assert all(len(list(folder.glob("events*"))) == 1 for folder in boards.iterdir())


def test_tensorboard_leaves_the_folders_of_others_alone(
    stored: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "boards" / stored.records()[0][0].run_id / "mine.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    assert export("--results", stored.root, "--tensorboard", tmp_path / "boards") == 2
    assert "was not written by bench.export" in capsys.readouterr().err
    assert theirs.read_text() == "mine"


# --- CSV ---------------------------------------------------------------------------------------------------------


def test_csv_has_every_run_and_column(stored: Store, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        assert export("--results", stored.root, "--csv", tmp_path / "runs.csv") == 0
        contents.append((tmp_path / "runs.csv").read_bytes())
    assert contents[0] == contents[1]
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    records = stored.records()[0]
    assert list(rows[0]) == list(Record.model_fields)
    assert [row["run_id"] for row in rows] == [record.run_id for record in records]
    for row, record in zip(rows, records, strict=True):
        assert row["test_accuracy"] == ("" if record.test_accuracy is None else repr(record.test_accuracy))


def test_csv_needs_neither_torch_nor_ray(
    stored: Store, tmp_path: Path, modules_after: Callable[[str], set[str]]
) -> None:
    arguments = ["--results", str(stored.root), "--csv", str(tmp_path / "runs.csv")]
    modules = modules_after(f"from bench.export import main\nassert main({arguments!r}) == 0")
    assert not modules & {"torch", "ray", "mlflow", "onnx", "tensorboardX"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--mlflow", "--tensorboard", "--csv", "--onnx"]),
        (["--results", "nowhere", "--csv", "a.csv"], ["nowhere", "bench.run"]),
        (["--csv", "/proc/a.csv"], ["--csv", "/proc/a.csv"]),
        (["--tensorboard", "/proc/boards"], ["--tensorboard", "/proc/boards"]),
        (["--onnx", "/proc/models"], ["--onnx", "/proc/models"]),
        (["--csvs", "x"], ["unknown option '--csvs'", "did you mean '--csv'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_message(
    arguments: list[str],
    words: list[str],
    results: Results,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments if "--results" in arguments else [*arguments, "--results", str(results.folder)]
    assert main(given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err


# --- ONNX --------------------------------------------------------------------------------------------------------


def agrees(content: bytes, checkpoint: Path, images: np.ndarray) -> None:
    expected = probabilities(load_trained(weights.read(checkpoint, "")), images)
    found = run_onnx(content, images)
    differs = np.flatnonzero(expected.argmax(1) != found.argmax(1))
    for image in differs:
        assert expected[image].max() - expected[image, found[image].argmax()] <= TIE
    assert np.abs(found - expected).max() < 1e-3


@pytest.fixture(scope="module")
def exported(results: Results, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the export of two models to ONNX prints, and the file of the better one."""
    folder, out = tmp_path_factory.mktemp("onnx"), io.StringIO()
    with contextlib.redirect_stdout(out):
        assert export("--results", results.folder, "--onnx", folder) == 0
    return out.getvalue(), folder / f"{results.record.run_id}.onnx"


def test_onnx_agrees_with_pytorch(results: Results, exported: tuple[str, Path]) -> None:
    said, file = exported
    assert said.count("agrees with PyTorch on 1,000 test images of mnist-5k") == 2
    agrees(file.read_bytes(), results.checkpoint, results.data.test.images)

    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    (logits,) = session.run(["logits"], {"images": results.data.test.images[:1]})
    assert logits.shape == (1, 10)
    about = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert about["run_id"] == results.record.run_id
    assert json.loads(about["class_names"]) == list("0123456789")


@pytest.mark.mnist
def test_onnx_agrees_on_the_10000_test_images_of_mnist(results: Results, exported: tuple[str, Path]) -> None:
    images = datasets.load("mnist", mnist_folder()).test.images
    agrees(exported[1].read_bytes(), results.checkpoint, images)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 28, 28),
        (3, 20, 40),
        pytest.param((3, 28, 28), marks=pytest.mark.slow),
        pytest.param((1, 64, 50), marks=pytest.mark.slow),
    ],
)
def test_onnx_of_a_model_that_resizes_and_sees_colour(shape: tuple[int, int, int], tmp_path: Path) -> None:
    from bench.learning.checkpoint import to_safetensors
    from bench.learning.models.build import build

    checkpoint = tmp_path / "a.safetensors"
    checkpoint.write_bytes(to_safetensors(build(MOBILENET, 10, None, 0), MOBILENET, tuple("0123456789")))
    images = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    exported = export_onnx(load_trained(weights.read(checkpoint, "")), images, tmp_path / "a.onnx")
    assert exported.images == 20
    assert exported.difference < 1e-3


def trained_at_64(folder: Path) -> list[Record]:
    """The records of models trained on images of 64 pixels, as with --image-size 64."""
    data, store, stored_records = datasets.load("synthetic"), Store(folder), []
    store.prepare()
    for model in ("cnn", "mobilenet"):
        form = built_in(model).input.model_copy(update={"image_size": 64})
        recipe = Recipe(epochs=1, image_size=64, train_size=100, batch_size=50)
        (run,) = Job(model=model, dataset=data.info, recipe=recipe, input=form).runs()
        stored_records.append(stored_in(store, assemble(run, execute(run, Inputs(data, None), LocalContext()))))
    return stored_records


def test_models_of_another_image_size_are_evaluated_answer_drawings_and_are_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = trained_at_64(tmp_path)
    for record in records:
        given = ["--weights", str(tmp_path / str(record.checkpoint)), "--dataset", "synthetic"]
        assert evaluate(given) == 0
        assert f"({record.test_correct} of 200)" in capsys.readouterr().out
    drawn = Image.new("L", (280, 280), 255)
    drawn.paste(0, (120, 40, 150, 240))
    page = Shelf(tmp_path).answer(drawn)
    assert page.problems == ()
    assert {answer.model for answer in page.answers} == {"cnn", "mobilenet"}

    torn = tmp_path / str(records[0].checkpoint)
    torn.write_bytes(torn.read_bytes()[:-9])
    assert export("--results", tmp_path, "--onnx", tmp_path / "onnx") == 2

    out, err = capsys.readouterr()
    assert f"{records[1].run_id}.onnx: agrees with PyTorch on 200 test images of synthetic" in out
    assert torn.name in err
    assert "1 other model written" in err
    assert len(err.splitlines()) == 1


def test_an_onnx_model_that_disagrees_is_not_written(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "bench.learning.onnx.run_onnx", lambda content, images: np.eye(10, dtype=np.float32)[[0] * len(images)]
    )
    assert export("--results", results.folder, "--onnx", tmp_path) == 2
    assert "disagrees with PyTorch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_gone_is_left_out(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results.folder, folder)
    (folder / str(results.record.checkpoint)).unlink()
    assert export("--results", folder, "--onnx", tmp_path / "models") == 0
    assert "left out" in capsys.readouterr().out
    assert len(list((tmp_path / "models").iterdir())) == 1
