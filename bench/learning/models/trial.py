"""Try out a model on the CPU before anything trains: one forward and one backward pass on two random images."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UserError, first_line
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.build import make, with_weights
from bench.learning.models.heads import head_of
from bench.learning.models.weights import Weights


def try_out(spec: ModelSpec, classes: int, weights: Weights | None) -> str | None:
    """Build a model as a run would, and run one forward and one backward pass on two random images.

    Returns:
        The SHA-256 digest of the pretrained weights that the model loads by itself; None if most of its weights are
        random, or ``weights`` are given.

    Raises:
        UserError: the model cannot be trained; the message says why.
    """
    torch.manual_seed(0)
    model = make(spec, classes) if weights is None else with_weights(spec, classes, weights)
    size = spec.input.image_size
    images = torch.randn(2, spec.input.channels, size, size, generator=torch.Generator().manual_seed(0))
    try:
        head_of(model, spec.head, classes)
        with torch.no_grad():
            answers = model.eval()(images)
        logits = model.train()(images)
    except UserError as error:
        raise UserError(f"{spec.name}: {error}") from None
    except Exception as error:  # a user's model can raise anything
        raise UserError(
            f"{spec.name} does not take pictures of {spec.input.describe()}: {first_line(error)}"
        ) from error
    for output in (logits, answers):  # a model may answer otherwise in evaluation mode
        _check_logits(spec.name, output, classes)
    parameters = list(model.parameters())
    if not parameters:
        raise UserError(f"{spec.name} has no parameters, so there is nothing to train")
    if not logits.requires_grad:
        raise UserError(
            f"{spec.name} passes no gradients on, so it cannot be trained (does it detach, or use no_grad?)"
        )
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
    if all(parameter.grad is None for parameter in parameters):
        raise UserError(f"{spec.name}: no parameter gets a gradient, so it cannot be trained")
    return None if weights is not None else _brought(spec, classes, model)


def _check_logits(name: str, logits: Tensor, classes: int) -> None:
    if logits.shape != (2, classes):
        shape = "x".join(str(axis) for axis in logits.shape)
        hint = f"; build it for the number of classes that it is given, {classes}" if logits.ndim == 2 else ""
        raise UserError(f"{name} answers two images with {shape} numbers, where 2x{classes} are needed{hint}")
    if not torch.isfinite(logits).all():
        raise UserError(f"{name} answers with numbers that are not finite")
    sums = logits.detach().sum(1)
    if bool((logits >= 0).all()) and bool(torch.allclose(sums, torch.ones(2), atol=1e-4)):
        raise UserError(f"{name} answers with probabilities; logits are needed: leave the softmax at its end out")


def _brought(spec: ModelSpec, classes: int, model: nn.Module) -> str | None:
    """Return the digest of the non-constant weights that are the same for two seeds; None if most of them differ."""
    torch.manual_seed(1)
    other = dict(make(spec, classes).named_parameters())
    same = [
        value
        for name, value in model.named_parameters()
        if value.ndim > 1 and name in other and torch.equal(value, other[name]) and value.min() < value.max()
    ]
    total = sum(value.numel() for value in model.parameters() if value.ndim > 1)
    if sum(value.numel() for value in same) < total / 2:
        return None
    digest = hashlib.sha256()
    for value in same:
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
