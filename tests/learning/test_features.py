"""A frozen backbone run once: the same function, kept between runs, safe between processes."""

from __future__ import annotations

import copy
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from bench.learning import datasets, features
from bench.learning.build import build
from bench.learning.compiled import lanes
from bench.learning.context import LocalContext
from bench.learning.execute import Inputs, execute
from bench.learning.features import features_of, fold, usable
from bench.learning.models import MODELS
from bench.learning.preprocessing import DeviceSplit, Preprocessor
from bench.learning.training import evaluate, fit, on_features, on_images
from bench.learning.weights import find
from bench.spec import Job, Recipe

SPEC = MODELS.find("mobilenet")
WEIGHTS = find("bundled", "mobilenet", SPEC.sources)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def digits(images: int) -> DeviceSplit:
    train = datasets.load("mnist-5k").train
    every = slice(None, None, len(train.labels) // images)
    return DeviceSplit(torch.from_numpy(train.images[every].copy()), torch.from_numpy(train.labels[every].copy()))


@pytest.mark.parametrize("size", [32, 40, 96])
@pytest.mark.parametrize("count", [1, 50])
def test_folding_does_not_change_the_function(size: int, count: int) -> None:
    model = build(SPEC, 10, WEIGHTS, seed=0).eval()
    images = Preprocessor(replace(SPEC, input_size=size), "cpu")(digits(count).images)
    with torch.inference_mode():
        plain, folded = model(images), fold(model, SPEC)(images)
    assert torch.allclose(plain, folded, atol=1e-4)
    assert torch.allclose(plain, fold(model, SPEC)(images), atol=1e-4), "with gradients"
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fold(model, SPEC).modules())
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()), "the model itself stays as it was"


def test_inverted_residuals_add_what_they_are_given_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(SPEC, 10, WEIGHTS, seed=0).eval()
    images = Preprocessor(SPEC, "cpu")(digits(50).images)
    adding = fold(model, SPEC)
    monkeypatch.setattr(features, "_add_inside", lambda module: None)

    with torch.inference_mode():
        assert torch.equal(adding(images), fold(model, SPEC)(images))
    adds = sum(getattr(layer, "adds", False) for layer in adding.modules())
    assert adds == (9 if lanes() == 16 else 10), "24 outputs stay apart where 16 are computed at once"


def depthwise(channels: int, stride: int, *before: nn.Module) -> nn.Sequential:
    """As in an inverted residual: a layer, mostly with a ReLU6, then a depthwise convolution, batch-norm, ReLU6."""
    convolution = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
    norm = nn.BatchNorm2d(channels, eps=0.0)  # folded, it changes nothing, so that whole numbers stay whole
    return nn.Sequential(nn.Sequential(*before), nn.Sequential(convolution, norm, nn.ReLU6())).eval()


def assert_the_same(ours: nn.Module, plain: nn.Module, maps: torch.Tensor) -> None:
    """The same function of maps, and both refuse one channel more instead of reading beyond."""
    with torch.inference_mode():
        assert torch.equal(ours(maps), plain(maps))
    assert torch.equal(ours(maps), plain(maps)), "with gradients"
    _, inputs, height, width = maps.shape
    with torch.inference_mode(), pytest.raises(RuntimeError):
        ours(torch.zeros(1, inputs + 1, height, width))


class Residual(nn.Sequential):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + super().forward(maps)


def folded(network: nn.Sequential) -> nn.Module:
    model = nn.Module()
    model.features = copy.deepcopy(network)
    return features._folded(model.eval(), SPEC).get_submodule("features")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 5),
    channels=st.sampled_from([8, 16, 32, 48, 144]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    stride=st.sampled_from([1, 2]),
    before=st.sampled_from([(), (nn.Identity(),), (nn.Identity(), nn.ReLU6()), (Residual(nn.ReLU6()),)]),
    seed=st.integers(0, 100),
)
def test_a_depthwise_convolution_with_its_relu6_is_the_plain_layers(
    count: int, channels: int, height: int, width: int, stride: int, before: tuple[nn.Module, ...], seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    plain = depthwise(channels, stride, *before)
    with torch.no_grad():  # whole numbers, so that nothing is rounded in whatever order it is summed
        plain.get_parameter("1.0.weight").copy_(torch.randint(-2, 3, (channels, 1, 3, 3), generator=random).float())
    maps = torch.randint(-3, 10, (count, channels, height, width), generator=random).float()
    maps = maps.contiguous(memory_format=torch.channels_last)

    ours = folded(plain)
    with torch.inference_mode():
        assert torch.equal(ours(maps), plain(maps))
    assert isinstance(ours.get_submodule("1.2"), nn.Identity) == (channels % 16 == 0), "one layer where it can be"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 5),
    inputs=st.sampled_from([1, 3, 16, 24]),
    channels=st.sampled_from([8, 16, 32, 48, 144, 160]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    stride=st.sampled_from([1, 2]),
    norm=st.booleans(),
    outputs=st.sampled_from([None, 8, 12, 16, 24, 32, 64]),
    seed=st.integers(0, 100),
)
def test_an_inverted_residual_is_the_plain_layers(
    count: int,
    inputs: int,
    channels: int,
    height: int,
    width: int,
    stride: int,
    norm: bool,
    outputs: int | None,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    norms = [nn.BatchNorm2d(channels, eps=0.0)] if norm else []
    plain = depthwise(channels, stride, nn.Conv2d(inputs, channels, 1), *norms, nn.ReLU6())
    if outputs is not None:
        plain.append(nn.Conv2d(channels, outputs, 1)).eval()
    with torch.no_grad():  # whole numbers, so that nothing is rounded in whatever order it is summed
        for name in ("0.0.weight", "0.0.bias", "1.0.weight", *(("2.weight", "2.bias") if outputs else ())):
            weight = plain.get_parameter(name)
            weight.copy_(torch.randint(-2, 3, weight.shape, generator=random).float())
    maps = torch.randint(-3, 4, (count, inputs, height, width), generator=random).float()
    maps = maps.contiguous(memory_format=torch.channels_last)

    ours = folded(plain)
    assert_the_same(ours, plain, maps)
    assert isinstance(ours.get_submodule("0.0"), nn.Identity) == (channels % 16 == 0), "one layer where it can be"
    if outputs is not None and channels % 16 == 0:
        assert isinstance(ours.get_submodule("2"), nn.Identity) == (outputs % lanes() == 0), "that one, too"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 5),
    inputs=st.sampled_from([1, 3, 4, 5]),
    outputs=st.sampled_from([8, 16, 32, 48]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    stride=st.sampled_from([1, 2]),
    seed=st.integers(0, 100),
)
def test_the_first_convolution_with_its_relu6_is_the_plain_layers(
    count: int, inputs: int, outputs: int, height: int, width: int, stride: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=random).float())
    plain = nn.Sequential(first, nn.BatchNorm2d(outputs, eps=0.0), nn.ReLU6()).eval()
    maps = torch.randint(-3, 4, (count, inputs, height, width), generator=random).float()
    maps = maps.contiguous(memory_format=torch.channels_last)

    ours = folded(plain)
    assert_the_same(ours, plain, maps)
    assert isinstance(ours.get_submodule("2"), nn.Identity) == (inputs <= 4 and outputs % 16 == 0), (
        "one where it can be"
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 9),
    inputs=st.sampled_from([1, 3, 16, 320]),
    outputs=st.sampled_from([8, 12, 16, 48, 160]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 100),
)
def test_a_convolution_of_single_pixels_with_its_relu6_is_the_plain_layers(
    count: int, inputs: int, outputs: int, height: int, width: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    pointwise = nn.Conv2d(inputs, outputs, 1)
    with torch.no_grad():
        for parameter in pointwise.parameters():
            parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=random).float())
    plain = nn.Sequential(pointwise, nn.BatchNorm2d(outputs, eps=0.0), nn.ReLU6()).eval()
    maps = torch.randint(-3, 4, (count, inputs, height, width), generator=random).float()
    maps = maps.contiguous(memory_format=torch.channels_last)

    ours = folded(plain)
    assert_the_same(ours, plain, maps)
    assert isinstance(ours.get_submodule("2"), nn.Identity) == (outputs % lanes() == 0), "one where it can be"


def test_what_is_not_a_number_comes_out_of_a_depthwise_convolution() -> None:
    plain, maps = depthwise(16, 1, nn.ReLU6()), torch.zeros(1, 16, 5, 5)
    maps[0, 3, 2, 2] = float("nan")

    with torch.inference_mode():
        found = folded(plain)(maps)
        assert torch.equal(found.isnan(), plain(maps).isnan())
        assert int(found.isnan().sum()) == 9

        expanded = depthwise(16, 1, nn.Conv2d(16, 16, 1), nn.ReLU6())
        assert torch.equal(folded(expanded)(maps).isnan(), expanded(maps).isnan())
        first = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.Identity(), nn.ReLU6()).eval()
        assert torch.equal(folded(first)(maps[:, :4]).isnan(), first(maps[:, :4]).isnan())
        pointwise = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Identity(), nn.ReLU6()).eval()
        assert torch.equal(folded(pointwise)(maps).isnan(), pointwise(maps).isnan())


@pytest.mark.parametrize("size", [3, 4])
def test_in_bfloat16_a_depthwise_convolution_reads_what_is_there(size: int) -> None:
    torch.manual_seed(0)
    plain = depthwise(16, 1, nn.Conv2d(16, 16, 1), nn.ReLU6())
    maps = torch.rand(4, 16, size, size)

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = folded(plain)(maps)
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.float(), plain(maps).float(), atol=0.05)


def test_in_bfloat16_a_backbone_computes_in_bfloat16() -> None:
    model = build(SPEC, 10, WEIGHTS, seed=0).eval()
    images = Preprocessor(SPEC, "cpu")(digits(20).images)
    ours = fold(model, SPEC)

    with torch.inference_mode():
        exact = model.embed(images)
        with torch.autocast("cpu", torch.bfloat16):
            found, plain = ours.embed(images).float(), model.embed(images).float()

    near = 2 * float((plain - exact).norm())
    assert 0 < float((found - exact).norm()) < near, "rounded as PyTorch rounds"
    assert float((found - exact).norm()) > near / 10


class Watching(nn.Module):
    """A model that looks at what is between its backbone's layers, in one way or another."""

    def __init__(self, way: str) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU6()), depthwise(16, 1)[1]]
        self.features = Body(nn.Conv2d(3, 16, 1), *blocks)
        self.head = nn.Linear(16, 10)
        self.way = way
        if way == "hook":
            self.features[1].register_forward_hook(lambda _module, _inputs, found: found + 1)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        if self.way == "method":
            return self.features.pooled(images)
        between = []
        for block in self.features:
            images = block(images)
            between.append(images)
        return sum(maps.mean((2, 3)) for maps in (between if self.way == "between" else between[-1:]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(images))


class Body(nn.Sequential):
    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        return self(images).mean((2, 3))


@pytest.mark.parametrize("way", ["between", "hook", "method", "none"])
def test_a_model_that_looks_between_its_layers_gives_the_same(way: str) -> None:
    torch.manual_seed(0)
    model, spec = Watching(way).eval(), replace(SPEC, name=f"watching-{way}", input_size=9)
    images = torch.randn(4, 3, 9, 9)

    found = fold(model, spec)

    with torch.inference_mode():
        assert torch.allclose(found(images), model(images), atol=1e-5)
        assert torch.allclose(found.embed(images), model.embed(images), atol=1e-5)
    assert (found is model) == (way == "between"), "folded where that is the same"


def test_a_relu6_that_something_else_sees_stays() -> None:
    between = nn.Sequential(nn.Sequential(nn.Identity(), nn.ReLU6()), nn.Dropout(), depthwise(16, 1, nn.Identity())[1])

    kept = folded(between.eval())

    assert isinstance(kept.get_submodule("0.1"), nn.ReLU6)
    assert isinstance(kept.get_submodule("2.2"), nn.Identity)
    residual = nn.Sequential(Residual(nn.Conv2d(16, 16, 1), nn.ReLU6()), depthwise(16, 1)[1]).eval()
    assert isinstance(folded(residual).get_submodule("0.1"), nn.ReLU6)


def test_what_does_nothing_is_not_called_and_layers_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = build(SPEC, 10, WEIGHTS, seed=0).eval()
    brief = fold(plain, SPEC)
    images = Preprocessor(SPEC, "cpu")(digits(4).images)

    def called(*arguments: object) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(nn.Identity, "forward", called)
    with torch.inference_mode():
        brief(images)
    assert any(isinstance(layer, nn.Identity) for layer in brief.modules())
    assert len(brief.get_submodule("features")) == len(plain.get_submodule("features"))  # type: ignore[arg-type]


def test_the_head_learns_the_same_on_features_as_through_the_backbone() -> None:
    data, recipe = digits(200), Recipe(epochs=2)
    heads = []
    for use_features in (True, False):
        model = build(SPEC, 10, WEIGHTS, seed=3)
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0  # the two draw other random numbers
        if use_features:
            found = features_of(data, fold(model, SPEC), SPEC, data_key="some digits")
            trainee = on_features(model, SPEC, data, found.values)
        else:
            trainee = on_images(model, SPEC, data, "eval")
        fitted = fit(trainee, recipe, seed=3, run_id="run", context=LocalContext())
        heads.append((model, fitted))
    (one, fitted_one), (other, fitted_other) = heads
    assert fitted_one.epochs[-1].train_loss == pytest.approx(fitted_other.epochs[-1].train_loss, rel=1e-3)
    # Weights may differ by a learning rate where Adam divides a gradient of rounding errors by itself: compare answers.
    images = Preprocessor(SPEC, "cpu")(data.images)
    with torch.inference_mode():
        assert torch.allclose(one.eval()(images), other.eval()(images), atol=2e-2)


def test_features_are_used_only_where_they_are_the_same_function() -> None:
    assert usable(build(SPEC, 10, WEIGHTS, seed=0), SPEC, "eval")
    assert not usable(build(SPEC, 10, WEIGHTS, seed=0), SPEC, "train")
    assert not usable(build(SPEC, 10, None, seed=0), SPEC, "eval"), "without weights the backbone trains"
    cnn = MODELS.find("cnn")
    assert not usable(build(cnn, 10, None, seed=0), cnn, "eval")


def test_a_second_run_extracts_nothing(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, folded = digits(50), fold(build(SPEC, 10, WEIGHTS, seed=0), SPEC)
    shares: list[float] = []
    first = features_of(data, folded, SPEC, data_key="digits", report=shares.append)
    assert not first.cached
    assert first.seconds > 0
    assert shares[-1] == 1.0
    monkeypatch.setattr(features, "_extract", None)  # to call it would be an error
    second = features_of(data, fold(build(SPEC, 10, WEIGHTS, seed=1), SPEC), SPEC, data_key="digits")
    assert second.cached
    assert second.seconds == 0
    assert torch.equal(first.values, second.values)
    assert [file.suffix for file in own_cache.iterdir() if not file.name.startswith(".")] == [".npy"]


def test_other_data_or_another_backbone_are_other_features() -> None:
    data = digits(20)
    features_of(data, fold(build(SPEC, 10, WEIGHTS, seed=0), SPEC), SPEC, data_key="digits")
    other_data = features_of(data, fold(build(SPEC, 10, WEIGHTS, seed=0), SPEC), SPEC, data_key="other digits")
    other_backbone = features_of(data, fold(build(SPEC, 10, None, seed=0), SPEC), SPEC, data_key="digits")
    assert not other_data.cached
    assert not other_backbone.cached


def test_a_torn_file_in_the_cache_is_made_again(own_cache: Path) -> None:
    data, folded = digits(20), fold(build(SPEC, 10, WEIGHTS, seed=0), SPEC)
    first = features_of(data, folded, SPEC, data_key="digits").values.clone()
    (file,) = own_cache.glob("*.npy")
    file.write_bytes(file.read_bytes()[:1000])
    again = features_of(data, folded, SPEC, data_key="digits")
    assert not again.cached
    assert torch.equal(again.values, first)


def test_the_cache_keeps_to_its_size(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, folded = digits(20), fold(build(SPEC, 10, WEIGHTS, seed=0), SPEC)
    size = features_of(data, folded, SPEC, data_key="0").values.nbytes
    monkeypatch.setenv("BENCH_FEATURES_GB", str(2.5 * size / 1e9))
    for number in range(1, 5):
        features_of(data, folded, SPEC, data_key=str(number))
        files = list(own_cache.glob("*.npy"))
        assert sum(file.stat().st_size for file in files) <= 2.6 * size
    assert features_of(data, folded, SPEC, data_key="4").cached, "the latest stays"
    assert not features_of(data, folded, SPEC, data_key="0").cached, "the oldest went"


def test_a_cache_that_cannot_be_written_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file" / "cache"))
    data, folded = digits(20), fold(build(SPEC, 10, WEIGHTS, seed=0), SPEC)
    assert features_of(data, folded, SPEC, data_key="digits").values.shape == (20, 1280)


def _fill(barrier: object, results: object) -> None:
    torch.set_num_threads(1)
    data, folded = digits(50), fold(build(SPEC, 10, WEIGHTS, seed=0), SPEC)
    barrier.wait()  # type: ignore[attr-defined]
    found = features_of(data, folded, SPEC, data_key="digits")
    results.put((found.cached, float(found.values.double().sum())))  # type: ignore[attr-defined]


def test_two_processes_at_once_extract_once() -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=_fill, args=(barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(cached for cached, _ in found) == [False, True]
    assert found[0][1] == found[1][1]


def test_a_checkpoint_trained_on_features_evaluates_to_its_record(tmp_path: Path) -> None:
    data = datasets.load("synthetic")
    assert WEIGHTS is not None
    job = Job(model="mobilenet", dataset=data.info, recipe=Recipe(epochs=1), weights_sha256=WEIGHTS.sha256)
    (run,) = job.runs()
    outcome = execute(run, Inputs(data, WEIGHTS), LocalContext())
    assert outcome.record.features_cached is False
    assert outcome.record.train_seconds is not None
    assert outcome.record.feature_seconds is not None
    assert outcome.record.train_seconds > outcome.record.feature_seconds > 0
    file = tmp_path / "trained.safetensors"
    file.write_bytes(outcome.checkpoint or b"")
    again = evaluate(build(SPEC, 10, find(str(file), "mobilenet", {}), seed=9), SPEC, DeviceSplit.of(data.test, "cpu"))
    assert outcome.predictions is not None
    assert np.array_equal(again.predictions.predicted, outcome.predictions.predicted)
    assert again.accuracy == outcome.record.test_accuracy
    assert execute(run, Inputs(data, WEIGHTS), LocalContext()).record.features_cached is True
    assert os.environ["BENCH_CACHE"].startswith(str(tmp_path))
