"""The interface of a back end: the request that it gets, and the prepared model that it returns."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.learning.checkpoint import Trained
from bench.learning.data.preprocessing import Preprocessor
from bench.learning.precision import arithmetic


class UnavailableError(Exception):
    """The error of a back end that cannot run here; its message says why."""


@dataclass(frozen=True)
class Request:
    """A trained model to prepare, and where it is to run."""

    trained: Trained
    checkpoint_bytes: int
    """Size of the stored trained model."""
    example: NDArray[np.uint8]
    """A few images, [images, channels, height, width]; later images have the same channels, height and width."""
    calibration: NDArray[np.uint8]
    """A few hundred training images, in random order; never test images."""
    batch_sizes: Sequence[int]
    """The batch sizes to prepare for."""
    device: str
    """The device to compute on, as torch names it."""
    threads: int
    """The number of CPU threads to compute with."""
    precision: str
    """The recipe's precision: 'fp32' or 'bf16'."""

    @functools.cached_property
    def onnx(self) -> Exported:
        """Return the model as an ONNX file, exported once for all back ends that run it."""
        from bench.learning.onnx import to_onnx

        start = time.perf_counter()
        content = to_onnx(self.trained, image_shape=self.example.shape[1:])
        return Exported(content, time.perf_counter() - start)


@dataclass(frozen=True)
class Exported:
    """An ONNX file that maps ``images`` to ``logits``, preprocessing included."""

    content: bytes
    seconds: float
    """Time that the export took."""


@dataclass(frozen=True)
class Prepared:
    """A model that a back end has made ready to answer."""

    answer: Callable[[Tensor], Tensor]
    """The function from uint8 [batch, channels, height, width], on ``device``, to logits [batch, classes]; it includes
    the preprocessing."""
    device: str
    """The device that the images must be on, as torch names it."""
    deployed_bytes: int
    """Size of the deployed files."""
    precision: str
    """The precision that is really used: 'fp32', 'bf16' or 'int8'."""
    version: str
    """The package that computes, and its version."""


class Backend(Protocol):
    """A way to run inference."""

    runs_onnx: bool
    """True if the back end starts from the exported ONNX model."""

    def prepare(self, request: Request) -> Prepared:
        """Make the model ready to answer.

        Raises:
            UnavailableError: the back end cannot run here, for a reason that the user can change.
        """


def pipeline(request: Request) -> Callable[[Tensor], Tensor]:
    """Return preprocessing and the unchanged model as one function, as PyTorch deploys it."""
    prepare = Preprocessor(request.trained.spec.input, request.device)
    model = request.trained.module.eval().to(request.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def answer(images: Tensor) -> Tensor:
        logits: Tensor = model(prepare(images))
        return logits

    return answer


def without_gradients(function: Callable[[Tensor], Tensor], request: Request) -> Callable[[Tensor], Tensor]:
    """Return ``function`` as it is deployed: in inference mode and in the request's precision."""
    device, precision = request.device, request.precision
    if precision == "fp32":  # a context that does nothing would take a hundredth of a small model's time
        return torch.inference_mode()(function)

    def answer(images: Tensor) -> Tensor:
        with torch.inference_mode(), arithmetic(device, precision):
            return function(images)

    return answer
