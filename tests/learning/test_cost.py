"""Parameters, multiply-accumulates and memory are what can be counted by hand."""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import CNN, MOBILENET
from torch import nn

from bench.learning import cost
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.build import build
from bench.spec import ModelInput, Record

CNN_MACS = 26 * 26 * 32 * 9 + 11 * 11 * 64 * 32 * 9 + 1600 * 128 + 128 * 10


def test_macs_of_the_cnn_are_those_counted_by_hand() -> None:
    model = build(CNN, 10, None, seed=0)

    assert cost.macs(model, CNN) == CNN_MACS
    assert cost.macs(model.to(memory_format=torch.channels_last), CNN) == CNN_MACS


def test_macs_are_those_of_one_image_at_the_models_input_size() -> None:
    spec = ModelSpec(
        "mine",
        ModelInput(image_size=16, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3),
        build=lambda classes: nn.Identity(),
        head=None,
    )
    model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2, groups=1), nn.Flatten(), nn.Linear(8 * 64, 4))

    assert cost.macs(model, spec) == 8 * 8 * 8 * 3 * 25 + 8 * 64 * 4


def test_counting_macs_leaves_no_trace() -> None:
    spec = MOBILENET
    model = build(spec, 10, None, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()

    cost.macs(model, spec)

    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_parameters_that_are_frozen_are_counted_apart() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)

    assert cost.parameters(model) == (8 + 8, 16 + 8 + 8)


@contextlib.contextmanager
def taken() -> Iterator[None]:
    """200 MB from the system itself: the allocator may have as much that an earlier test gave back."""
    with mmap.mmap(-1, 200_000_000) as block:
        for _ in range(200):
            block.write(b"1" * 1_000_000)
        yield


def test_the_peak_grows_with_what_is_allocated_and_stays_when_it_is_freed() -> None:
    memory = cost.PeakMemory("cpu")
    before = memory.megabytes()
    assert before is not None

    with taken():
        during = memory.megabytes()
    after = memory.megabytes()

    assert during is not None
    assert 195 < during - before < 260
    assert after == pytest.approx(during, abs=30)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell files apart")
def test_mapped_files_do_not_count(tmp_path: Path) -> None:
    content = np.zeros(200_000_000, np.uint8)
    content.tofile(tmp_path / "file")
    del content
    memory = cost.PeakMemory("cpu")
    before = memory.megabytes()
    mapped = np.memmap(tmp_path / "file", mode="r")
    assert mapped.sum() == 0
    assert memory.megabytes() < before + 100


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system forgets no peak")
def test_a_peak_from_before_is_not_remembered() -> None:
    first = cost.PeakMemory("cpu")
    with taken():
        pass
    before = first.megabytes()

    second = cost.PeakMemory("cpu")

    peak = second.megabytes()
    assert before is not None
    assert peak is not None
    assert peak < before - 150
    with taken():
        assert second.megabytes() == pytest.approx(peak + 200, abs=50)


def test_a_machine_is_described_with_columns_of_a_record() -> None:
    about = cost.machine("cpu", 3)

    assert set(about) <= set(Record.model_fields)
    assert (about["device"], about["threads"]) == ("cpu", 3)
    assert about["torch_version"] == torch.__version__
    assert about["python_version"] == ".".join(map(str, sys.version_info[:3]))
    assert all(value is not None for value in about.values())
