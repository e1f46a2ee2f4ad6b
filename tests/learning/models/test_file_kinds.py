"""Files that are given as weights and hold something else: each is called what it is."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from bench.errors import UserError
from bench.learning.models import weights
from bench.learning.models.build import read_state

STATE = {"weight": torch.zeros(2, 3)}


def torchscript() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 3),)), buffer)
    return buffer.getvalue()


def state_dict() -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pt", torchscript, "is a TorchScript archive, a network with its code; save a state dict instead"),
        ("a.pth", exported, "is a program of torch.export; save a state dict instead"),
        ("a.safetensors", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7", "git lfs pull"),
        ("a.pth", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7", "git lfs pull"),
        ("a.pth", lambda: b"\n<!DOCTYPE html><html>404</html>", "is a web page: the download failed"),
        ("a.pth", lambda: gzip.compress(state_dict()), "is compressed by gzip; unpack it"),
        ("a.pth", array, "is a NumPy array"),
        ("a.pt", lambda: torchscript()[:300], "is not a PyTorch file or is damaged"),
        ("a.safetensors", lambda: safetensors.torch.save(STATE)[:20], "is not a safetensors file or is damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_another_kind_is_called_what_it_is(name: str, content: object, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content())  # type: ignore[operator]

    with pytest.raises(UserError) as refused:
        read_state(weights.read(tmp_path / name, "file"))

    assert words in str(refused.value)
    assert "weights_only" not in str(refused.value)


def test_a_state_dict_of_every_format_is_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "new.pth")
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(STATE, tmp_path / "it.safetensors")

    for name in ("new.pth", "old.pth", "it.safetensors"):
        assert list(read_state(weights.read(tmp_path / name, "file"))) == ["weight"]
