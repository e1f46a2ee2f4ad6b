"""Evaluation of a model on a split: every image once, by one worker or several."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.learning.checkpoint import Trained
from bench.learning.data.preprocessing import DeviceSplit, Preprocessor, as_inputs, batch_of, in_turn, parts_of
from bench.learning.data.streaming import Streamed
from bench.learning.models.architecture import ModelSpec
from bench.learning.precision import arithmetic
from bench.learning.process import synchronise
from bench.spec import TOP, Predictions


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a split."""

    predictions: Predictions
    loss: float
    """Mean cross-entropy, nats."""
    seconds: float

    @property
    def correct(self) -> int:
        """Return the number of images classified right."""
        return int((self.predictions.labels == self.predictions.predicted).sum())

    @property
    def accuracy(self) -> float:
        """Return the share of images classified right."""
        return self.correct / len(self.predictions.labels)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    spec: ModelSpec,
    data: DeviceSplit,
    *,
    features: Tensor | None = None,
    precision: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
    report: Callable[[float], None] = lambda share: None,
) -> Evaluation:
    """Predict every image of ``data`` exactly once; the workers share the images, and each returns the whole result.

    The model runs unchanged, in evaluation mode. The batches do not depend on the number of workers, so neither do the
    predictions.

    Args:
        model: maps float [batch, channels, size, size] to logits; it is left in evaluation mode.
        spec: the model's spec.
        data: images and labels, on the device.
        features: extracted features of the images, float32 [images, features]; with them only the head runs.
        precision: 'fp32' or 'bf16'.
        rank: this worker's number, from 0.
        world_size: number of workers.
        report: called after each batch with the share of this worker's images that is done.
    """
    model.eval()
    images, device = len(data.labels), data.device
    answer, inputs = model, data.images
    prepare: Callable[[Tensor], Tensor] = Preprocessor(spec.input, device)
    if features is not None:
        answer, inputs = model.get_submodule(spec.head or ""), features.to(device)
        prepare = _unchanged
    losses = torch.zeros(images, device=device)
    classes = torch.full((images, TOP), -1, device=device)
    shares = torch.zeros(images, TOP, device=device)
    synchronise(device)
    start = time.perf_counter()
    parts = parts_of(images, batch_of(spec.input, device))[rank::world_size]
    for number, (part, batch) in enumerate(zip(parts, in_turn(inputs, parts, device), strict=True), start=1):
        with arithmetic(device, precision):
            logits = answer(prepare(batch)).float()
        losses[part] = F.cross_entropy(logits, data.labels[part], reduction="none")
        remaining = logits.softmax(1)
        for place in range(min(TOP, remaining.shape[1])):  # topk leaves open which of equals comes first, max does not
            shares[part, place], best = remaining.max(1)
            classes[part, place] = best
            remaining.scatter_(1, best[:, None], -1.0)
        report(number / len(parts))
    if world_size > 1:  # the others have 0 for an image's loss and probabilities, and -1 for its classes
        for values in (losses, shares):
            torch.distributed.all_reduce(values)
        torch.distributed.all_reduce(classes, op=torch.distributed.ReduceOp.MAX)
    synchronise(device)
    seconds = time.perf_counter() - start
    ranks = slice(int((classes >= 0).any(0).sum()))  # fewer than TOP where there are fewer classes
    top_classes = classes[:, ranks].cpu().numpy().astype(np.int16)
    top_probabilities = shares[:, ranks].cpu().numpy()
    predictions = Predictions(
        labels=data.labels.cpu().numpy().astype(np.int16),
        predicted=top_classes[:, 0].copy(),
        probability=top_probabilities[:, 0].copy(),
        top_classes=top_classes,
        top_probabilities=top_probabilities,
    )
    return Evaluation(predictions, float(losses.double().mean()), seconds)


def _unchanged(batch: Tensor) -> Tensor:
    return batch


@torch.inference_mode()
def probabilities(trained: Trained, images: NDArray[np.uint8] | Streamed) -> NDArray[np.float32]:
    """Return softmax probabilities, float32 [images, classes], of uint8 [images, 1 or 3, height, width]."""
    answer, prepare = trained.module, Preprocessor(trained.spec.input, "cpu")
    parts = parts_of(len(images), batch_of(trained.spec.input, "cpu"))
    batches = in_turn(as_inputs(images), parts, torch.device("cpu"))
    return torch.cat([answer(prepare(batch)).float().softmax(1) for batch in batches]).numpy()
