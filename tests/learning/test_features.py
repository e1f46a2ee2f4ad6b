"""A frozen backbone run once: the same function, kept between runs, safe between processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import CNN, weights_named
from factories import MOBILENET as SPEC
from torch import nn

from bench.learning import features
from bench.learning.context import LocalContext
from bench.learning.data import datasets
from bench.learning.data.preprocessing import DeviceSplit, Preprocessor
from bench.learning.evaluation import evaluate
from bench.learning.execute import Inputs, execute
from bench.learning.features import embedding_of, features_of, fold
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.build import build
from bench.learning.models.heads import without_head
from bench.learning.training import fit, on_features, on_images
from bench.spec import Job, ModelInput, Recipe

WEIGHTS = weights_named("bundled", "mobilenet")

pytestmark = pytest.mark.heavy


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def digits(images: int) -> DeviceSplit:
    train = datasets.load("mnist-5k").train
    every = slice(None, None, len(train.labels) // images)
    return DeviceSplit(torch.from_numpy(train.images[every].copy()), torch.from_numpy(train.labels[every].copy()))


def embedded(model: nn.Module, spec: ModelSpec = SPEC) -> nn.Module:
    """The frozen backbone of a model whose head can be trained on features."""
    embedding = embedding_of(model, spec, "eval")
    assert embedding is not None
    return embedding


def features_by_hand(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What mobilenet's backbone makes of its input, with its batch-norm layers as they are."""
    return model.eval().features(images).mean((2, 3))


@pytest.mark.parametrize("size", [32, 40, 96])
@pytest.mark.parametrize("count", [1, 50])
def test_folding_does_not_change_the_features(size: int, count: int) -> None:
    model = build(SPEC, 10, WEIGHTS, seed=0)
    images = Preprocessor(SPEC.input.model_copy(update={"image_size": size}), "cpu")(digits(count).images)

    folded = fold(embedded(model), SPEC)

    with torch.inference_mode():
        assert torch.allclose(folded(images), features_by_hand(model, images), atol=1e-4)
    assert not folded.training
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()) == 52, "the model stays as it was"


def test_in_bfloat16_a_folded_backbone_computes_in_bfloat16() -> None:
    model = build(SPEC, 10, WEIGHTS, seed=0)
    images = Preprocessor(SPEC.input, "cpu")(digits(20).images)
    folded = fold(embedded(model), SPEC)

    with torch.inference_mode():
        exact = features_by_hand(model, images)
        with torch.autocast("cpu", torch.bfloat16):
            features, plain = folded(images).float(), features_by_hand(model, images).float()

    near = 2 * float((plain - exact).norm())
    assert 0 < float((features - exact).norm()) < near, "rounded as PyTorch rounds"
    assert float((features - exact).norm()) > near / 10


class Body(nn.Sequential):
    """A backbone that has more than a forward()."""

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        return self(images).mean((2, 3))


class Brighter(nn.Module):
    """A layer that cannot be traced: what it does depends on what it sees."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + 1 if images.sum() > 0 else images


class Mine(nn.Module):
    """A user's model, whose backbone is written or used in one way or another."""

    def __init__(self, way: str) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU6()) for _ in range(2)]
        self.features = Body(nn.Conv2d(3, 16, 1), *blocks, *([Brighter()] if way == "untraceable" else []))
        self.head = nn.Linear(16, 10)
        self.way = way
        if way == "hook on a block":
            self.features[1].register_forward_hook(lambda _module, _inputs, maps: maps + 1)
        if way == "hook on a norm":
            self.features[1][1].register_forward_hook(lambda _module, _inputs, maps: maps + 1)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        if self.way == "branch" and images.sum() > 0:
            images = images + 1
        if self.way == "method":
            return self.features.pooled(images)
        if self.way == "block by block":
            for block in self.features:
                images = block(images)
            return images.mean((2, 3))
        return self.features(images).mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(images))


@pytest.mark.parametrize(
    ("way", "folds"),
    [
        ("called", True),
        ("hook on a block", True),
        ("hook on a norm", False),
        ("method", True),
        ("block by block", True),
        ("branch", False),
        ("untraceable", False),
    ],
)
def test_a_users_backbone_is_folded_only_where_it_gives_the_same(way: str, folds: bool) -> None:
    torch.manual_seed(0)
    form = SPEC.input.model_copy(update={"image_size": 9})
    model, spec = Mine(way), replace(SPEC, name="mine", head="head", input=form)
    with torch.no_grad():
        for _ in range(3):  # statistics that are not those of no batch at all
            model.train()(torch.randn(8, 3, 9, 9))
    images = torch.randn(4, 3, 9, 9)
    for parameter in model.features.parameters():
        parameter.requires_grad_(False)

    folded = fold(embedded(model, spec), spec)

    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert norms == (0 if folds else 2)
    with torch.inference_mode():
        assert torch.allclose(folded(images), model.eval().embed(images), atol=1e-5)
        assert torch.allclose(model.head(folded(images)), model(images), atol=1e-5)


def test_a_backbone_that_gives_what_is_no_number_stays_as_it_is() -> None:
    model = build(SPEC, 10, WEIGHTS, seed=0)
    with torch.no_grad():
        model.get_parameter("features.0.0.weight")[0] = float("nan")

    embedding = without_head(model, "classifier")

    assert fold(embedding, SPEC) is embedding


def test_the_head_learns_the_same_on_features_as_through_the_backbone() -> None:
    data, recipe = digits(200), Recipe(epochs=2)
    heads = []
    for use_features in (True, False):
        model = build(SPEC, 10, WEIGHTS, seed=3)
        if use_features:
            found = features_of(data, embedded(model), SPEC, data_key="some digits")
            trainee = on_features(model, SPEC, data, found.values)
        else:
            trainee = on_images(model, SPEC, data, "eval")
        fitted = fit(trainee, recipe, seed=3, run_id="run", context=LocalContext())
        heads.append((model, fitted))
    (one, fitted_one), (other, fitted_other) = heads
    assert fitted_one.epochs[-1].train_loss == pytest.approx(fitted_other.epochs[-1].train_loss, rel=1e-3)
    # Weights may differ by a learning rate where Adam divides a gradient of rounding errors by itself: compare answers.
    images = Preprocessor(SPEC.input, "cpu")(data.images)
    with torch.inference_mode():
        assert torch.allclose(one.eval()(images), other.eval()(images), atol=2e-2)


def test_features_are_used_only_where_they_are_the_same_function() -> None:
    assert embedding_of(build(SPEC, 10, WEIGHTS, seed=0), SPEC, "eval") is not None
    assert embedding_of(build(SPEC, 10, WEIGHTS, seed=0), SPEC, "train") is None
    assert embedding_of(build(SPEC, 10, WEIGHTS, seed=0, trainable="all"), SPEC, "eval") is None
    assert embedding_of(build(SPEC, 10, None, seed=0), SPEC, "eval") is None, "without weights the backbone trains"
    assert embedding_of(build(SPEC, 10, WEIGHTS, seed=0), replace(SPEC, head=None), "eval") is None
    assert embedding_of(build(CNN, 10, None, seed=0), CNN, "eval") is None


class Behind(nn.Module):
    """A model that computes something behind its last linear layer, or gives it something else than features."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(8, 10)
        self.what = what

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images).mean((2, 3))
        if self.what == "scales":
            return 2 * self.head(features)
        if self.what == "twice":
            return self.head(features) + self.head(features.flip(1))
        if self.what == "skips":
            return self.head(features) + images.mean((1, 2, 3))[:, None]
        return self.head(features)


@pytest.mark.parametrize(("what", "can"), [("nothing", True), ("scales", False), ("twice", False), ("skips", False)])
def test_a_model_that_computes_something_behind_its_head_is_trained_on_images(what: str, can: bool) -> None:
    model, spec = Behind(what), replace(CNN, name="mine", head="head")
    for parameter in model.body.parameters():
        parameter.requires_grad_(False)

    assert (embedding_of(model, spec, "eval") is not None) == can


def test_a_model_that_is_all_head_is_trained_on_images() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    assert embedding_of(model, ModelSpec("mine", ModelInput(), lambda classes: model, head="1"), "eval") is None


def test_a_second_run_extracts_nothing(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = digits(50), embedded(build(SPEC, 10, WEIGHTS, seed=0))
    shares: list[float] = []
    first = features_of(data, model, SPEC, data_key="digits", report=shares.append)
    assert not first.cached
    assert first.seconds > 0
    assert shares[-1] == 1.0
    monkeypatch.setattr(features, "_extract", None)  # to call it would be an error
    second = features_of(data, embedded(build(SPEC, 10, WEIGHTS, seed=1)), SPEC, data_key="digits")
    assert second.cached
    assert second.seconds == 0
    assert torch.equal(first.values, second.values)
    assert [file.suffix for file in own_cache.iterdir() if not file.name.startswith(".")] == [".npy"]


def test_features_that_another_user_could_have_put_there_are_not_used(own_cache: Path) -> None:
    data, model = digits(50), embedded(build(SPEC, 10, WEIGHTS, seed=0))
    expected = features_of(data, model, SPEC, data_key="digits").values.clone()
    (kept,) = own_cache.glob("*.npy")
    np.save(kept, np.zeros(expected.shape, np.float32))
    assert not features_of(data, model, SPEC, data_key="digits").values.any(), "a trusted cache is used"

    for place in (own_cache, own_cache.parent):
        place.chmod(0o777)
        again = features_of(data, model, SPEC, data_key="digits")
        assert not again.cached
        assert torch.equal(expected, again.values)
        place.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(kept, 12345, 12345)
        assert not features_of(data, model, SPEC, data_key="digits").cached


def test_other_data_or_another_backbone_are_other_features() -> None:
    data = digits(20)
    embedding = embedded(build(SPEC, 10, WEIGHTS, seed=0))
    features_of(data, embedding, SPEC, data_key="digits")
    other_data = features_of(data, embedding, SPEC, data_key="other digits")
    other_backbone = features_of(
        data, without_head(build(SPEC, 10, None, seed=0), "classifier"), SPEC, data_key="digits"
    )
    form = SPEC.input.model_copy(update={"crop": 0.875})
    other_pictures = features_of(data, embedding, replace(SPEC, input=form), data_key="digits")
    assert not other_data.cached
    assert not other_backbone.cached
    assert not other_pictures.cached


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_what_may_round_differently_is_extracted_anew() -> None:
    """Otherwise a run's weights would depend on who filled the cache."""
    data, model = digits(20), embedded(build(SPEC, 10, WEIGHTS, seed=0))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for precision in ("fp32", "bf16"):
            assert not features_of(data, model, SPEC, data_key="digits", precision=precision).cached
            assert features_of(data, model, SPEC, data_key="digits", precision=precision).cached


def test_a_torn_file_in_the_cache_is_made_again(own_cache: Path) -> None:
    data, model = digits(20), embedded(build(SPEC, 10, WEIGHTS, seed=0))
    first = features_of(data, model, SPEC, data_key="digits").values.clone()
    (file,) = own_cache.glob("*.npy")
    file.write_bytes(file.read_bytes()[:1000])
    again = features_of(data, model, SPEC, data_key="digits")
    assert not again.cached
    assert torch.equal(again.values, first)


def test_the_cache_keeps_to_its_size(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = digits(20), embedded(build(SPEC, 10, WEIGHTS, seed=0))
    size = features_of(data, model, SPEC, data_key="0").values.nbytes
    monkeypatch.setenv("BENCH_FEATURES_GB", str(2.5 * size / 1e9))
    for number in range(1, 5):
        features_of(data, model, SPEC, data_key=str(number))
        files = list(own_cache.glob("*.npy"))
        assert sum(file.stat().st_size for file in files) <= 2.6 * size
    assert features_of(data, model, SPEC, data_key="4").cached, "the latest stays"
    assert not features_of(data, model, SPEC, data_key="0").cached, "the oldest went"


def test_a_cache_that_cannot_be_written_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file" / "cache"))
    data, model = digits(20), embedded(build(SPEC, 10, WEIGHTS, seed=0))
    assert features_of(data, model, SPEC, data_key="digits").values.shape == (20, 1280)


def _fill(barrier: object, results: object) -> None:
    torch.set_num_threads(1)
    data, model = digits(50), embedded(build(SPEC, 10, WEIGHTS, seed=0))
    barrier.wait()  # type: ignore[attr-defined]
    found = features_of(data, model, SPEC, data_key="digits")
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
    job = Job(model="mobilenet", dataset=data.info, recipe=Recipe(epochs=1), input=SPEC.input)
    (run,) = job.model_copy(update={"weights_sha256": WEIGHTS.sha256}).runs()
    outcome = execute(run, Inputs(data, WEIGHTS), LocalContext())
    assert outcome.measured.features_cached is False
    assert outcome.measured.train_seconds is not None
    assert outcome.measured.feature_seconds is not None
    assert outcome.measured.train_seconds > outcome.measured.feature_seconds > 0
    file = tmp_path / "trained.safetensors"
    file.write_bytes(outcome.checkpoint or b"")
    model = build(SPEC, 10, weights_named(str(file), "mobilenet"), seed=9).to(memory_format=torch.channels_last)
    again = evaluate(model, SPEC, DeviceSplit.of(data.test, "cpu"))
    assert outcome.predictions is not None
    assert np.array_equal(again.predictions.predicted, outcome.predictions.predicted)
    assert again.accuracy == outcome.measured.test_accuracy
    assert execute(run, Inputs(data, WEIGHTS), LocalContext()).measured.features_cached is True
    assert os.environ["BENCH_CACHE"].startswith(str(tmp_path))
