"""Checkpoints: ours, published ones, and those that are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoints import Results, trained

from bench.errors import UserError
from bench.learning.checkpoint import load_trained
from bench.learning.models import weights
from bench.learning.models.registry import MODELS

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def results() -> Results:
    return trained()


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


def test_a_published_state_dict_is_loaded_with_any_number_of_classes(results: Results, tmp_path: Path) -> None:
    """Names conv1, conv2, fc1, fc2; no metadata; any number of classes."""
    state = safetensors.torch.load_file(results.checkpoint)
    model = load_trained(saved(tmp_path / "published.pth", state), "cnn")
    assert model.class_names == tuple("0123456789")
    assert all(torch.equal(value, model.module.state_dict()[name]) for name, value in state.items())
    three = MODELS.find("cnn").build(3).state_dict()
    assert load_trained(saved(tmp_path / "three.safetensors", three), "cnn").class_names == ("0", "1", "2")
    wide = MODELS.find("mobilenet").build(5).state_dict()
    assert len(load_trained(saved(tmp_path / "wide.pth", wide), "mobilenet").class_names) == 5


def test_a_checkpoint_that_does_not_fit_is_refused_with_the_reason(results: Results, tmp_path: Path) -> None:
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
