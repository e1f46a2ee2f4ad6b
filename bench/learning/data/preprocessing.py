"""Preprocessing of images: they are uint8 in memory, and become a model's float input batch by batch on the device."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.learning.data.dataset import Split
from bench.learning.data.statistics import LUMA
from bench.spec import ModelInput

BATCH = 250
"""The batch size of evaluation and feature extraction: the same for both, so that they round alike."""


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
    """The conversion of raw images to a model's input: size, channels and normalisation."""

    def __init__(self, form: ModelInput, device: str | torch.device) -> None:
        self._form = form
        # one multiplication and one addition: (x / 255 - mean) / std
        scale = [1 / (255 * std) for std in form.std]
        shift = [-mean / std for mean, std in zip(form.mean, form.std, strict=True)]
        self._scale = torch.tensor(scale, device=device).view(1, -1, 1, 1)
        self._shift = torch.tensor(shift, device=device).view(1, -1, 1, 1)
        self._luma = torch.tensor(LUMA, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 [batch, 1 or 3, height, width] to float32 [batch, channels, size, size] in channels-last order."""
        pixels = images.to(torch.float32)
        if pixels.shape[1] == 3 and self._form.channels == 1:
            pixels = (pixels * self._luma).sum(1, keepdim=True)
        pixels = resize(pixels, self._form)
        # Broadcasting against three means repeats a grey image to three channels.
        normalised = torch.addcmul(self._shift, pixels, self._scale)
        return normalised.contiguous(memory_format=torch.channels_last)


def resize(pixels: Tensor, form: ModelInput) -> Tensor:
    """Map float [batch, channels, height, width] to [batch, channels, size, size]: resized, and the middle cut out."""
    size, resized = form.image_size, form.resized
    if pixels.shape[2:] != (resized, resized):
        shrinks = pixels.shape[2] > resized or pixels.shape[3] > resized
        bicubic = form.interpolation == "bicubic"
        pixels = F.interpolate(
            pixels,
            size=(resized, resized),
            mode=form.interpolation,
            align_corners=False,
            antialias=shrinks or bicubic,  # for cubic curves this also chooses Pillow's
        )
        if bicubic:
            pixels = pixels.clamp(0, 255)
    first = (resized - size) // 2
    return pixels[:, :, first : first + size, first : first + size]
