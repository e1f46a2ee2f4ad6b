"""The figures of bench.evaluate against their definitions, and checkpoints that are not what they should be.

python -m pytest tests/learning/test_evaluation.py
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoints import Results, trained

from bench.errors import UserError
from bench.learning import weights
from bench.learning.evaluation import calibration_error, confusion, load_trained, wilson
from bench.learning.models import MODELS
from bench.spec import Predictions


@pytest.fixture(scope="module")
def results() -> Results:
    return trained()


@pytest.mark.parametrize(("correct", "images"), [(0, 10), (10, 10), (9915, 10_000), (1, 1), (37, 100)])
def test_wilson(correct: int, images: int) -> None:
    z, share = 1.959964, correct / images
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    assert wilson(correct, images) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_wilson_of_nothing() -> None:
    assert np.isnan(wilson(0, 0)).all()


def test_confusion() -> None:
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 7, (2, 500)).astype(np.int16)
    table = confusion(labels, predicted, 7)
    for true in range(7):
        for said in range(7):
            assert table[true, said] == ((labels == true) & (predicted == said)).sum()


def predictions(right: list[bool], probability: list[float]) -> Predictions:
    labels = np.zeros(len(right), np.int16)
    return Predictions(labels, np.array([0 if ok else 1 for ok in right], np.int16), np.array(probability, np.float32))


def test_calibration_error_by_hand() -> None:
    # bins of a tenth: (0.5, 0.6] holds two, one right: |1/2 - 0.55|; (0.9, 1] holds two, both right: |1 - 0.96|
    said = predictions([True, False, True, True], [0.52, 0.58, 0.95, 0.97])
    assert calibration_error(said, bins=10) == pytest.approx((2 * 0.05 + 2 * 0.04) / 4, abs=1e-6)
    # a border belongs to the bin below it
    assert calibration_error(predictions([True, False], [0.5, 0.41]), bins=2) == pytest.approx(0.045, abs=1e-6)
    assert calibration_error(predictions([True], [1.0])) == 0


def test_a_calibrated_model_has_next_to_no_error() -> None:
    random = np.random.default_rng(0)
    probability = random.uniform(0.1, 1, 100_000)
    right = random.uniform(size=100_000) < probability
    assert calibration_error(predictions(list(right), list(probability))) < 0.01


def test_a_checkpoint_of_ours_says_what_it_is(results: Results) -> None:
    model = load_trained(weights.read(results.checkpoint, ""))
    assert model.spec.name == "cnn"
    assert model.class_names == tuple("0123456789")
    assert model.about["run_id"] == results.record.run_id
    assert not model.module.training


def saved(path: Path, state: dict[str, torch.Tensor], **metadata: str) -> weights.Weights:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path, metadata or None)
    else:
        torch.save(state, path)
    return weights.read(path, "")


def test_a_published_state_dict(results: Results, tmp_path: Path) -> None:
    """Names conv1, conv2, fc1, fc2; no metadata; any number of classes."""
    state = safetensors.torch.load_file(results.checkpoint)
    model = load_trained(saved(tmp_path / "published.pth", state), "cnn")
    assert model.class_names == tuple("0123456789")
    assert all(torch.equal(value, model.module.state_dict()[name]) for name, value in state.items())
    three = MODELS.find("cnn").build(3).state_dict()
    assert load_trained(saved(tmp_path / "three.safetensors", three), "cnn").class_names == ("0", "1", "2")
    wide = MODELS.find("mobilenet").build(5).state_dict()
    assert len(load_trained(saved(tmp_path / "wide.pth", wide), "mobilenet").class_names) == 5


def test_checkpoints_that_are_refused(results: Results, tmp_path: Path) -> None:
    state = safetensors.torch.load_file(results.checkpoint)
    ours = weights.read(results.checkpoint, "")

    def refused(found: weights.Weights, model: str | None, *words: str) -> None:
        with pytest.raises(UserError) as caught:
            load_trained(found, model)
        for word in words:
            assert word in str(caught.value)

    refused(ours, "mobilenet", "is a checkpoint of cnn, not of mobilenet", "--model cnn")
    refused(saved(tmp_path / "a.pth", state), None, "--model")
    refused(saved(tmp_path / "b.pth", state), "mobilenet", "do not fit mobilenet")
    misshapen = {**state, "conv2.weight": torch.zeros(64, 32, 5, 5)}
    refused(saved(tmp_path / "c.pth", misshapen), "cnn", "conv2.weight has 64x32x5x5, expected 64x32x3x3")
    refused(saved(tmp_path / "d.pth", {**state, "extra.weight": torch.zeros(1)}), "cnn", "extra.weight")
    del state["fc2.bias"]
    refused(saved(tmp_path / "e.pth", state), "cnn", "fc2.bias is missing")
    refused(saved(tmp_path / "f.safetensors", state, model="theirs"), None, "'theirs'", "--plugin")
    refused(saved(tmp_path / "g.safetensors", state, model="cnn", input_size="64"), None, "input_size 64", "28")
    backbone = MODELS.find("mobilenet").build(10).state_dict()
    backbone = {name: value for name, value in backbone.items() if name.startswith("features.")}
    refused(saved(tmp_path / "h.pth", backbone), "mobilenet", "mobilenet")
    (tmp_path / "i.safetensors").write_bytes(results.checkpoint.read_bytes()[:-100])
    refused(weights.read(tmp_path / "i.safetensors", ""), None, "damaged")


def test_class_names_that_are_no_list_of_names_are_not_used(results: Results, tmp_path: Path) -> None:
    state = safetensors.torch.load_file(results.checkpoint)
    for number, names in enumerate(["no JSON", json.dumps(["too", "few"]), "3"]):
        found = saved(tmp_path / f"{number}.safetensors", state, model="cnn", class_names=names)
        assert load_trained(found).class_names == tuple("0123456789")
