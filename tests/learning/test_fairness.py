"""A network is measured as itself, whoever brought it: the built-in models against copies in a user's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bench.learning import datasets
from bench.learning.context import LocalContext
from bench.learning.datasets import Dataset, Split
from bench.learning.execute import Inputs, execute
from bench.learning.models import MODELS
from bench.learning.plugins import Plugin
from bench.learning.weights import Weights, find
from bench.spec import Job, Outcome, Recipe

PLUGIN = Plugin(
    "copies.py",
    """
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from bench.learning.models import register


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)
        self.fc1 = nn.Linear(1600, 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(F.dropout(x, 0.5, self.training))


class Transfer(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = torchvision.models.mobilenet_v2().features
        self.classifier = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(1280, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, classes)
        )

    def embed(self, x):
        return self.features(x).mean([2, 3])

    def forward(self, x):
        return self.classifier(self.embed(x))


register("plain-cnn")(Net)
register(
    "plain-mobilenet",
    input_size=32,
    channels=3,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    backbone="features",
    head="classifier",
)(Transfer)
""",
)
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
    plugin = PLUGIN if model.startswith("plain-") else None
    fields: dict[str, Any] = {"plugin_sha256": plugin.sha256} if plugin is not None else {}
    (run,) = Job(model=model, dataset=data.info, recipe=recipe, seeds=(seed,), **fields).runs()
    return execute(run, Inputs(data, weights, plugin), LocalContext())


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("model", ["cnn", "mobilenet"])
def test_a_users_copy_of_a_model_gives_the_same_weights_and_predictions(model: str, seed: int, digits: Dataset) -> None:
    weights = find("bundled", model, MODELS[model].sources)
    recipe = Recipe(epochs=2, batch_size=50)

    ours, users = (outcome_of(name, digits, weights, seed, recipe) for name in (model, f"plain-{model}"))

    for name in SAME:
        assert getattr(users.record, name) == getattr(ours.record, name), name
    assert ours.record.test_accuracy is not None
    assert ours.record.test_accuracy > 0.25, "it learns"
    assert ours.record.features_cached == users.record.features_cached == (None if model == "cnn" else False)
    assert ours.checkpoint is not None
    assert users.checkpoint is not None
    one, other = safetensors.torch.load(ours.checkpoint), safetensors.torch.load(users.checkpoint)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
