"""Mean and standard deviation of images, for the normalisation of models that start from nothing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bench.learning.data.streaming import Streamed

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in grey (ITU-R BT.601), as in Pillow."""
_CHUNK = 1024
_MOST_STREAMED = 10_000


def mean_and_std(images: NDArray[np.uint8] | Streamed, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of each channel, for pixels from 0 to 1, to four decimals.

    Args:
        images: uint8 [images, 1 or 3, height, width]. Of streamed ones, 10,000 are read, evenly spaced.
        channels: those of the model: a grey image counts as three equal channels, a colour image as its grey.
    """
    if isinstance(images, Streamed):
        images = images.only(range(0, len(images), math.ceil(len(images) / _MOST_STREAMED)))
    given = images.shape[1]
    counts = np.zeros((min(given, channels), 256), dtype=np.int64)
    for first in range(0, len(images), _CHUNK):
        part = images[first : first + _CHUNK]
        if given == 3 and channels == 1:
            part = np.rint(np.einsum("nchw,c->nhw", part, np.array(LUMA, np.float32)))[:, None].astype(np.uint8)
        counts += [np.bincount(part[:, channel].reshape(-1), minlength=256) for channel in range(len(counts))]
    values = np.arange(256) / 255
    mean = (counts * values).sum(1) / counts.sum(1)
    std = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1))
    repeats = channels // len(mean)
    rounded = [
        tuple(round(float(value), 4) for value in figures) * repeats for figures in (mean, np.maximum(std, 1e-3))
    ]
    return rounded[0], rounded[1]
