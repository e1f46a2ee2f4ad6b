"""State dicts as people save them: which tensors are found, by which names, and what is refused."""

from __future__ import annotations

import argparse
import datetime
import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from bench.errors import UserError
from bench.learning.checkpoint import load_trained
from bench.learning.models.state import read_state
from bench.learning.models.weights import FILE_ENDINGS, Weights, Wish, read
from bench.spec import ModelInput

STATE = {"0.weight": torch.arange(6.0).view(2, 3), "0.bias": torch.ones(2)}


def file_of(content: object, name: str = "net.pth", **how: Any) -> Weights:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return Weights("a file", "0" * 64, name, np.frombuffer(buffer.getvalue(), np.uint8))


def named(prefix: str, state: dict[str, torch.Tensor] = STATE) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        named("module."),
        named("_orig_mod."),
        named("module._orig_mod."),
        named("_orig_mod.module."),
        {"state_dict": named("model."), "epoch": 1, "pytorch-lightning_version": "2.4.0"},
        {"state_dict": named("model._orig_mod."), "hyper_parameters": {"lr": 0.1}},
        {"net": named("module."), "acc": 98.9, "epoch": 3},
        {"model_state": STATE, "epoch": 3},
        {"model_state": STATE, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}},
        {"model": STATE, "model_ema": named("module.")},
        {"checkpoint": {"weights": named("encoder.head.")}},
        {"state_dict": STATE, "best": np.float64(0.5), "history": np.arange(3)},
        {"state_dict": STATE, "args": argparse.Namespace(lr=0.1, path=Path("x"), at=datetime.date(2026, 1, 2))},
    ],
    ids=lambda content: " ".join(map(str, content)),
)
def test_the_tensors_are_found_by_the_models_names(content: object) -> None:
    for how in ({}, {"_use_new_zipfile_serialization": False}):
        state = read_state(file_of(content, **how), STATE)

        assert list(state) == list(STATE)
        assert all(torch.equal(value, STATE[name]) for name, value in state.items())


def test_a_prefix_that_the_model_has_too_is_kept() -> None:
    for prefix in ("module.", "net."):
        assert list(read_state(file_of(named(prefix)), named(prefix))) == list(named(prefix))
        assert list(read_state(file_of(named("module." + prefix)), named(prefix))) == list(named(prefix))


def test_a_part_that_was_compiled_has_its_usual_names() -> None:
    state = {"body._orig_mod.weight": torch.ones(2), "head.weight": torch.ones(2)}

    assert list(read_state(file_of(state))) == ["body.weight", "head.weight"]


def test_several_state_dicts_are_named() -> None:
    with pytest.raises(UserError, match=r"several state dicts \(generator, critic\)"):
        read_state(file_of({"generator": STATE, "critic": STATE}))


class Options:
    """Something of a user's own beside the weights."""


class Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_what_may_be_code_is_refused_by_name_and_not_executed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"holds more than tensors \({__name__}\.Options\)"):
        read_state(file_of({"state_dict": STATE, "options": Options(), "best": np.float64(1)}))
    for content in (
        Harmful(tmp_path / "made"),
        {"args": argparse.Namespace(x=Harmful(tmp_path / "made")), "net": STATE},
    ):
        with pytest.raises(UserError, match=r"holds more than tensors \(posix\.mkdir\)"):
            read_state(file_of(content))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["net" + ending for ending in FILE_ENDINGS] + ["net", "net.model", "net.pth.tar.bak"])
def test_the_contents_decide_not_the_ending(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    for content in (safetensors.torch.save(STATE), file_of(STATE).content.tobytes()):
        file.write_bytes(content)
        assert set(read_state(read(file, "a file"), STATE)) == set(STATE)  # safetensors sorts them


def test_a_file_without_an_ending_is_a_file_unless_it_has_the_name_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("net", "none", "auto"):
        Path(name).write_bytes(b"x")

    assert [Wish(name).is_file for name in ("net", "none", "auto", "nowhere", "nowhere.ckpt")] == [
        *(True, False, False, False, True)
    ]


def test_a_checkpoint_of_ours_says_the_same_whatever_its_ending(tmp_path: Path) -> None:
    from bench.learning.checkpoint import to_safetensors
    from bench.learning.models.registry import MODELS

    spec = MODELS["cnn"].spec(ModelInput(image_size=20))
    (tmp_path / "best.ckpt").write_bytes(to_safetensors(spec.build(3), spec, ("a", "b", "c")))

    found = load_trained(read(tmp_path / "best.ckpt", "a file"))

    assert (found.class_names, found.spec.input.image_size) == (("a", "b", "c"), 20)


def test_a_state_dict_of_another_model_is_named_for_what_it_is() -> None:
    from torchvision.models import mobilenet_v2

    state = mobilenet_v2(num_classes=4).state_dict()

    with pytest.raises(UserError, match=r"it is of torchvision/mobilenet_v2, use --model torchvision/mobilenet_v2"):
        load_trained(file_of(state), "mobilenet")
    assert len(load_trained(file_of(state), "torchvision/mobilenet_v2").class_names) == 4
    with pytest.raises(UserError, match="do not fit cnn"):
        load_trained(file_of(nn.Linear(3, 4).state_dict()), "cnn")
