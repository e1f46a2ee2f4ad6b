"""Convolution, pooling and ReLU in one: PyTorch's function and gradients, whatever the shapes and the threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.learning import compiled, measure, pooled
from bench.learning.build import build
from bench.learning.models import MODELS
from bench.learning.pooled import conv_pool_relu

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="this machine has no C compiler")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def plain(conv: nn.Conv2d, images: Tensor) -> Tensor:
    return F.relu(F.max_pool2d(conv(images), 2))


def test_with_a_compiler_there_are_kernels() -> None:
    """What is compared below is not PyTorch with itself."""
    assert (compiled.kernels() is not None) == (shutil.which("cc") is not None)


def learn(function: object, conv: nn.Conv2d, images: Tensor, gradient: Tensor) -> list[Tensor]:
    """What it answers, and the gradients of weight, bias and, where they are wanted, images."""
    images = images.detach().requires_grad_(images.requires_grad)
    conv.zero_grad()
    answer = function(conv, images)  # type: ignore[operator]
    answer.backward(gradient)
    return [part for part in (answer, conv.weight.grad, conv.bias.grad, images.grad) if part is not None]  # type: ignore[union-attr]


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 19),
    channels=st.sampled_from([1, 1, 2, 3, 16, 32, 33]),
    outputs=st.integers(1, 40) | st.sampled_from([48, 64, 80]),
    height=st.integers(4, 15),
    width=st.integers(4, 15),
    seed=st.integers(0, 1000),
    channels_last=st.booleans(),
)
def test_it_is_pytorchs_function_with_pytorchs_gradients(
    batch: int, channels: int, outputs: int, height: int, width: int, seed: int, channels_last: bool
) -> None:
    random = torch.Generator().manual_seed(seed)

    def whole(*shape: int) -> Tensor:
        """Whole numbers, so that nothing is rounded in whatever order it is summed, and many are equal."""
        return torch.randint(-3, 4, shape, generator=random).float()

    layout = torch.channels_last if channels_last else torch.contiguous_format
    conv = nn.Conv2d(channels, outputs, 3).to(memory_format=layout)  # type: ignore[call-overload]
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(whole(*parameter.shape))
    images = whole(batch, channels, height, width).contiguous(memory_format=layout).requires_grad_(channels > 1)
    gradient = whole(batch, outputs, (height - 2) // 2, (width - 2) // 2)

    expected = learn(plain, conv, images, gradient)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert pooled._suits(conv, images)
        for ours, theirs in zip(learn(conv_pool_relu, conv, images, gradient), expected, strict=True):
            assert torch.equal(ours, theirs)


@needs_compiler
@pytest.mark.parametrize("channels", [1, 32])
def test_the_gradients_do_not_depend_on_the_number_of_threads(channels: int) -> None:
    conv = nn.Conv2d(channels, 48, 3)
    images = torch.randn(21, channels, 13, 13, requires_grad=channels > 1)
    gradient = torch.randn(21, 48, 5, 5)

    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(learn(conv_pool_relu, conv, images, gradient)[1:])

    assert all(torch.equal(one, other) for more in found[1:] for one, other in zip(found[0], more, strict=True))


@needs_compiler
@pytest.mark.parametrize("channels", [1, 16])
@pytest.mark.parametrize("outputs", [4, 16])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_a_number_shows(channels: int, outputs: int, broken: float) -> None:
    conv = nn.Conv2d(channels, outputs, 3)
    with torch.no_grad():
        conv.weight[2, 0, 1, 1] = broken
    images = torch.rand(8, channels, 9, 9) - 0.5

    with torch.inference_mode():
        assert torch.equal(conv_pool_relu(conv, images).isfinite(), plain(conv, images).isfinite())


@needs_compiler
@pytest.mark.parametrize("channels", [1, 16])
@pytest.mark.parametrize("outputs", [2, 16])
def test_of_equal_values_the_first_gets_the_gradient_and_nothing_flows_through_zero(
    channels: int, outputs: int
) -> None:
    conv = nn.Conv2d(channels, outputs, 3)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.bias.copy_(torch.tensor([0.5, -9.0 * channels] * (outputs // 2)))  # type: ignore[union-attr]
    images = torch.ones(1, channels, 6, 6, requires_grad=channels > 1)
    gradient = torch.ones(1, outputs, 2, 2)

    ours, theirs = (learn(function, conv, images, gradient) for function in (conv_pool_relu, plain))

    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@needs_compiler
@pytest.mark.parametrize(("channels", "outputs", "size"), [(16, 64, 8), (32, 64, 13), (32, 48, 30)])
def test_winograds_convolution_rounds_like_the_plain_one(channels: int, outputs: int, size: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, outputs, 3)
    images = torch.randn(5, channels, size, size)
    with torch.inference_mode():
        ours, theirs = conv_pool_relu(conv, images), plain(conv, images)
        exact = plain(conv.double(), images.double())

    assert not torch.equal(ours, theirs), "it is another way to compute it"
    assert (ours - exact).norm() < 4 * (theirs - exact).norm()


class Doubling(nn.Conv2d):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


@pytest.mark.parametrize(
    ("conv", "grey_gradient"),
    [
        (nn.Conv2d(2, 3, 3, padding=1), False),
        (nn.Conv2d(2, 3, 3, stride=2), False),
        (nn.Conv2d(2, 3, 3, dilation=2), False),
        (nn.Conv2d(2, 2, 3, groups=2), False),
        (nn.Conv2d(2, 3, 5), False),
        (nn.Conv2d(2, 3, 3, bias=False), False),
        (nn.Conv2d(2, 3, 3, dtype=torch.float64), False),
        (nn.Conv2d(1, 3, 3), True),
        (Doubling(2, 3, 3), False),
    ],
    ids=str,
)
def test_other_convolutions_are_pytorchs(conv: nn.Conv2d, grey_gradient: bool) -> None:
    images = torch.randn(2, conv.in_channels, 10, 10, dtype=conv.weight.dtype, requires_grad=grey_gradient)

    answer = conv_pool_relu(conv, images)
    answer.sum().backward()

    assert torch.equal(answer, plain(conv, images))
    assert conv.weight.grad is not None
    assert (images.grad is not None) == grey_gradient


def test_the_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        conv_pool_relu(nn.Conv2d(3, 8, 3), torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("inputs", [1, 16])
@pytest.mark.parametrize("outputs", [8, 16])
def test_in_bfloat16_all_of_it_is_pytorchs(inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, 3)
    images, gradient = torch.randn(64, inputs, 9, 9, requires_grad=inputs > 1), torch.ones(64, outputs, 3, 3)

    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (learn(function, conv, images, gradient) for function in (conv_pool_relu, plain))

    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@needs_compiler
def test_macs_are_those_of_the_plain_operators_and_learning_leaves_out_what_is_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = MODELS["cnn"]
    model = build(spec, 10, None, seed=0)
    first, second, hidden, last = 26 * 26 * 32 * 9, 11 * 11 * 64 * 32 * 9, 1600 * 128, 128 * 10

    compiled_macs, learning = measure.macs(model, spec), measure.training_macs(model, spec)
    monkeypatch.setattr(compiled, "kernels", lambda: None)

    assert measure.macs(model, spec) == compiled_macs == first + second + hidden + last
    # of the second convolution's 121 values 100 are pooled, to 25, of which ReLU lets half through
    # the last layer's gradients are made in a loop that is not counted
    assert learning == 2 * first + second + 2 * (25 * 64 * 32 * 9) // 2 + 3 * hidden + last
    assert learning < 0.5 * measure.training_macs(model, spec)


# --- compiling ----------------------------------------------------------------------------------------------------

_USED = """
import torch
from bench.learning import measure
from bench.learning.compiled import kernels
from bench.learning.pooled import conv_pool_relu

kernels()
with torch.inference_mode():
    conv_pool_relu(torch.nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 6, 6))
print(measure.machine("cpu", 1)["kernels"])
"""


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    own = {**os.environ, "BENCH_CACHE": str(cache), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", _USED], cwd=ROOT, env=own, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def answer(started: subprocess.Popen[str]) -> str:
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    return out.strip()


def logging_compiler(folder: Path, first: str = "") -> tuple[str, Path]:
    """(a C compiler, the file with a line for each time it was called)."""
    script, log = folder / "cc", folder / "log"
    script.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{first}\nexec {shutil.which("cc")} "$@"\n')
    script.chmod(0o755)
    return str(script), log


@needs_compiler
def test_two_processes_at_once_compile_once(tmp_path: Path) -> None:
    compiler, log = logging_compiler(tmp_path)
    both = [start(tmp_path, CC=compiler), start(tmp_path, CC=compiler)]

    assert [answer(one) for one in both] == ["compiled", "compiled"]
    assert answer(start(tmp_path, CC=compiler)) == "compiled"

    assert len(log.read_text().splitlines()) == 1
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 1
    assert not list((tmp_path / "kernels").glob(".partial-*"))


@needs_compiler
def test_a_torn_library_is_compiled_again(tmp_path: Path) -> None:
    compiler, log = logging_compiler(tmp_path)
    assert answer(start(tmp_path, CC=compiler)) == "compiled"
    (library,) = (tmp_path / "kernels").glob("*.so")
    library.write_bytes(library.read_bytes()[:40])

    assert answer(start(tmp_path, CC=compiler)) == "compiled"
    assert len(log.read_text().splitlines()) == 2


@needs_compiler
def test_a_compiler_that_was_killed_leaves_nothing(tmp_path: Path) -> None:
    """It is not taken for one that does not know its options, whose slower library would stay."""
    compiler, log = logging_compiler(tmp_path, 'case "$*" in *kernels.c*) kill -9 $$;; esac')

    assert answer(start(tmp_path, CC=compiler)) == "PyTorch"

    assert not list((tmp_path / "kernels").glob("*.so"))
    assert len(log.read_text().splitlines()) == 2  # the second asked whether it knows its options


@pytest.mark.parametrize("compiler", ["", "no-such-compiler", "false", "cc 'torn"])
def test_without_a_compiler_all_works(tmp_path: Path, compiler: str) -> None:
    assert answer(start(tmp_path, CC=compiler)) == "PyTorch"


def test_a_cache_that_cannot_be_written_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert answer(start(tmp_path / "file")) == "PyTorch"


@needs_compiler
def test_a_compiler_without_openmp_will_do(tmp_path: Path) -> None:
    compiler, log = logging_compiler(tmp_path, "for option; do case $option in -fopenmp) exit 1;; esac; done")

    assert answer(start(tmp_path / "cache", CC=f"{compiler} -DNOTHING")) == "compiled"

    used = [line.split() for line in log.read_text().splitlines()]
    assert all("-DNOTHING" in line for line in used)
    assert "-fopenmp" in used[0]
    assert "-fopenmp" not in used[-1]


@needs_compiler
def test_memory_that_the_loops_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        compiled.call("pool", torch.zeros(4, 4).T[::2], 1)
    with pytest.raises(ValueError, match="types that it knows"):
        compiled.call("pool", torch.zeros(4, 4, dtype=torch.bfloat16), 1)


def test_parts_are_as_many_in_both_files() -> None:
    source = (ROOT / "bench/learning/kernels.c").read_text()

    assert f"PARTS = {compiled.PARTS}" in source
