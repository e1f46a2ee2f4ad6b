"""Augmentation: each image is changed by itself, the same for the same seed, and a run goes on with the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.learning.augmentation import Augmentation, augmentation_of
from bench.learning.context import LocalContext
from bench.learning.data.datasets import Dataset
from bench.learning.execute import execute
from bench.learning.inputs import Inputs
from bench.learning.optimizers import make_optimizer, make_schedule
from bench.spec import Job, Measured, Recipe, Status

KINDS = ("crop-flip", "trivial", "randaugment", "random-resized-crop")
PLACES = torch.tensor([5, 17, 2, 31])


def begun(kind: str, *, seed: int = 0, epoch: int = 1, **more: Any) -> Augmentation:
    augmentation = augmentation_of(Recipe(augment=kind, **more), seed, images=40, classes=10)
    assert augmentation is not None
    augmentation.begin(epoch)
    return augmentation


def images(channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (40, channels, 16, 16), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_changed_by_its_seed_epoch_and_place_alone(kind: str, channels: int) -> None:
    batch = images(channels)
    whole = begun(kind).change(batch[PLACES], PLACES)
    torch.rand(3)  # another state of the global generator

    alone = [begun(kind).change(batch[place : place + 1], torch.tensor([place])) for place in PLACES.tolist()]

    assert (whole.dtype, whole.shape) == (torch.uint8, (4, channels, 16, 16))
    assert torch.equal(whole, torch.cat(alone))
    everything = begun(kind).change(batch, torch.arange(40))
    for other in (begun(kind, seed=1), begun(kind, epoch=2)):
        assert not torch.equal(other.change(batch, torch.arange(40)), everything)


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_of_a_batch_are_changed_differently(kind: str) -> None:
    same = images()[:1].expand(40, -1, -1, -1)

    changed = begun(kind).change(same, torch.arange(40))

    assert len({image.numpy().tobytes() for image in changed}) > 5


def test_crop_flip_shifts_by_an_eighth_at_the_most_and_mirrors_half() -> None:
    ramp = torch.arange(1, 17, dtype=torch.uint8).expand(1, 1, 16, 16)
    changed = begun("crop-flip").change(ramp.expand(40, -1, -1, -1), torch.arange(40))
    mirrored = [bool(row[8] < row[7]) for row in changed[:, 0, 8].int()]
    assert 10 < sum(mirrored) < 30
    for image, flipped in zip(changed[:, 0].int(), mirrored, strict=True):
        row = image[8].flip(0) if flipped else image[8]
        assert abs(int(row[8]) - 9) <= 2


def test_mixing_keeps_the_sum_of_a_label_and_mixes_both() -> None:
    augmentation = begun("none", mixup=0.4, cutmix=1.0)
    inputs, labels = torch.randn(8, 3, 16, 16), torch.arange(8)

    mixed, targets = augmentation.mix(inputs, labels)

    assert targets.shape == (8, 10)
    assert torch.allclose(targets.sum(1), torch.ones(8))
    assert not torch.equal(mixed, inputs)


def test_without_augmentation_there_is_nothing_to_do() -> None:
    assert augmentation_of(Recipe(), 0, images=40, classes=10) is None


@pytest.mark.parametrize("options", [{"augment": "crop-flip"}, {"augment": "trivial"}, {"mixup": 0.2, "cutmix": 1.0}])
def test_the_same_seed_gives_the_same_weights_and_an_interrupted_run_goes_on_with_them(
    options: dict[str, Any], tiny: Dataset
) -> None:
    recipe = Recipe(epochs=2, batch_size=50, **options)
    (run,) = Job(model="cnn", dataset=tiny.info, recipe=recipe).runs()

    def trained(context: LocalContext) -> Measured:
        measured = execute(run, Inputs(tiny, None), context).measured
        assert measured.status is Status.OK, measured.reason
        return measured

    first, second = LocalContext(), LocalContext()
    whole = trained(first)
    second.saved = first.saved  # the state after the first of two epochs

    assert trained(second).model_sha256 == whole.model_sha256 == trained(LocalContext()).model_sha256
    (plain,) = Job(model="cnn", dataset=tiny.info, recipe=Recipe(epochs=2, batch_size=50)).runs()
    assert execute(plain, Inputs(tiny, None), LocalContext()).measured.model_sha256 != whole.model_sha256


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("cosine", 0.0)])
def test_the_learning_rate_rises_from_0_in_the_warm_up(schedule: Any, last: float) -> None:
    recipe = Recipe(epochs=10, warmup_epochs=2, schedule=schedule, lr=0.5)
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(2))], recipe)
    steps = make_schedule(optimizer, recipe, 100)
    assert steps is not None
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        steps.step()

    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(last, abs=0.01)
