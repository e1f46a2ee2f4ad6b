"""What a back end is given, and what it gives."""

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

from bench.learning.evaluation import Trained
from bench.learning.precision import arithmetic
from bench.learning.preprocessing import Preprocessor


class UnavailableError(Exception):
    """The back end cannot run here; says why in words."""


@dataclass(frozen=True)
class Request:
    """A trained model to be prepared, and where it is to run."""

    trained: Trained
    checkpoint_bytes: int
    """Size of the trained model as it is stored."""
    example: NDArray[np.uint8]
    """A few images, [images, channels, height, width]; those to come have the same shape but for their number."""
    calibration: NDArray[np.uint8]
    """A few hundred training images, in random order; never test images."""
    batch_sizes: Sequence[int]
    """Images at once, in each batch to come."""
    device: str
    """As torch names it."""
    threads: int
    """CPU threads to compute with."""
    precision: str
    """The recipe's: 'fp32' or 'bf16'."""

    @functools.cached_property
    def onnx(self) -> Exported:
        """The model as an ONNX file, exported once for all back ends that run it."""
        from bench.learning.onnx import to_onnx

        start = time.perf_counter()
        content = to_onnx(self.trained, image_shape=self.example.shape[1:])
        return Exported(content, time.perf_counter() - start)


@dataclass(frozen=True)
class Exported:
    """An ONNX file from ``images`` to ``logits``, preprocessing included."""

    content: bytes
    seconds: float
    """What the export took."""


@dataclass(frozen=True)
class Prepared:
    """A model that answers."""

    answer: Callable[[Tensor], Tensor]
    """uint8 [batch, channels, height, width], on ``device``, to logits [batch, classes]; from pixels on, all of it."""
    device: str
    """As torch names it."""
    deployed_bytes: int
    """Size of the files that are deployed."""
    precision: str
    """'fp32', 'bf16' or 'int8', as really used."""
    version: str
    """Of the packages that compute."""


class Backend(Protocol):
    """A way to run inference."""

    runs_onnx: bool
    """Whether it starts from the exported model."""

    def prepare(self, request: Request) -> Prepared:
        """Make the model ready to answer.

        Raises:
            UnavailableError: it cannot run here, for a reason that the user can change.
        """


def pipeline(request: Request) -> Callable[[Tensor], Tensor]:
    """Return preprocessing and model as one function: what PyTorch deploys. Nothing in the model is changed."""
    prepare = Preprocessor(request.trained.spec, request.device)
    model = request.trained.module.eval().to(request.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def answer(images: Tensor) -> Tensor:
        logits: Tensor = model(prepare(images))
        return logits

    return answer


def without_gradients(function: Callable[[Tensor], Tensor], request: Request) -> Callable[[Tensor], Tensor]:
    """Return ``function`` as it is deployed: in inference mode, and in the recipe's precision."""
    device, precision = request.device, request.precision
    if precision == "fp32":  # a context that does nothing would be a hundredth of a small model's time
        return torch.inference_mode()(function)

    def answer(images: Tensor) -> Tensor:
        with torch.inference_mode(), arithmetic(device, precision):
            return function(images)

    return answer
