"""Checkpoints: ours, published ones, and those that are not what they should be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoints import Results, trained
from factories import CNN, MOBILENET

from bench.errors import UserError
from bench.learning.checkpoint import load_trained, to_safetensors
from bench.learning.models import weights
from bench.learning.models.registry import MODELS, find
from bench.spec import ModelInput

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
    three = CNN.build(3).state_dict()
    assert load_trained(saved(tmp_path / "three.safetensors", three), "cnn").class_names == ("0", "1", "2")
    wide = MOBILENET.build(5).state_dict()
    assert len(load_trained(saved(tmp_path / "wide.pth", wide), "mobilenet").class_names) == 5


def test_a_checkpoint_that_does_not_fit_is_refused_with_the_reason(results: Results, tmp_path: Path) -> None:
    state = safetensors.torch.load_file(results.checkpoint)
    ours = weights.read(results.checkpoint, "")

    def refused(found: weights.Weights, model: str | None, *words: str) -> None:
        with pytest.raises(UserError) as caught:
            load_trained(found, model)
        for word in words:
            assert word in str(caught.value)

    refused(ours, "mobilenet", "is a trained model of cnn, not of mobilenet", "--model cnn")
    refused(saved(tmp_path / "a.pth", state), None, "--model")
    refused(saved(tmp_path / "b.pth", state), "mobilenet", "do not fit mobilenet")
    misshapen = {**state, "conv2.weight": torch.zeros(64, 32, 5, 5)}
    refused(saved(tmp_path / "c.pth", misshapen), "cnn", "conv2.weight has 64x32x5x5, expected 64x32x3x3")
    refused(saved(tmp_path / "d.pth", {**state, "extra.weight": torch.zeros(1)}), "cnn", "extra.weight")
    del state["fc2.bias"]
    refused(saved(tmp_path / "e.pth", state), "cnn", "fc2.bias is missing")
    refused(saved(tmp_path / "f.safetensors", state, model="theirs"), None, "'theirs'", "FILE.py:NAME")
    elsewhere = saved(tmp_path / "g.safetensors", state, model="elsewhere.py:Net")
    refused(elsewhere, None, "elsewhere.py:Net", "not here", "--model FILE.py:NAME")
    other_size = ModelInput(image_size=64).model_dump_json()  # the network for it has another shape
    refused(saved(tmp_path / "k.safetensors", state, model="cnn", input=other_size), None, "fc1.weight has 128x1600")
    for number, wrong in enumerate(("no JSON", '{"image_size": -3}', '{"mean": [0.1, 0.2]}', "3")):
        damaged = saved(tmp_path / f"l{number}.safetensors", state, model="cnn", input=wrong)
        refused(damaged, None, "damaged metadata")
    backbone = MOBILENET.build(10).state_dict()
    backbone = {name: value for name, value in backbone.items() if name.startswith("features.")}
    refused(saved(tmp_path / "h.pth", backbone), "mobilenet", "mobilenet")
    (tmp_path / "i.safetensors").write_bytes(results.checkpoint.read_bytes()[:-100])
    refused(weights.read(tmp_path / "i.safetensors", ""), None, "damaged")


def test_class_names_that_are_no_list_of_names_are_not_used(results: Results, tmp_path: Path) -> None:
    state = safetensors.torch.load_file(results.checkpoint)
    for number, names in enumerate(["no JSON", json.dumps(["too", "few"]), "3"]):
        found = saved(tmp_path / f"{number}.safetensors", state, model="cnn", class_names=names)
        assert load_trained(found).class_names == tuple("0123456789")


def test_a_checkpoint_says_which_pictures_it_was_trained_on(tmp_path: Path) -> None:
    form = ModelInput(image_size=40, channels=3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop=0.9)
    spec = MODELS["cnn"].spec(form)
    file = tmp_path / "a.safetensors"
    file.write_bytes(to_safetensors(spec.build(4), spec, ("a", "b", "c", "d")))

    found = load_trained(weights.read(file, ""))

    assert found.spec.input == form
    assert found.class_names == ("a", "b", "c", "d")


def test_a_checkpoint_of_an_older_version_is_read(results: Results, tmp_path: Path) -> None:
    """It has the size, the channels, and their mean and standard deviation one by one."""
    state = safetensors.torch.load_file(results.checkpoint)
    about = {"input_size": "28", "channels": "1", "mean": "[0.5]", "std": "[0.25]"}

    found = load_trained(saved(tmp_path / "old.safetensors", state, model="cnn", **about))

    assert found.spec.input == ModelInput(mean=(0.5,), std=(0.25,))
    del about["mean"]
    with pytest.raises(UserError, match="damaged metadata"):
        load_trained(saved(tmp_path / "torn.safetensors", state, model="cnn", **about))


@pytest.mark.usefixtures("registries")
def test_a_checkpoint_of_a_users_model_is_read_with_the_file_at_another_place(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    file = tmp_path / "moved" / "mine.py"
    file.write_text(
        "from torch import nn\n\ndef net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))\n"
        "\ndef other(classes):\n    return net(classes)\n"
    )
    spec = find(f"{file}:net").spec(ModelInput())
    state = spec.build(3).state_dict()
    checkpoint = saved(tmp_path / "a.safetensors", state, model="mine.py:net", input=spec.input.model_dump_json())

    found = load_trained(checkpoint, f"{file}:net")

    assert all(torch.equal(value, state[name]) for name, value in found.module.state_dict().items())
    with pytest.raises(UserError, match=r"is a trained model of mine\.py:net, not of"):
        load_trained(checkpoint, f"{file}:other")


def test_a_model_that_takes_one_size_only_refuses_a_checkpoint_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_28 = replace(MODELS["cnn"], wants=lambda pretrained: {"image_size": 28}, resizable=False)
    monkeypatch.setitem(MODELS, "cnn", only_28)
    spec = only_28.spec(ModelInput(image_size=64))

    with pytest.raises(UserError, match="was trained on 64 px, but cnn takes 28 px"):
        load_trained(
            saved(
                tmp_path / "a.safetensors", spec.build(3).state_dict(), model="cnn", input=spec.input.model_dump_json()
            )
        )


def test_a_checkpoint_of_a_size_that_the_model_cannot_take_is_refused(tmp_path: Path) -> None:
    state, form = CNN.build(10).state_dict(), ModelInput(image_size=6)

    with pytest.raises(UserError, match="was trained on 6 px, but cnn takes images of at least 10 px"):
        load_trained(saved(tmp_path / "a.safetensors", state, model="cnn", input=form.model_dump_json()))


def test_weights_that_do_not_say_it_are_assumed_to_want_what_the_pretrained_model_wants(tmp_path: Path) -> None:
    resnet = find("torchvision/resnet18")
    state = resnet.spec(ModelInput(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)).build(4).state_dict()
    file = saved(tmp_path / "a.pth", state)

    found = load_trained(file, "torchvision/resnet18")
    given = load_trained(file, "torchvision/resnet18", {"mean": (0.5,), "std": (0.25,), "image_size": 64})

    assert not found.names_input
    assert found.spec.input == ModelInput.model_validate(resnet.wants(True))
    assert given.spec.input.mean == (0.5, 0.5, 0.5)
    assert given.spec.input.image_size == 64


def test_three_means_are_those_of_a_model_that_sees_colour(tmp_path: Path) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    form = ModelInput(image_size=32, channels=3, mean=mean, std=std)
    file = saved(tmp_path / "a.pth", MODELS["cnn"].spec(form).build(4).state_dict())

    assert load_trained(file, "cnn", {"mean": mean, "std": std, "image_size": 32}).spec.input == form


def test_what_a_model_cannot_take_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pth", CNN.build(4).state_dict())

    with pytest.raises(UserError, match="--image-size is 6, but cnn takes images of at least 10 px"):
        load_trained(file, "cnn", {"image_size": 6})
