"""Mean and standard deviation of images, counted from histograms of bytes: those that NumPy computes from floats."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.learning.data import statistics
from bench.learning.data.statistics import LUMA, mean_and_std

SHAPES = st.tuples(st.integers(1, 6), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5))
IMAGES = SHAPES.flatmap(lambda shape: arrays(np.uint8, shape))


def by_numpy(images: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    floats = images.astype(np.float64)
    if images.shape[1] == 3 and channels == 1:
        floats = np.rint((floats.astype(np.float32) * np.float32(LUMA).reshape(1, 3, 1, 1)).sum(1, keepdims=True))
    floats = np.broadcast_to(floats / 255, (len(images), channels, *images.shape[2:]))
    return floats.mean((0, 2, 3)), floats.std((0, 2, 3))


@given(IMAGES, st.sampled_from([1, 3]))
def test_they_are_those_of_the_pixels_from_0_to_1(images: np.ndarray, channels: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, std = mean_and_std(images, channels)

    expected_mean, expected_std = by_numpy(images, channels)
    assert len(mean) == len(std) == channels
    grey_level = 1 / 255 if images.shape[1] > channels else 0  # a colour's grey may be rounded up or down
    np.testing.assert_allclose(mean, expected_mean, rtol=0, atol=5.1e-5 + grey_level)
    np.testing.assert_allclose(std, np.maximum(expected_std, 1e-3), rtol=0, atol=5.1e-5 + grey_level)


@pytest.mark.parametrize("value", range(256))
def test_images_of_one_value_can_be_divided_by_their_standard_deviation(value: int) -> None:
    mean, std = mean_and_std(np.full((3, 1, 4, 5), value, np.uint8), 3)

    assert mean == (round(value / 255, 4),) * 3
    assert std == (1e-3,) * 3


def test_figures_are_plain_numbers_with_four_decimals() -> None:
    mean, std = mean_and_std(np.random.default_rng(0).integers(0, 256, (9, 3, 7, 7), dtype=np.uint8), 3)

    for value in (*mean, *std):
        assert type(value) is float
        assert value == round(value, 4)


def test_many_images_are_counted_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4), dtype=np.uint8)
    whole = [mean_and_std(images, channels) for channels in (1, 3)]

    monkeypatch.setattr(statistics, "_CHUNK", 7)

    assert [mean_and_std(images, channels) for channels in (1, 3)] == whole
