"""Training is what it claims: reproducible bit for bit, every image once, the same however it is shared out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from factories import CNN as SPEC
from factories import MOBILENET
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.learning import evaluation
from bench.learning.context import LocalContext
from bench.learning.data.datasets import Dataset
from bench.learning.data.preprocessing import DeviceSplit, Preprocessor
from bench.learning.evaluation import Evaluation, evaluate
from bench.learning.execute import Inputs, execute
from bench.learning.fit_state import EpochResult, FitState
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.build import build
from bench.learning.models.cnn import CNN
from bench.learning.models.weights import Weights
from bench.learning.training import DivergedError, batches_of, epoch_order, fit, on_features, on_images
from bench.spec import Job, Outcome, Predictions, Progress, Recipe

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a machine that is shared with others, two threads that wait for each other are much slower than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some(dataset: Dataset, images: int) -> DeviceSplit:
    return DeviceSplit(torch.from_numpy(dataset.train.images[:images]), torch.from_numpy(dataset.train.labels[:images]))


def fit_images(
    model: nn.Module, spec: ModelSpec, data: DeviceSplit, recipe: Recipe, *, seed: int, run_id: str, context: Any
) -> FitState:
    """Train through the whole model."""
    return fit(on_images(model, spec, data, recipe.bn_mode), recipe, seed=seed, run_id=run_id, context=context)


def weights_after(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# --- the order of images ------------------------------------------------------------------------------------------


@given(images=st.integers(1, 3000), seed=st.integers(0, 2**31 - 1), epoch=st.integers(1, 10_000))
def test_an_epochs_order_has_each_image_once_and_depends_on_nothing_else(images: int, seed: int, epoch: int) -> None:
    first = epoch_order(images, seed, epoch)
    torch.rand(3)  # the global generator makes no difference

    assert torch.equal(epoch_order(images, seed, epoch), first)
    assert torch.equal(first.sort().values, torch.arange(images))


@given(
    one=st.tuples(st.integers(0, 1000), st.integers(1, 1000)),
    other=st.tuples(st.integers(0, 1000), st.integers(1, 1000)),
)
def test_another_seed_or_epoch_has_another_order(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert torch.equal(epoch_order(100, *one), epoch_order(100, *other)) == (one == other)


@given(images=st.integers(1, 500), size=st.integers(1, 100))
def test_a_single_last_image_joins_the_batch_before(images: int, size: int) -> None:
    """Batch-norm layers refuse one image in training, which has no variance."""
    order = torch.randperm(images)

    batches = batches_of(order, size)

    assert torch.equal(torch.cat(batches), order)
    assert {len(batch) for batch in batches[:-1]} <= {size}
    if size > 1 and images > 1:
        assert all(2 <= len(batch) <= size + 1 for batch in batches)
    if images % size != 1 or size == 1:
        assert [len(batch) for batch in batches] == [len(batch) for batch in torch.split(order, size)]


def test_a_network_with_batch_norm_trains_on_a_number_of_images_that_leaves_one(tiny: Dataset) -> None:
    spec = dataclasses.replace(SPEC, name="mine", head=None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    seen = count_training_images(model)

    recipe = Recipe(epochs=2, batch_size=16, schedule="cosine")
    state = fit_images(model, spec, some(tiny, 33), recipe, seed=0, run_id="a", context=LocalContext())

    assert [len(batch) for batch in seen] == [16, 17, 16, 17]
    assert len(state.epochs) == 2


# --- the networks -------------------------------------------------------------------------------------------------


def test_the_cnn_is_the_published_network() -> None:
    model = CNN(10).eval()
    images = torch.randn(16, 1, 28, 28)

    x = F.max_pool2d(F.relu(model.conv1(images)), 2)
    x = F.max_pool2d(F.relu(model.conv2(x)), 2)

    assert torch.equal(model(images), model.fc2(F.relu(model.fc1(x.flatten(1)))))


# --- frozen backbones ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone(tiny: Dataset) -> Weights:
    """Weights for mobilenet's backbone, as a file would give them; with statistics of images, so that they say much."""
    features = build(MOBILENET, 10, None, seed=9).get_submodule("features").train()
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        features(Preprocessor(MOBILENET.input, "cpu")(some(tiny, 64).images))
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    content = np.frombuffer(safetensors.torch.save(state), dtype=np.uint8)
    return Weights("mine", "0" * 64, "mine.safetensors", content)


@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_a_frozen_backbone_does_not_change_but_for_statistics_in_training_mode(
    bn_mode: Any, backbone: Weights, tiny: Dataset
) -> None:
    model = build(MOBILENET, 10, backbone, seed=0)
    before = weights_after(model)

    recipe = Recipe(epochs=1, batch_size=32, bn_mode=bn_mode)
    fit_images(model, MOBILENET, some(tiny, 96), recipe, seed=0, run_id="a", context=LocalContext())

    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    head = {name for name in before if name.startswith("classifier.")}
    statistics = {name for name in before if name.rsplit(".", 1)[1] in ("running_mean", "running_var")}
    counters = {name for name in before if name.endswith("num_batches_tracked")}
    assert changed - counters == (head if bn_mode == "eval" else head | statistics)
    assert changed & counters == (set() if bn_mode == "eval" else counters)
    assert {name for name, value in model.named_parameters() if value.grad is not None} == head


def features_by_hand(model: nn.Module, data: DeviceSplit) -> Tensor:
    """What a frozen backbone makes of the images, with its batch-norm layers as they are."""
    model.eval()
    with torch.no_grad():
        return model.features(Preprocessor(MOBILENET.input, "cpu")(data.images)).mean((2, 3))


def test_a_head_trained_on_features_is_the_one_trained_through_the_backbone(backbone: Weights, tiny: Dataset) -> None:
    data, recipe = some(tiny, 72), Recipe(epochs=2, batch_size=16)
    through, on_top = (build(MOBILENET, 10, backbone, seed=0) for _ in range(2))
    before = through.state_dict()["classifier.1.weight"].clone()

    images = fit_images(through, MOBILENET, data, recipe, seed=0, run_id="a", context=LocalContext())
    trainee = on_features(on_top, MOBILENET, data, features_by_hand(on_top, data))
    features = fit(trainee, recipe, seed=0, run_id="a", context=LocalContext())

    for name, value in through.state_dict().items():
        torch.testing.assert_close(on_top.state_dict()[name], value, rtol=0, atol=1e-4)
    assert (through.state_dict()["classifier.1.weight"] - before).abs().max() > 1e-3
    assert [epoch.train_loss for epoch in features.epochs] == pytest.approx(
        [epoch.train_loss for epoch in images.epochs], rel=1e-4
    )


def test_a_head_trained_on_features_goes_on_to_the_same_bits(backbone: Weights, tiny: Dataset) -> None:
    data, recipe = some(tiny, 40), Recipe(epochs=3, batch_size=16)

    def head_after(context: LocalContext) -> dict[str, Tensor]:
        model = build(MOBILENET, 10, backbone, seed=0)
        trainee = on_features(model, MOBILENET, data, features_by_hand(model, data))
        fit(trainee, recipe, seed=0, run_id="a run", context=context)
        return weights_after(model)

    context, next_worker = LosesItsWorker(2), LocalContext()
    with pytest.raises(KilledError):
        head_after(context)
    next_worker.saved = context.saved

    assert_same(head_after(next_worker), head_after(LocalContext()))


@pytest.mark.parametrize("spec", [SPEC, MOBILENET], ids=lambda spec: spec.name)
def test_the_plain_model_answers_in_evaluation(spec: ModelSpec, backbone: Weights, tiny: Dataset) -> None:
    """As a user would deploy it: to the last bit."""
    model = build(spec, 10, backbone if spec is MOBILENET else None, seed=0)
    data = DeviceSplit.of(tiny.test, "cpu")
    before = weights_after(model)

    evaluation = evaluate(model, spec, data)

    model.eval()
    with torch.inference_mode():
        logits = model(Preprocessor(spec.input, "cpu")(data.images))
    assert np.array_equal(evaluation.predictions.predicted, logits.argmax(1).numpy())
    assert np.array_equal(evaluation.predictions.probability, logits.softmax(1).amax(1).numpy())
    assert np.array_equal(evaluation.predictions.top_classes, logits.topk(5).indices.numpy())
    assert np.array_equal(evaluation.predictions.top_probabilities, logits.softmax(1).topk(5).values.numpy())
    assert evaluation.loss == pytest.approx(float(F.cross_entropy(logits, data.labels)), rel=1e-6)
    assert_same(weights_after(model), before)


def test_a_backbone_that_is_not_frozen_trains_whole(tiny: Dataset) -> None:
    model = build(MOBILENET, 10, None, seed=0)
    before = weights_after(model)

    fit_images(model, MOBILENET, some(tiny, 32), Recipe(epochs=1), seed=0, run_id="a", context=LocalContext())

    assert [name for name, value in model.state_dict().items() if torch.equal(value, before[name])] == []


# --- the same again, and going on ---------------------------------------------------------------------------------


def trained(
    data: DeviceSplit,
    recipe: Recipe,
    *,
    seed: int = 0,
    spec: ModelSpec = SPEC,
    weights: Weights | None = None,
    context: LocalContext | None = None,
) -> tuple[dict[str, Tensor], FitState]:
    model = build(spec, 10, weights, seed)
    state = fit_images(model, spec, data, recipe, seed=seed, run_id="a run", context=context or LocalContext())
    return weights_after(model), state


def test_the_same_seed_trains_to_the_same_bits_and_another_seed_does_not(tiny: Dataset) -> None:
    data, recipe = some(tiny, 200), Recipe(epochs=2)

    one, one_state = trained(data, recipe, seed=3)
    torch.rand(5)
    same, same_state = trained(data, recipe, seed=3)
    other, _ = trained(data, recipe, seed=4)

    assert_same(one, same)
    assert [epoch.train_loss for epoch in one_state.epochs] == [epoch.train_loss for epoch in same_state.epochs]
    assert not torch.equal(one["fc2.weight"], other["fc2.weight"])


class KilledError(Exception):
    """A worker is lost."""


class LosesItsWorker(LocalContext):
    """The worker is lost right after the state of an epoch was saved."""

    def __init__(self, after_epoch: int) -> None:
        super().__init__()
        self.epochs_left = after_epoch

    def save(self, run_id: str, state: bytes) -> None:
        super().save(run_id, state)
        self.epochs_left -= 1
        if self.epochs_left == 0:
            raise KilledError


@pytest.mark.parametrize("killed_after", [1, 2])
@pytest.mark.parametrize("kind", ["cnn", "frozen mobilenet", "frozen mobilenet, statistics trained"])
def test_a_fit_that_was_interrupted_goes_on_to_the_same_bits(
    kind: str, killed_after: int, tiny: Dataset, backbone: Weights
) -> None:
    cnn = kind == "cnn"
    spec, weights = (SPEC, None) if cnn else (MOBILENET, backbone)
    data = some(tiny, 200 if cnn else 40)
    recipe = Recipe(epochs=3, batch_size=64 if cnn else 16, bn_mode="train" if "statistics" in kind else "eval")
    whole, whole_state = trained(data, recipe, spec=spec, weights=weights)

    context = LosesItsWorker(killed_after)
    with pytest.raises(KilledError):
        trained(data, recipe, spec=spec, weights=weights, context=context)
    next_worker = LocalContext()
    next_worker.saved = context.saved
    resumed, resumed_state = trained(data, recipe, spec=spec, weights=weights, context=next_worker)

    assert_same(whole, resumed)
    assert len(resumed_state.epochs) == 3
    for name in ("train_loss", "train_accuracy"):
        assert [getattr(epoch, name) for epoch in resumed_state.epochs] == [
            getattr(epoch, name) for epoch in whole_state.epochs
        ]
    assert next_worker.progress[0].images_done > killed_after * len(data.labels)  # it did not begin again
    assert resumed_state.seconds > max(epoch.seconds for epoch in resumed_state.epochs)


# --- early stopping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "patience", "stops_after", "best"),
    [
        ([3.0, 2.0, 1.0], 1, None, 3),
        ([3.0, 2.0, 2.5, 2.4], 2, 4, 2),
        ([3.0, 2.0, 2.5, 1.9], 2, None, 4),
        ([1.0, 1.0], 1, 2, 1),  # as low is not lower
        ([1.0, 2.0, 0.5, 0.6, 0.7, 0.8], 3, 6, 3),
        ([2.0, float("nan"), 1.0, float("inf")], 1, 2, 1),
        ([float("nan"), float("nan")], 2, 2, 0),
        ([3.0, 4.0, 5.0, 6.0], None, None, 1),
    ],
)
def test_training_stops_after_so_many_epochs_without_a_lower_loss(
    losses: list[float], patience: int | None, stops_after: int | None, best: int
) -> None:
    state, stopped = FitState(), None
    for epoch, loss in enumerate(losses, start=1):
        state.epochs.append(EpochResult(1.0, 0.5, 1.0, 1.0, 0.5, loss))
        if stopped is None and state.has_stalled(patience):
            stopped = epoch
            break

    assert (stopped, state.best) == (stops_after, best)


def validation(losses: list[float]) -> Callable[[], Evaluation]:
    """A validation whose losses are given, epoch by epoch."""
    rest = iter(losses)
    nothing = np.zeros(1, np.int16)
    return lambda: Evaluation(Predictions(nothing, nothing, np.zeros(1, np.float32)), next(rest), 0.1)


@pytest.mark.parametrize("schedule", ["constant", "one-cycle", "cosine"])
def test_the_weights_of_the_best_epoch_are_kept_and_schedules_run_over_the_planned_epochs(
    schedule: Any, tiny: Dataset
) -> None:
    recipe = Recipe(epochs=6, schedule=schedule, early_stopping=2, validation_size=1)
    seen: list[dict[str, Tensor]] = []

    def fitted(recipe: Recipe, losses: list[float]) -> tuple[dict[str, Tensor], FitState]:
        model = build(SPEC, 10, None, 0)
        validate = validation(losses)

        def look() -> Evaluation:
            seen.append(weights_after(model))
            return validate()

        trainee = on_images(model, SPEC, some(tiny, 100), "eval")
        state = fit(trainee, recipe, seed=0, run_id="a", context=LocalContext(), validate=look)
        return weights_after(model), state

    kept, state = fitted(recipe, [3.0, 1.0, 1.5, 2.0])
    by_epoch = list(seen)
    seen.clear()
    fitted(recipe.model_copy(update={"early_stopping": None}), [3.0, 1.0, 1.5, 2.0, 2.5, 3.0])

    assert (len(state.epochs), state.best) == (4, 2)
    assert_same(kept, by_epoch[1])
    for stopped, planned in zip(by_epoch, seen[:4], strict=True):
        assert_same(stopped, planned)


def test_a_state_of_another_run_is_not_taken(tiny: Dataset) -> None:
    data, recipe = some(tiny, 100), Recipe(epochs=2)
    context = LocalContext()
    context.saved["another run"] = b"not ours"

    assert_same(trained(data, recipe, context=context)[0], trained(data, recipe)[0])


# --- one epoch ----------------------------------------------------------------------------------------------------


def count_training_images(model: nn.Module) -> list[Tensor]:
    """A list that each batch of images is appended to that the model sees while it trains."""
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
    return seen


@pytest.mark.parametrize(
    ("images", "batches"), [(130, [64, 64, 2]), (128, [64, 64]), (129, [64, 65]), (65, [65]), (40, [40]), (1, [1])]
)
def test_each_image_is_seen_once_an_epoch_with_a_smaller_batch_at_the_end(
    images: int, batches: list[int], tiny: Dataset
) -> None:
    model = build(SPEC, 10, None, seed=0)
    seen = count_training_images(model)
    data = some(tiny, images)

    state = fit_images(model, SPEC, data, Recipe(epochs=2), seed=0, run_id="a", context=LocalContext())

    assert [len(batch) for batch in seen] == 2 * batches
    prepared = Preprocessor(SPEC.input, "cpu")(data.images).flatten(1)
    for epoch in (seen[: len(batches)], seen[len(batches) :]):
        assert sorted(map(tuple, torch.cat(epoch).flatten(1).tolist())) == sorted(map(tuple, prepared.tolist()))
    assert all(epoch.images_per_second == pytest.approx(images / epoch.seconds) for epoch in state.epochs)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_an_epochs_figures_are_means_over_its_images(smoothing: float, tiny: Dataset) -> None:
    """With a learning rate that changes nothing and without dropout they are those of the untrained model."""
    model = build(SPEC, 10, None, seed=0)
    model.dropout.p = 0.0
    data = some(tiny, 150)
    logits = model(Preprocessor(SPEC.input, "cpu")(data.images)).detach()

    targets = (1 - smoothing) * F.one_hot(data.labels, 10) + smoothing / 10
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    recipe = Recipe(epochs=1, lr=1e-30, label_smoothing=smoothing)

    state = fit_images(model, SPEC, data, recipe, seed=0, run_id="a", context=LocalContext())

    assert state.epochs[0].train_loss == pytest.approx(float(expected), rel=1e-5)
    assert state.epochs[0].train_accuracy == float((logits.argmax(1) == data.labels).double().mean())


def test_progress_goes_from_epoch_to_epoch_and_ends_with_all_images(tiny: Dataset) -> None:
    context = LocalContext(report_seconds=0.0)

    trained(some(tiny, 150), Recipe(epochs=2), context=context)

    assert [one.images_done for one in context.progress] == [64, 128, 150, 214, 278, 300]
    assert [one.epoch for one in context.progress] == [1] * 3 + [2] * 3
    assert [one.ends_epoch for one in context.progress] == [False, False, True] * 2
    assert {(one.run_id, one.epochs, one.images_total) for one in context.progress} == {("a run", 2, 300)}
    assert all(0 <= one.accuracy <= 1 and one.loss > 0 for one in context.progress)
    assert all(one.images_per_second > 0 for one in context.progress)


def test_training_learns(synthetic: Dataset) -> None:
    model = build(SPEC, 10, None, seed=0)

    state = fit_images(model, SPEC, some(synthetic, 1000), Recipe(epochs=2), seed=0, run_id="a", context=LocalContext())

    assert state.epochs[1].train_loss < state.epochs[0].train_loss
    assert evaluate(model, SPEC, DeviceSplit.of(synthetic.test, "cpu")).accuracy > 0.9


@pytest.mark.parametrize("lr", [1e9, 1e38])
def test_a_loss_that_is_not_finite_is_a_divergence(lr: float, tiny: Dataset) -> None:
    with pytest.raises(DivergedError, match="epoch 1 of 3"):
        trained(some(tiny, 200), Recipe(epochs=3, lr=lr), seed=0)


def test_data_that_may_not_be_written_is_read_without_a_copy_or_a_warning(
    tiny: Dataset, recwarn: pytest.WarningsRecorder
) -> None:
    """Ray's shared memory is read-only."""
    images = tiny.train.images.copy()
    images.flags.writeable = False

    split = DeviceSplit.of(dataclasses.replace(tiny.train, images=images), "cpu")

    assert split.images.data_ptr() == images.ctypes.data
    assert list(recwarn) == []


# --- evaluation ---------------------------------------------------------------------------------------------------


class Says(nn.Module):
    """A model that gives every image the same logits."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.repeat(len(images), 1)


@pytest.mark.parametrize(
    ("logits", "ranked"),
    [
        ([0.0, 2.0, 1.0, 2.0, 1.0, 1.0, 0.0], [1, 3, 2, 4, 5]),
        ([0.0] * 40, [0, 1, 2, 3, 4]),
        ([0.0, 1.0, 1.0], [1, 2, 0]),
        ([1.0, 1.0], [0, 1]),
    ],
)
def test_of_equally_probable_classes_the_first_comes_first(
    logits: list[float], ranked: list[int], tiny: Dataset
) -> None:
    labels = torch.zeros(100, dtype=torch.int64)

    said = evaluate(Says(logits), SPEC, DeviceSplit(torch.from_numpy(tiny.test.images), labels)).predictions

    assert said.top_classes is not None
    assert said.top_probabilities is not None
    assert said.top_classes.tolist() == [ranked] * 100
    assert (said.top_classes.dtype, said.top_probabilities.dtype) == (np.int16, np.float32)
    assert said.top_probabilities[0] == pytest.approx(torch.tensor(logits).softmax(0)[ranked].tolist())
    assert np.array_equal(said.predicted, said.top_classes[:, 0])
    assert np.array_equal(said.probability, said.top_probabilities[:, 0])


@pytest.mark.parametrize("batch", [1, 7, 32, 100, 1000])
def test_evaluation_counts_every_image_once(batch: int, tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "batch_of", lambda form, device: batch)
    model = build(SPEC, 10, None, seed=0)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    data = DeviceSplit.of(tiny.test, "cpu")

    found = evaluate(model, SPEC, data)

    assert sum(seen) == len(found.predictions.predicted) == 100
    model.eval()
    preprocess = Preprocessor(SPEC.input, "cpu")
    correct, loss = 0, 0.0
    with torch.inference_mode():
        for image, label, predicted, probability in zip(
            data.images, data.labels, found.predictions.predicted, found.predictions.probability, strict=True
        ):
            logits = model(preprocess(image[None]))[0]
            assert int(logits.argmax()) == predicted
            assert probability == pytest.approx(float(logits.softmax(0).max()), rel=1e-4)
            correct += int(logits.argmax() == label)
            loss += float(F.cross_entropy(logits, label)) / 100
    assert (found.correct, found.accuracy) == (correct, correct / 100)
    assert found.loss == pytest.approx(loss, rel=1e-4)
    assert np.array_equal(found.predictions.labels, tiny.test.labels)
    assert found.seconds > 0


def test_evaluation_uses_no_dropout_and_changes_nothing(tiny: Dataset) -> None:
    model = build(MOBILENET, 10, None, seed=0).train()
    before = weights_after(model)
    data = DeviceSplit.of(tiny.test, "cpu")

    one, other = evaluate(model, MOBILENET, data), evaluate(model, MOBILENET, data)

    assert np.array_equal(one.predictions.probability, other.predictions.probability)
    assert_same(before, weights_after(model))


# --- several workers ----------------------------------------------------------------------------------------------


@dataclass
class Worker:
    """One of two workers of a run, without Ray."""

    rank: int
    world_size: int = 2
    device: str = "cpu"
    threads: int = 1
    report_seconds: float = math.inf
    saved: dict[str, bytes] = field(default_factory=dict)
    states: list[bytes] = field(default_factory=list)
    reports: int = 0

    def report(self, progress: Progress) -> None:
        self.reports += 1

    def save(self, run_id: str, state: bytes) -> None:
        self.states.append(state)

    def load(self, run_id: str) -> bytes | None:
        return self.saved.get(run_id)

    def goes_on(self, run_id: str, epoch: int, validation_accuracy: float | None) -> bool:
        return True


CASES = {"an odd last batch": 151, "a last batch of one image": 129}


def without_dropout(seed: int = 0) -> nn.Module:
    model = build(SPEC, 10, None, seed)
    model.dropout.p = 0.0
    return model


class ShowsUnits(nn.Module):
    """A CNN beside which 128 units that are 1 are dropped out in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = without_dropout()
        self.units = nn.Dropout(0.5)
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(self.units(torch.ones(len(images), 128)))
        return self.model(images)


def dropped_units(context: Any, tiny: Dataset) -> Tensor:
    """Which units were dropped in the first step: bool [images of this worker, units]."""
    model = ShowsUnits()
    fit_images(model, SPEC, some(tiny, 128), Recipe(epochs=1), seed=0, run_id="a", context=context)
    return model.shown[0] == 0


def run_of_tiny(dataset: Dataset, **fields: Any) -> Any:
    return Job(model="cnn", dataset=dataset.info, **{"recipe": Recipe(epochs=2), **fields}).runs()[0]


def two_workers_do(rank: int, folder: str, tiny: Dataset) -> None:
    """What each of the two processes does; its results go into a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for name, images in CASES.items():
        for dropout in (True, False):
            model = build(SPEC, 10, None, seed=0) if dropout else without_dropout()
            context = Worker(rank)
            recipe = Recipe(epochs=1, lr=1e-3)
            state = fit_images(model, SPEC, some(tiny, images), recipe, seed=0, run_id="a", context=context)
            found[name, dropout] = (weights_after(model), dataclasses.asdict(state.epochs[0]), context.reports)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            evaluation, "batch_of", lambda form, device: 16
        )  # several batches for each worker, and a smaller one at the end
        tested = evaluate(model, SPEC, DeviceSplit.of(tiny.test, "cpu"), rank=rank, world_size=2)
    found["dropped"] = dropped_units(Worker(rank), tiny)
    found["evaluation"] = tested
    few = DeviceSplit(torch.from_numpy(tiny.test.images[:20]), torch.zeros(20, dtype=torch.int64))
    found["one batch"] = evaluate(Says([0.0, 1.0, 1.0]), SPEC, few, rank=rank, world_size=2).predictions.top_classes

    first = Worker(rank)
    whole = build(SPEC, 10, None, seed=0)
    fit_images(whole, SPEC, some(tiny, 151), Recipe(epochs=2), seed=0, run_id="a", context=first)
    states: list[Any] = [first.states]
    torch.distributed.broadcast_object_list(states, src=0)
    resumed = build(SPEC, 10, None, seed=0)
    next_worker = Worker(rank, saved={"a": states[0][0]})
    fit_images(resumed, SPEC, some(tiny, 151), Recipe(epochs=2), seed=0, run_id="a", context=next_worker)
    found["resumed"] = (weights_after(whole), weights_after(resumed))

    stopping = Recipe(epochs=6, lr=0.01, batch_size=20, validation_size=40, early_stopping=1)
    early = Worker(rank)
    found["stopped"] = execute(run_of_tiny(tiny, workers=2, recipe=stopping), Inputs(tiny, None), early)
    states = [early.states]
    torch.distributed.broadcast_object_list(states, src=0)
    run = run_of_tiny(tiny, workers=2, recipe=stopping)
    found["stopped later"] = execute(run, Inputs(tiny, None), Worker(rank, saved={run.id: states[0][-1]}))

    outcome = execute(run_of_tiny(tiny, workers=2), Inputs(tiny, None), Worker(rank))
    found["outcome"] = outcome
    torch.save(found, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, tiny: Dataset) -> list[dict[Any, Any]]:
    """What the two workers found, by rank."""
    folder = tmp_path_factory.mktemp("workers")
    torch.multiprocessing.spawn(two_workers_do, args=(str(folder), tiny), nprocs=2, daemon=True)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_workers_end_with_the_same_bits(case: str, dropout: bool, two_workers: list[dict[Any, Any]]) -> None:
    (one, one_epoch, _), (other, other_epoch, _) = (found[case, dropout] for found in two_workers)

    assert_same(one, other)
    for name in ("train_loss", "train_accuracy"):
        assert one_epoch[name] == other_epoch[name]


def test_the_first_worker_reports_for_all(two_workers: list[dict[Any, Any]]) -> None:
    assert [found["an odd last batch", True][2] for found in two_workers] == [1, 0]


@pytest.mark.parametrize("case", CASES)
def test_two_workers_train_to_the_weights_of_one(case: str, two_workers: list[dict[Any, Any]], tiny: Dataset) -> None:
    model = without_dropout()
    before = weights_after(model)
    recipe = Recipe(epochs=1, lr=1e-3)
    state = fit_images(model, SPEC, some(tiny, CASES[case]), recipe, seed=0, run_id="a", context=LocalContext())

    by_two, epoch, _ = two_workers[0][case, False]

    for name, value in model.state_dict().items():
        torch.testing.assert_close(by_two[name], value, rtol=0, atol=1e-4)
        moved = (value - before[name]).norm()
        assert (by_two[name] - value).norm() < 1e-3 * moved, name  # small beside what training did
    assert epoch["train_loss"] == pytest.approx(state.epochs[0].train_loss, rel=1e-5)
    assert epoch["train_accuracy"] == state.epochs[0].train_accuracy
    assert epoch["images_per_second"] == pytest.approx(CASES[case] / epoch["seconds"])


def test_workers_drop_out_different_units(two_workers: list[dict[Any, Any]]) -> None:
    one, other = (found["dropped"] for found in two_workers)

    assert one.shape == other.shape == (32, 128)
    assert float(one.double().mean()) == pytest.approx(0.5, abs=0.05)
    assert float((one == other).double().mean()) == pytest.approx(0.5, abs=0.05)


def test_workers_evaluate_every_image_once_with_the_same_result(
    two_workers: list[dict[Any, Any]], tiny: Dataset
) -> None:
    model = without_dropout()
    model.load_state_dict(two_workers[0]["a last batch of one image", False][0])
    alone = evaluate(model, SPEC, DeviceSplit.of(tiny.test, "cpu"))

    for found in two_workers:
        shared = found["evaluation"]
        assert np.array_equal(shared.predictions.predicted, alone.predictions.predicted)
        np.testing.assert_allclose(shared.predictions.probability, alone.predictions.probability, rtol=1e-5)
        assert np.array_equal(shared.predictions.top_classes, alone.predictions.top_classes)
        np.testing.assert_allclose(shared.predictions.top_probabilities, alone.predictions.top_probabilities, rtol=1e-5)
        assert (shared.correct, shared.loss) == (alone.correct, pytest.approx(alone.loss, rel=1e-5))


def test_a_worker_without_a_batch_has_the_whole_result_too(two_workers: list[dict[Any, Any]]) -> None:
    for found in two_workers:
        assert found["one batch"].tolist() == [[1, 2, 0]] * 20


def test_two_workers_that_were_interrupted_go_on_to_the_same_bits(two_workers: list[dict[Any, Any]]) -> None:
    for found in two_workers:
        assert_same(*found["resumed"])


def test_two_workers_that_stop_early_keep_the_same_epoch(two_workers: list[dict[Any, Any]]) -> None:
    measured = [found[name].measured for found in two_workers for name in ("stopped", "stopped later")]
    first = measured[0]

    assert [each.status for each in measured] == ["ok"] * 4, first.reason
    assert first.epochs_done == first.best_epoch + 1 < 6
    for name in ("model_sha256", "predictions_sha256", "best_epoch", "epochs_done", "validation_accuracy"):
        assert {getattr(each, name) for each in measured} == {getattr(first, name)}, name


def test_a_run_of_two_workers_has_one_outcome(two_workers: list[dict[Any, Any]]) -> None:
    outcomes: list[Outcome] = [found["outcome"] for found in two_workers]

    assert [outcome.measured.status for outcome in outcomes] == ["ok", "ok"]
    assert_same(*(dict(sorted(safetensors.torch.load(outcome.checkpoint).items())) for outcome in outcomes))
    for name in ("model_sha256", "predictions_sha256", "test_accuracy", "test_loss", "train_loss"):
        assert getattr(outcomes[0].measured, name) == getattr(outcomes[1].measured, name)
    assert outcomes[0].run_id == outcomes[1].run_id
