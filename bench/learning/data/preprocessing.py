"""Preprocessing of images: they are uint8 in memory, and become a model's float input batch by batch on the device."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.learning.data.dataset import Split
from bench.learning.data.statistics import LUMA
from bench.learning.data.streaming import Streamed
from bench.learning.limits import LARGEST_BATCH, MOST_PIXELS
from bench.spec import ModelInput

AHEAD = 4
"""The number of batches that are read ahead of the one in use."""

Inputs = Tensor | Streamed
"""What a model or its head reads: [images, ...]."""
Places = slice | Tensor
"""The positions of a batch in them."""


@dataclass(frozen=True)
class DeviceSplit:
    """A split for a device to compute with: on the device, or read from memory or disk batch by batch."""

    images: Inputs
    """uint8 [images, channels, height, width]. Streamed ones, and those that a GPU has no room for, are elsewhere."""
    labels: Tensor
    """int64 [images], on the device."""

    @classmethod
    def of(cls, split: Split, device: str) -> DeviceSplit:
        """Return ``split`` for ``device``. On the CPU memory is shared; only labels that are not int64 are copied."""
        labels = as_tensor(split.labels).to(device, torch.int64)
        images = as_inputs(split.images)
        if isinstance(images, Tensor) and _fits(images, labels.device):
            images = images.to(device)
        return cls(images, labels)

    @property
    def device(self) -> torch.device:
        """Return the device that computes."""
        return self.labels.device

    def only(self, positions: Tensor) -> DeviceSplit:
        """Return the images at these positions: int64 [images], on the CPU."""
        if isinstance(self.images, Streamed):
            return DeviceSplit(self.images.only(positions.numpy()), self.labels[positions.to(self.device)])
        return DeviceSplit(self.images[positions.to(self.images.device)], self.labels[positions.to(self.device)])


def as_inputs(images: NDArray[np.uint8] | Streamed) -> Inputs:
    """Return the images as :func:`in_turn` reads them; memory is shared."""
    return images if isinstance(images, Streamed) else as_tensor(images)


def _fits(images: Tensor, device: torch.device) -> bool:
    """Return whether the images take at most half of the GPU's free memory; True for the CPU."""
    return device.type != "cuda" or images.nbytes <= torch.cuda.mem_get_info(device)[0] / 2


def in_turn(inputs: Inputs, batches: Iterable[Places], device: torch.device) -> Iterator[Tensor]:
    """Yield the inputs at each of these positions, on the device; those not there yet are read ahead of their use.

    Args:
        inputs: where to read from.
        batches: the positions of each batch.
        device: where the batches are needed.
    """
    if isinstance(inputs, Tensor) and inputs.device == device:
        yield from (at(inputs, places) for places in batches)
        return
    coming: deque[Future[Tensor]] = deque()
    rest = iter(batches)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        try:
            for places in rest:
                coming.append(reader.submit(_fetch, inputs, places))
                if len(coming) > AHEAD:
                    yield coming.popleft().result().to(device)
            while coming:
                yield coming.popleft().result().to(device)
        finally:
            reader.shutdown(cancel_futures=True)


def at(inputs: Tensor, places: Places) -> Tensor:
    """Return the inputs at these positions."""
    # index_select takes a third of the time of inputs[places] for bytes on a CPU
    return inputs[places] if isinstance(places, slice) else inputs.index_select(0, places)


def _fetch(inputs: Inputs, places: Places) -> Tensor:
    if isinstance(inputs, Streamed):
        return as_tensor(inputs[places if isinstance(places, slice) else places.cpu().numpy()])
    return at(inputs, places if isinstance(places, slice) else places.to(inputs.device))


def batch_of(form: ModelInput, device: torch.device | str) -> int:
    """Return the batch size of evaluation and feature extraction: the same for both, so that they round alike."""
    return max(1, min(LARGEST_BATCH, MOST_PIXELS[torch.device(device).type] // form.image_size**2))


def parts_of(images: int, size: int) -> list[slice]:
    """Return the positions of consecutive batches of ``size`` images, the last of them smaller."""
    return [slice(first, min(first + size, images)) for first in range(0, images, size)]


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
