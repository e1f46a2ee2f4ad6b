"""One run, start to end, in this process: what it leaves behind is right, and a run that fails is a record too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from factories import CNN, MOBILENET, weights_named

from bench.learning.context import LocalContext
from bench.learning.data.datasets import Dataset, Split
from bench.learning.data.preprocessing import DeviceSplit
from bench.learning.evaluation import evaluate
from bench.learning.execute import Inputs, execute
from bench.learning.models.build import build
from bench.learning.models.weights import Weights
from bench.learning.user_code import UserCode
from bench.spec import Job, Measured, ModelInput, Outcome, Recipe, Run, Status
from bench.workflows.record import assemble

RECIPE = Recipe(epochs=2, batch_size=50)
MINE = "mine.py:Mine"

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("registries")]


def run_of(dataset: Dataset, model: str = "cnn", *, seed: int = 0, recipe: Recipe = RECIPE, **fields: Any) -> Run:
    form = MOBILENET.input if model == "mobilenet" else CNN.input
    job = Job(model=model, dataset=dataset.info, recipe=recipe, input=form, seeds=(seed,), **fields)
    return job.with_recipe(recipe).runs()[0]


def with_code(dataset: Dataset, forward: str, *, recipe: Recipe = RECIPE) -> Outcome:
    """The outcome of a run of a model of the user's, whose forward() is given by its lines."""
    source = f"""
import torch

class Mine(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.steps = 0
        self.linear = torch.nn.Linear(28 * 28, classes)

    def forward(self, images):
        self.steps += self.training
        logits = self.linear(images.flatten(1))
        {forward}
        return logits
"""
    run = run_of(dataset, MINE, recipe=recipe)
    return execute(run, Inputs(dataset, None, UserCode("mine.py", source)), LocalContext())


@pytest.fixture(scope="module")
def twice(tiny: Dataset) -> list[Outcome]:
    """The outcomes of one run, executed twice."""
    return [execute(run_of(tiny), Inputs(tiny, None), LocalContext()) for _ in range(2)]


def test_a_run_that_is_ok_leaves_a_complete_record(twice: list[Outcome], tiny: Dataset) -> None:
    record = assemble(run_of(tiny), twice[0]).record

    assert (record.status, record.reason, record.attempts) == (Status.OK, None, 1)
    assert record.run_id == twice[0].run_id == run_of(tiny).id
    assert (record.train_images, record.test_images, record.classes) == (200, 100, 10)
    assert (record.trainable_parameters, record.total_parameters) == (225_034, 225_034)
    assert record.macs == 2_631_040
    assert record.weights == "none"
    assert record.device == "cpu"
    assert record.threads == 1
    assert record.checkpoint == f"checkpoints/{record.run_id}.safetensors"
    later = {"contended", "git_commit"}  # the driver knows them
    nothing = {"reason", "weights_sha256", "plugin_sha256", "feature_seconds", "features_cached"}
    nothing |= {"sweep_id", "lr_source", "image_size", "train_size"}
    nothing |= {"target_accuracy", "target_epoch", "target_seconds", "validation_accuracy", "validation_seconds"}
    nothing |= {"early_stopping", "best_epoch"}
    assert {name for name, value in record.model_dump().items() if value is None} == later | nothing


def test_timings_are_plausible(twice: list[Outcome]) -> None:
    record = twice[0].measured

    seconds = [record.setup_seconds, record.train_seconds, record.test_seconds]
    assert all(value is not None and value > 0 for value in seconds)
    assert record.started_at.tzinfo is not None
    assert (record.ended_at - record.started_at).total_seconds() >= sum(seconds)
    assert abs((datetime.now(UTC) - record.ended_at).total_seconds()) < 300
    assert record.train_images_per_second == pytest.approx(2 * 200 / record.train_seconds)
    assert record.test_images_per_second == pytest.approx(100 / record.test_seconds)
    assert record.train_seconds == pytest.approx(sum(epoch.seconds for epoch in twice[0].epochs))
    assert record.peak_memory_mb is not None
    assert 50 < record.peak_memory_mb < 50_000


def test_accuracy_is_that_of_the_predictions(twice: list[Outcome], tiny: Dataset) -> None:
    record, said = twice[0].measured, twice[0].predictions

    assert said is not None
    assert np.array_equal(said.labels, tiny.test.labels)
    assert record.test_correct == int((said.labels == said.predicted).sum())
    assert record.test_accuracy == record.test_correct / 100
    assert record.predictions_sha256 == hashlib.sha256(said.predicted.tobytes()).hexdigest()
    assert (said.labels.dtype, said.predicted.dtype, said.probability.dtype) == (np.int16, np.int16, np.float32)
    assert said.top_classes is not None
    assert said.top_classes.shape == (100, 5)
    assert said.probability.min() >= 0.1
    assert said.probability.max() <= 1


def test_epochs_are_those_of_the_run(twice: list[Outcome]) -> None:
    record, epochs = twice[0].measured, twice[0].epochs

    assert [(epoch.run_id, epoch.epoch) for epoch in epochs] == [(twice[0].run_id, 1), (twice[0].run_id, 2)]
    assert (record.train_loss, record.train_accuracy) == (epochs[-1].train_loss, epochs[-1].train_accuracy)
    assert all(epoch.images_per_second == pytest.approx(200 / epoch.seconds) for epoch in epochs)


def test_the_same_run_gives_the_same_result(twice: list[Outcome], tiny: Dataset) -> None:
    one, other = (outcome.measured for outcome in twice)
    another_seed = execute(run_of(tiny, seed=1), Inputs(tiny, None), LocalContext()).measured

    for name in ("predictions_sha256", "model_sha256", "test_accuracy", "test_loss", "train_loss", "train_accuracy"):
        assert getattr(one, name) == getattr(other, name), name
    assert another_seed.model_sha256 != one.model_sha256


def test_the_checkpoint_gives_exactly_the_recorded_accuracy(
    twice: list[Outcome], tiny: Dataset, tmp_path: Path
) -> None:
    record, checkpoint = twice[0].measured, twice[0].checkpoint
    assert checkpoint is not None
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(checkpoint)

    model = build(CNN, 10, weights_named(str(file), "cnn"), seed=5).to(memory_format=torch.channels_last)
    again = evaluate(model, CNN, DeviceSplit.of(tiny.test, "cpu"))

    assert again.accuracy == record.test_accuracy
    assert again.loss == record.test_loss
    assert np.array_equal(again.predictions.predicted, twice[0].predictions.predicted)


def test_the_checkpoint_says_all_that_is_needed_to_use_it(twice: list[Outcome], tiny: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(twice[0].checkpoint)
    with safetensors.safe_open(file, "np") as opened:
        about = opened.metadata()

    record = twice[0].measured
    assert about["model"] == "cnn"
    assert ModelInput.model_validate_json(about["input"]) == CNN.input
    assert json.loads(about["input"])["image_size"] == 28
    assert tuple(json.loads(about["class_names"])) == tiny.class_names
    assert (about["run_id"], about["dataset"]) == (twice[0].run_id, "tiny")
    assert float(about["test_accuracy"]) == record.test_accuracy


def few(dataset: Dataset, images: int) -> Dataset:
    train = Split(dataset.train.images[:images], dataset.train.labels[:images])
    return dataclasses.replace(dataset, train=train, sha256=f"{images:064}")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    file = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(build(MOBILENET, 10, None, seed=9).state_dict(), file)
    found = weights_named(str(file), "mobilenet")
    assert isinstance(found, Weights)
    return found


@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_a_run_with_pretrained_weights_trains_the_head_and_leaves_a_whole_model(
    bn_mode: Any, pretrained: Weights, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    data, spec = few(tiny, 50), MOBILENET
    recipe = Recipe(epochs=2, batch_size=25, bn_mode=bn_mode)
    run = run_of(data, "mobilenet", recipe=recipe, weights=pretrained.label, weights_sha256=pretrained.sha256)

    first, second = (execute(run, Inputs(data, pretrained), LocalContext()) for _ in range(2))

    record = first.measured
    assert (record.status, record.reason) == (Status.OK, None)
    assert (record.trainable_parameters, record.total_parameters) == (165_258, 2_389_130)
    assert record.train_images_per_second == pytest.approx(2 * 50 / record.train_seconds)
    # the second time, the features are there, which makes no difference to the result
    assert (record.features_cached, second.measured.features_cached) == (
        (False, True) if bn_mode == "eval" else (None, None)
    )
    for name in ("model_sha256", "predictions_sha256", "test_loss", "train_loss"):
        assert getattr(record, name) == getattr(second.measured, name), name

    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(first.checkpoint)
    model = build(spec, 10, weights_named(str(file), "mobilenet"), seed=5).to(memory_format=torch.channels_last)
    again = evaluate(model, spec, DeviceSplit.of(data.test, "cpu"))
    assert (again.accuracy, again.loss) == (record.test_accuracy, record.test_loss)


CODE_WITH_A_BACKBONE = """
import torch

class Mine(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = torch.nn.Conv2d(1, 8, 3)
        self.head = torch.nn.Linear(8, classes)

    def forward(self, images):
        return self.head(self.body(images).EMBED(dim=(2, 3)))
"""


def test_code_that_was_edited_is_not_given_the_features_of_before(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backbone's weights are the same, and what it makes of them is not."""
    state = {"body.weight": torch.randn(8, 1, 3, 3), "body.bias": torch.randn(8)}
    content = np.frombuffer(safetensors.torch.save(state), dtype=np.uint8)
    weights = Weights("mine", "0" * 64, "mine.safetensors", content)

    def model_after(embed: str, cache: str) -> str | None:
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / cache))
        code = UserCode("mine.py", CODE_WITH_A_BACKBONE.replace("EMBED", embed))
        run = run_of(tiny, MINE, weights_sha256=weights.sha256, plugin_sha256=code.sha256)
        record = execute(run, Inputs(tiny, weights, code), LocalContext()).measured
        assert record.status == Status.OK, record.reason
        return record.model_sha256

    model_after("mean", "shared")

    assert model_after("amax", "shared") == model_after("amax", "its own")


def test_an_interrupted_run_goes_on_where_it_was(twice: list[Outcome], tiny: Dataset) -> None:
    first, second = LocalContext(), LocalContext()
    execute(run_of(tiny), Inputs(tiny, None), first)
    second.saved = first.saved  # the state after epoch 1 of 2

    outcome = execute(run_of(tiny), Inputs(tiny, None), second)

    assert outcome.measured.model_sha256 == twice[0].measured.model_sha256
    assert [epoch.epoch for epoch in outcome.epochs] == [1, 2]
    assert {progress.epoch for progress in second.progress} == {2}


# --- runs that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "status", "reason"),
    [
        ("raise RuntimeError('shapes differ')", Status.FAILED, "Mine cannot be built for 28 px, grey, mean 0.1307"),
        ("raise RuntimeError('shapes differ')", Status.FAILED, "std 0.3081: shapes differ"),
        ("if self.steps > 2: raise RuntimeError('shapes differ')", Status.FAILED, "RuntimeError: shapes differ"),
        ("if self.steps > 2: raise ValueError('bad step')", Status.FAILED, "ValueError: bad step"),
        ("logits = logits[:, :3]", Status.FAILED, "IndexError: "),
        ("if self.steps > 2: raise MemoryError('no room')", Status.OOM, "MemoryError: no room"),
        ("if self.steps > 2: raise torch.OutOfMemoryError('GPU full')", Status.OOM, "OutOfMemoryError: GPU full"),
        ("if self.steps > 2: torch.empty(2**53)", Status.OOM, "allocate"),
        ("logits = logits * float('nan')", Status.DIVERGED, "the training loss is nan in epoch 1 of 2"),
        ("logits = logits * float('inf')", Status.DIVERGED, "the training loss is nan in epoch 1 of 2"),
        ("logits = logits * (float('nan') if self.steps > 5 else 1)", Status.DIVERGED, "nan in epoch 2 of 2"),
    ],
)
def test_a_run_that_fails_is_a_record_with_its_reason(forward: str, status: Status, reason: str, tiny: Dataset) -> None:
    outcome = with_code(tiny, forward)

    record = outcome.measured
    assert record.status == status
    assert record.reason is not None
    assert reason in record.reason
    assert (outcome.predictions, outcome.checkpoint) == (None, None)
    measured = [name for name in Measured.model_fields if name.startswith(("test_acc", "train_", "model_sha", "peak"))]
    assert {getattr(record, name) for name in measured} == {None}
    assert (outcome.run_id, record.device, record.threads) == (run_of(tiny, MINE).id, "cpu", 1)
    assert record.ended_at >= record.started_at


def test_a_model_that_breaks_in_its_last_step_has_diverged(tiny: Dataset) -> None:
    """The loss was finite to the end, and what the last step left behind is not."""
    record = with_code(tiny, "", recipe=Recipe(epochs=1, batch_size=200, lr=3e38)).measured

    assert record.status == Status.DIVERGED, record.test_loss
    assert record.test_accuracy is None


def test_a_model_of_the_users_own_is_trained(tiny: Dataset) -> None:
    record = with_code(tiny, "").measured

    assert (record.status, record.reason) == (Status.OK, None)
    assert record.total_parameters == 28 * 28 * 10 + 10
    assert record.macs == 28 * 28 * 10


def test_code_that_cannot_be_loaded_in_the_worker_is_a_failed_run(tiny: Dataset) -> None:
    code = UserCode("mine.py", "import no_such_module")

    record = execute(run_of(tiny, MINE), Inputs(tiny, None, code), LocalContext()).measured

    assert record.status == Status.FAILED
    assert "no_such_module" in record.reason


def test_a_keyboard_interrupt_is_passed_on(tiny: Dataset) -> None:
    with pytest.raises(KeyboardInterrupt):
        with_code(tiny, "raise KeyboardInterrupt")


def test_a_trial_is_judged_on_held_out_images_and_never_sees_the_test_set(tiny: Dataset) -> None:
    recipe = RECIPE.model_copy(update={"validation_size": 40})
    without = dataclasses.replace(tiny, test=Split(tiny.test.images[:0], tiny.test.labels[:0]))

    outcome = execute(run_of(tiny, recipe=recipe, judged_on="validation"), Inputs(without, None), LocalContext())

    assert (outcome.measured.status, outcome.measured.reason) == (Status.OK, None)
    assert (outcome.measured.test_accuracy, outcome.predictions, outcome.checkpoint) == (None, None, None)
    assert outcome.measured.validation_accuracy == outcome.epochs[-1].validation_accuracy
    assert outcome.measured.images_per_epoch == 160
    assert outcome.measured.validation_seconds > 0


def test_training_ends_at_its_target_when_asked_to(tiny: Dataset) -> None:
    target = {"epochs": 30, "validation_size": 40, "target_accuracy": 0.3}
    stopping = Recipe(batch_size=20, stop_at_target=True, **target)

    stopped = execute(run_of(tiny, recipe=stopping), Inputs(tiny, None), LocalContext())

    record = stopped.measured
    assert record.status is Status.OK
    assert record.target_epoch == record.epochs_done == len(stopped.epochs) < 30
    assert stopped.epochs[-1].validation_accuracy >= 0.3
    assert all(epoch.validation_accuracy < 0.3 for epoch in stopped.epochs[:-1])
    assert record.target_seconds == pytest.approx(sum(epoch.seconds for epoch in stopped.epochs))


def stopping_run(data: Dataset, model: str, weights: Weights | None) -> Run:
    """A run that stops early, as its learning rate is so high that its validation loss soon rises."""
    recipe = Recipe(epochs=12, batch_size=20, lr=0.3 if weights else 0.003, validation_size=40, early_stopping=2)
    about = {"weights": weights.label, "weights_sha256": weights.sha256} if weights else {}
    return run_of(data, model, recipe=recipe, **about)


@pytest.mark.parametrize("kind", ["whole model", "head on features"])
def test_early_stopping_keeps_the_best_epoch_also_after_an_interruption(
    kind: str, tiny: Dataset, pretrained: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    weights = pretrained if kind == "head on features" else None
    data, model = (few(tiny, 100), "mobilenet") if weights else (tiny, "cnn")
    run, inputs = stopping_run(data, model, weights), Inputs(data, weights)

    whole = execute(run, inputs, LocalContext())

    record = whole.measured
    losses = [epoch.validation_loss for epoch in whole.epochs]
    assert record.status is Status.OK, record.reason
    assert record.epochs_done == len(losses) < 12
    assert losses[record.best_epoch - 1] == min(losses)
    assert record.epochs_done == record.best_epoch + 2
    assert record.validation_accuracy == whole.epochs[record.best_epoch - 1].validation_accuracy
    assert record.train_images_per_second == pytest.approx(
        record.images_per_epoch * record.epochs_done / record.train_seconds
    )

    # the model is the one that as many epochs as the best give, so also the one that is exported
    fewer = run.recipe.model_copy(update={"epochs": record.best_epoch, "early_stopping": None})
    about = {"weights": run.weights, "weights_sha256": run.weights_sha256}
    plain = execute(run_of(data, model, recipe=fewer, **about), inputs, LocalContext())
    assert plain.measured.model_sha256 == record.model_sha256
    assert plain.measured.predictions_sha256 == record.predictions_sha256
    assert plain.measured.best_epoch is None

    class Interrupted(LocalContext):
        def save(self, run_id: str, state: bytes) -> None:
            super().save(run_id, state)
            if len(self.progress) and self.progress[-1].epoch == record.best_epoch + 1:  # the best is behind it
                raise KeyboardInterrupt

    torn, resumed = Interrupted(), LocalContext()
    with pytest.raises(KeyboardInterrupt):
        execute(run, inputs, torn)
    resumed.saved = torn.saved
    again = execute(run, inputs, resumed).measured
    assert again.model_sha256 == record.model_sha256
    assert (again.best_epoch, again.epochs_done) == (record.best_epoch, record.epochs_done)


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": "sgd", "lr": 0.05},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"schedule": "one-cycle"},
        {"schedule": "cosine"},
        {"momentum": 0.5},
        {"beta2": 0.9},
        {"label_smoothing": 0.1},
        {"precision": "bf16"},
        {"train_size": 100},
    ],
    ids=str,
)
def test_every_field_of_the_recipe_changes_the_training(
    changed: dict[str, Any], tiny: Dataset, twice: list[Outcome]
) -> None:
    recipe = RECIPE.model_copy(update=changed)

    outcome = execute(run_of(tiny, recipe=recipe), Inputs(tiny, None), LocalContext())

    assert (outcome.measured.status, outcome.measured.reason) == (Status.OK, None)
    assert outcome.measured.model_sha256 != twice[0].measured.model_sha256
    assert outcome.measured.images_per_epoch == changed.get("train_size", 200)
    assert outcome.measured.precision_used == changed.get("precision", "fp32")


@pytest.mark.parametrize("labels", ["uint8", "int32"])
def test_labels_of_any_type_are_whole_numbers(labels: str, tiny: Dataset, twice: list[Outcome]) -> None:
    train, test = (dataclasses.replace(one, labels=one.labels.astype(labels)) for one in (tiny.train, tiny.test))

    outcome = execute(run_of(tiny), Inputs(dataclasses.replace(tiny, train=train, test=test), None), LocalContext())

    assert (outcome.measured.status, outcome.measured.reason) == (Status.OK, None)
    assert outcome.measured.model_sha256 == twice[0].measured.model_sha256
    assert outcome.measured.test_accuracy == twice[0].measured.test_accuracy


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_a_schedule_goes_on_where_it_was_interrupted(schedule: str, tiny: Dataset) -> None:
    class Interrupted(LocalContext):
        def goes_on(self, run_id: str, epoch: int, validation_accuracy: float | None) -> bool:
            if epoch == 2:
                raise KeyboardInterrupt
            return True

    recipe = Recipe(epochs=3, batch_size=50, lr=0.01, schedule=schedule)
    run, inputs = run_of(tiny, recipe=recipe), Inputs(tiny, None)
    whole = execute(run, inputs, LocalContext())
    torn = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        execute(run, inputs, torn)
    resumed = LocalContext()
    resumed.saved = torn.saved

    assert execute(run, inputs, resumed).measured.model_sha256 == whole.measured.model_sha256


def test_a_backbone_is_trained_only_where_asked_and_at_the_size_asked_for(tiny: Dataset) -> None:
    weights = weights_named("bundled", "mobilenet")
    parameters, macs = [], []
    for recipe in (Recipe(epochs=1, batch_size=50), Recipe(epochs=1, batch_size=50, trainable="all", image_size=64)):
        record = execute(run_of(tiny, "mobilenet", recipe=recipe), Inputs(tiny, weights), LocalContext()).measured
        assert (record.status, record.reason) == (Status.OK, None)
        parameters.append(record.trainable_parameters)
        macs.append(record.macs)
        assert (record.feature_seconds is None) == (recipe.trainable == "all")

    assert parameters == [165_258, 2_389_130]
    assert macs[1] > 3 * macs[0]
