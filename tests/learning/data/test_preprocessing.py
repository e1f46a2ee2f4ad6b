"""What a network is given: images normalised, resized, and grey or in colour, as its spec says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench.learning.data.preprocessing import Preprocessor
from bench.learning.models.registry import ModelSpec


def spec_of(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> ModelSpec:
    return ModelSpec("mine", lambda classes: nn.Identity(), size, len(mean), mean, std)


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    mean=st.floats(0, 1),
    std=st.floats(0.05, 2),
)
def test_images_are_normalised_with_mean_and_std(seed: int, batch: int, channels: int, mean: float, std: float) -> None:
    means = tuple(mean * factor for factor in (1.0, 0.5, 0.25)[:channels])
    stds = tuple(std * factor for factor in (1.0, 2.0, 3.0)[:channels])
    images = np.random.default_rng(seed).integers(0, 256, (batch, channels, 6, 6), dtype=np.uint8)

    found = Preprocessor(spec_of(6, means, stds), "cpu")(torch.from_numpy(images))

    expected = (images / 255 - np.reshape(means, (1, -1, 1, 1))) / np.reshape(stds, (1, -1, 1, 1))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5 / std)


def test_a_grey_image_is_repeated_to_three_channels() -> None:
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)

    found = Preprocessor(spec_of(8, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), "cpu")(images)

    assert found.shape == (2, 3, 8, 8)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.6), (0.3, 0.7)]):
        torch.testing.assert_close(found[:, channel], (images[:, 0] / 255 - mean) / std)


def test_a_colour_image_is_made_grey_as_pillow_does() -> None:
    pillow = pytest.importorskip("PIL.Image")
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)

    found = Preprocessor(spec_of(8, (0.0,), (1.0,)), "cpu")(torch.from_numpy(images))

    assert found.shape == (3, 1, 8, 8)
    for image, grey in zip(images, found, strict=True):
        by_pillow = np.asarray(pillow.fromarray(image.transpose(1, 2, 0)).convert("L"))
        np.testing.assert_allclose(255 * grey[0].numpy(), by_pillow, atol=1)  # Pillow rounds


@pytest.mark.parametrize(("size", "to"), [(28, 32), (28, 28), (28, 96), (32, 28), (64, 28)])
def test_images_are_resized_as_pillow_does(size: int, to: int) -> None:
    pillow = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)

    found = Preprocessor(spec_of(to, (0.0,), (1.0,)), "cpu")(torch.from_numpy(image)[None, None])

    by_pillow = np.asarray(pillow.fromarray(image).resize((to, to), pillow.Resampling.BILINEAR))
    np.testing.assert_allclose(255 * found[0, 0].numpy(), by_pillow, atol=2)


@given(
    count=st.integers(1, 3),
    channels=st.sampled_from([(1, 1), (1, 3), (3, 3)]),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    more=st.integers(0, 20),
    seed=st.integers(0, 100),
)
def test_images_are_enlarged_as_pytorch_does(
    count: int, channels: tuple[int, int], height: int, width: int, more: int, seed: int
) -> None:
    has, wants = channels
    size, mean, std = max(height, width) + more, (0.1, 0.2, 0.3)[:wants], (0.5, 0.6, 0.7)[:wants]
    images = torch.randint(256, (count, has, height, width), generator=torch.Generator().manual_seed(seed))

    found = Preprocessor(spec_of(size, mean, std), "cpu")(images.to(torch.uint8))

    expected = torch.nn.functional.interpolate(images / 255, size=(size, size), mode="bilinear", align_corners=False)
    by_channel = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    expected = (expected - next(by_channel)) / next(by_channel)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_an_oblong_image_becomes_square() -> None:
    images = torch.full((2, 3, 10, 40), 255, dtype=torch.uint8)

    found = Preprocessor(spec_of(16, (0.0,) * 3, (1.0,) * 3), "cpu")(images)

    torch.testing.assert_close(found, torch.ones(2, 3, 16, 16))
