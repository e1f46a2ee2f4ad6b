"""Real back ends on real models: float ones agree with eager, int8 is measured, and one that fails stops no other."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from factories import built_in, weights_named
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.errors import UserError
from bench.learning import backends, timing
from bench.learning.backends import BACKENDS, backend, check_installed, onnxruntime_int8
from bench.learning.backends.deploy import TIE, answers, compared, deploy
from bench.learning.backends.protocol import Request
from bench.learning.checkpoint import Trained
from bench.learning.context import LocalContext
from bench.learning.data import datasets
from bench.learning.data.datasets import Split
from bench.learning.data.preprocessing import LARGEST_BATCH, as_inputs
from bench.learning.execute import Inputs, execute
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.build import build
from bench.learning.timing import Subject, time_models
from bench.spec import Job, ModelInput, Recipe

pytestmark = pytest.mark.heavy

FLOATS = ("compile", "onnxruntime", "openvino")
SLOW = pytest.mark.slow


@cache
def subject_of(model: str) -> Subject:
    data = datasets.load("mnist-5k")
    weights = weights_named("bundled", model)
    (run,) = Job(model=model, dataset=data.info, recipe=Recipe(epochs=1), input=built_in(model).input).runs()
    inputs = Inputs(data, weights)
    outcome = execute(run, inputs, LocalContext())
    assert outcome.checkpoint is not None
    return Subject(run, outcome.checkpoint, inputs)


@cache
def request_of(model: str) -> Request:
    import safetensors.torch

    subject = subject_of(model)
    data, spec = subject.inputs.dataset, built_in(model)
    module = build(spec, 10, subject.inputs.weights, 0)
    module.load_state_dict(safetensors.torch.load(subject.checkpoint))
    trained = Trained(module.eval(), spec, data.class_names, {})
    images = data.train.images
    return Request(trained, len(subject.checkpoint), images[:1], images[::8], (1, LARGEST_BATCH), "cpu", 1, "fp32")


@cache
def eager_logits(model: str) -> NDArray[np.float32]:
    test = subject_of(model).inputs.dataset.test
    _, _, logits = deploy("eager", request_of(model), "id", test, None)
    assert logits is not None
    return logits


@pytest.mark.parametrize("model", ["cnn", pytest.param("mobilenet", marks=SLOW)])
@pytest.mark.parametrize("name", FLOATS)
def test_float_back_ends_answer_every_test_image_like_eager(name: str, model: str) -> None:
    if name == "compile" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    test = subject_of(model).inputs.dataset.test

    row, prepared, logits = deploy(name, request_of(model), "id", test, eager_logits(model))

    assert row.status == "ok", row.reason
    assert (row.images, row.disagreements, row.precision, row.threads) == (len(test.labels), 0, "fp32", 1)
    assert row.largest_difference is not None
    assert row.largest_difference < 1e-3
    assert row.deployed_bytes == pytest.approx(request_of(model).checkpoint_bytes, rel=0.05)
    assert row.version is not None
    assert row.version.split()[0] in {"torch", "onnxruntime", "openvino"}
    assert prepared is not None
    assert logits is not None
    one = answers(prepared, as_inputs(test.images[:3]), 1)  # one image at a time gives the same
    assert np.abs(one - logits[:3]).max() < 1e-3


@pytest.mark.parametrize("model", ["cnn", pytest.param("mobilenet", marks=SLOW)])
def test_int8_is_measured_like_any_other(model: str) -> None:
    test = subject_of(model).inputs.dataset.test

    row, _, logits = deploy("onnxruntime-int8", request_of(model), "id", test, eager_logits(model))

    assert row.status == "ok", row.reason
    assert row.precision == "int8"
    assert logits is not None
    assert row.accuracy == (logits.argmax(1) == test.labels).mean()
    assert row.agreement == (logits.argmax(1) == eager_logits(model).argmax(1)).mean()
    if model == "cnn":
        assert row.agreement > 0.95
    assert row.deployed_bytes is not None
    assert row.deployed_bytes < 0.35 * request_of(model).checkpoint_bytes


def test_eager_is_the_plain_model() -> None:
    test = subject_of("cnn").inputs.dataset.test
    module = request_of("cnn").trained.module
    pixels = (torch.from_numpy(test.images.copy()).float() / 255 - 0.1307) / 0.3081

    with torch.inference_mode():
        expected = torch.cat([module(part) for part in pixels.split(LARGEST_BATCH)]).numpy()

    assert np.abs(eager_logits("cnn") - expected).max() < 1e-4


@pytest.mark.parametrize("size", [(40, 33), (28, 90), (20, 40), (20, 22)])
def test_colour_images_of_any_size_and_a_model_that_sees_grey(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (7, 3, *size), dtype=np.uint8)
    request = replace(request_of("cnn"), example=colour[:1], calibration=colour)
    test = Split(colour, np.zeros(7, np.int64))
    _, _, eager = deploy("eager", request, "id", test, None)

    for name in ("onnxruntime", "openvino"):
        row, _, _ = deploy(name, request, "id", test, eager)
        assert row.status == "ok", row.reason
        assert row.largest_difference is not None
        assert row.largest_difference < 1e-3


def test_calibration_never_sees_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[NDArray[np.uint8]] = []
    quantised = onnxruntime_int8.quantised

    def watched(content: bytes, images: NDArray[np.uint8]) -> bytes:
        seen.append(images)
        return quantised(content, images)

    monkeypatch.setattr(onnxruntime_int8, "quantised", watched)
    monkeypatch.setattr(timing, "ROUNDS", 1)
    monkeypatch.setattr(timing, "FEWEST_ROUNDS", 1)
    subject = subject_of("cnn")

    measured = time_models([subject], backends=["onnxruntime-int8"], device="cpu", threads=1)

    assert [row.status for row in measured.deployments] == ["ok", "ok"]
    assert {row.backend for row in measured.timings if row.kind == "inference"} == {"eager", "onnxruntime-int8"}
    data = subject.inputs.dataset
    (images,) = seen
    train, test = ({image.tobytes() for image in split.images} for split in (data.train, data.test))
    calibrated = {image.tobytes() for image in images}
    assert 100 < len(images) <= timing.MOST_CALIBRATION_IMAGES
    assert calibrated <= train
    assert not calibrated & test


def test_a_back_end_that_fails_is_a_row_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUNDS", 1)
    monkeypatch.setattr(timing, "FEWEST_ROUNDS", 1)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)

    measured = time_models([subject_of("cnn")], backends=["compile", "onnxruntime"], device="cpu", threads=1)

    eager, compiled, ran = measured.deployments
    assert (eager.status, compiled.status, ran.status) == ("ok", "failed", "ok")
    assert compiled.reason == "torch.compile needs a C++ compiler: g++ or clang++ is needed"
    assert {row.backend for row in measured.timings if row.kind == "inference"} == {"eager", "onnxruntime"}


def test_a_model_that_cannot_be_exported_says_so() -> None:
    class Random(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.sum() > 0:
                return images.flatten(1)[:, :10]
            return images.flatten(1)[:, 10:20]

    spec = ModelSpec("random", ModelInput(mean=(0.0,), std=(1.0,)), build=lambda classes: Random(), head=None)
    request = replace(request_of("cnn"), trained=Trained(Random(), spec, request_of("cnn").trained.class_names, {}))
    test = subject_of("cnn").inputs.dataset.test

    row, prepared, logits = deploy("onnxruntime", request, "id", test, eager_logits("cnn"))

    assert (row.status, prepared, logits) == ("failed", None, None)
    assert row.reason is not None
    assert row.reason.startswith("random cannot be exported to ONNX: ")


@pytest.mark.parametrize("name", [name for name in BACKENDS if name not in {"eager", "compile"}])
def test_a_missing_package_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = "openvino" if name == "openvino" else "onnxruntime"
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else find_spec(wanted))

    check_installed(["eager", "compile"])
    with pytest.raises(
        UserError, match=rf"--backends {name} needs the package {package}: pip install '.*\[backends\]'"
    ):
        check_installed(["eager", name])


def test_every_name_is_a_back_end() -> None:
    for name in BACKENDS:
        assert callable(backend(name).prepare)
    assert set(backends._PACKAGES) <= set(BACKENDS)


# --- how answers are compared --------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_counts_of_a_comparison_add_up(images: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    eager, other = (rng.normal(size=(images, classes)).astype(np.float32) for _ in range(2))

    row = compared(labels, eager, other)

    eager_right = int((eager.argmax(1) == labels).sum())
    assert row["correct"] - eager_right == row["only_this_right"] - row["only_eager_right"]
    assert row["accuracy"] == row["correct"] / images
    assert row["disagreements"] <= round(images * (1 - row["agreement"]))
    same = compared(labels, eager, eager)
    assert (same["agreement"], same["disagreements"], same["largest_difference"]) == (1, 0, 0)


def test_a_tie_of_eager_is_no_disagreement() -> None:
    eager = np.array([[1.0, 1.0 + TIE / 2, 0.0], [1.0, 1.0 + 2 * TIE, 0.0]], np.float32)
    other = np.array([[1.0, 0.9, 0.0], [1.0, 0.9, 0.0]], np.float32)

    row = compared(np.array([0, 1]), eager, other)

    assert (row["agreement"], row["disagreements"]) == (0, 1)
    assert (row["only_this_right"], row["only_eager_right"]) == (1, 1)
