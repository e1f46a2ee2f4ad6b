"""A network is measured as itself, whoever brought it: the built-in models against copies in a user's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bench.learning.context import LocalContext
from bench.learning.data import datasets
from bench.learning.data.datasets import Dataset, Split
from bench.learning.execute import Inputs, execute
from bench.learning.models.registry import MODELS
from bench.learning.models.registry import find as find_model
from bench.learning.models.weights import Weights, Wish, find
from bench.learning.user_code import UserCode
from bench.spec import Job, ModelInput, Outcome, Recipe

pytestmark = pytest.mark.heavy

COPIES = Path(__file__).parents[2] / "experiments" / "speed" / "copies.py"
CODE = UserCode(COPIES.name, COPIES.read_text())
SAME = ("predictions_sha256", "test_accuracy", "test_loss", "train_loss", "train_accuracy", "model_sha256", "macs")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """An eighth of mnist-5k's training images, and its test images."""
    data = datasets.load("mnist-5k")
    train = Split(data.train.images[::8].copy(), data.train.labels[::8].copy())
    return replace(data, sha256="8" * 64, train=train)


def outcome_of(model: str, data: Dataset, weights: Weights | None, seed: int, recipe: Recipe) -> Outcome:
    code = CODE if ":" in model else None
    fields: dict[str, Any] = {"plugin_sha256": code.sha256} if code is not None else {}
    given = dict(find_model(model, code).wants(True))
    form = ModelInput.model_validate(given)
    (run,) = Job(model=model, dataset=data.info, recipe=recipe, input=form, seeds=(seed,), **fields).runs()
    return execute(run, Inputs(data, weights, code), LocalContext())


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("model", "copy"), [("cnn", "copies.py:Net"), ("mobilenet", "copies.py:Transfer")])
def test_a_users_copy_of_a_model_gives_the_same_weights_and_predictions(
    model: str, copy: str, seed: int, digits: Dataset
) -> None:
    weights = find(Wish("auto"), model, MODELS[model].sources)
    recipe = Recipe(epochs=2, batch_size=50)

    ours, users = (outcome_of(name, digits, weights, seed, recipe) for name in (model, copy))

    for name in SAME:
        assert getattr(users.measured, name) == getattr(ours.measured, name), name
    assert ours.measured.test_accuracy is not None
    assert ours.measured.test_accuracy > 0.25, "it learns"
    assert ours.measured.features_cached == users.measured.features_cached == (None if model == "cnn" else False)
    assert ours.checkpoint is not None
    assert users.checkpoint is not None
    one, other = safetensors.torch.load(ours.checkpoint), safetensors.torch.load(users.checkpoint)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
