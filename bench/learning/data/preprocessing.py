"""Preprocessing of images: they are uint8 in memory, and become a model's float input batch by batch on the device."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.learning.data.datasets import Split
from bench.learning.models.registry import ModelSpec

BATCH = 250
"""The batch size of evaluation and feature extraction: the same for both, so that they round alike."""
LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in grey (ITU-R BT.601), as in Pillow."""


@dataclass(frozen=True)
class DeviceSplit:
    """A split on the device that computes with it."""

    images: Tensor
    """uint8 [images, channels, height, width]."""
    labels: Tensor
    """int64 [images]."""

    @classmethod
    def of(cls, split: Split, device: str) -> DeviceSplit:
        """Return ``split`` on ``device``. On the CPU memory is shared; only labels that are not int64 are copied."""
        return cls(as_tensor(split.images).to(device), as_tensor(split.labels).to(device, torch.int64))


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return a tensor that shares the array's memory."""
    with warnings.catch_warnings():
        # Ray's shared memory is read-only, which torch warns it cannot enforce; we never write to it.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


class Preprocessor:
    """The conversion of raw images to a model's input, with the size, channels and normalisation of its spec."""

    def __init__(self, spec: ModelSpec, device: str | torch.device) -> None:
        self._size = (spec.input_size, spec.input_size)
        self._channels = spec.channels
        # one multiplication and one addition: (x / 255 - mean) / std
        scale = [1 / (255 * std) for std in spec.std]
        shift = [-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)]
        self._scale = torch.tensor(scale, device=device).view(1, -1, 1, 1)
        self._shift = torch.tensor(shift, device=device).view(1, -1, 1, 1)
        self._luma = torch.tensor(LUMA, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 [batch, 1 or 3, height, width] to float32 [batch, channels, size, size] in channels-last order."""
        pixels = images.to(torch.float32)
        if pixels.shape[1] == 3 and self._channels == 1:
            pixels = (pixels * self._luma).sum(1, keepdim=True)
        if pixels.shape[2:] != self._size:
            shrinks = pixels.shape[2] > self._size[0] or pixels.shape[3] > self._size[1]
            pixels = F.interpolate(pixels, size=self._size, mode="bilinear", align_corners=False, antialias=shrinks)
        # Broadcasting against three means repeats a grey image to three channels.
        normalised = torch.addcmul(self._shift, pixels, self._scale)
        return normalised.contiguous(memory_format=torch.channels_last)
