"""The head of a model: the sub-module that maps features to logits. All before it is the backbone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bench.errors import UserError


def head_of(model: nn.Module, declared: str | None, classes: int) -> str | None:
    """Return the name of the head: as declared, or the last linear layer that has an output per class; None without.

    Further outputs that only help in training (named ``aux...``) are not it.

    Raises:
        UserError: the model has no sub-module of the declared name.
    """
    if declared is not None:
        if declared not in dict(model.named_modules()):
            has = ", ".join(name for name, _ in model.named_children())
            raise UserError(f"the model has no sub-module {declared!r} to be its head; it has {has}")
        return declared
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == classes
        and not any(part.lower().startswith("aux") for part in name.split("."))
    ]
    return names[-1] if names else None


def without_head(model: nn.Module, head: str) -> nn.Module:
    """Return a copy of ``model`` that maps images to the features that its head would be given, in evaluation mode."""
    embedding = copy.deepcopy(model)
    embedding.set_submodule(head, nn.Identity())
    return embedding.eval()


@torch.no_grad()
def is_last(model: nn.Module, embedding: nn.Module, head: str, images: Tensor) -> bool:
    """Return whether the model computes ``head(embedding(images))`` in evaluation mode, and nothing behind it.

    Args:
        model: the model; it is left in evaluation mode.
        embedding: what :func:`without_head` returned.
        head: name of the head.
        images: float [batch, channels, size, size].
    """
    expected = model.eval()(images)
    try:
        given = model.get_submodule(head)(embedding(images))
    except Exception:  # the embedding may be of a shape that only the rest of the model can bring into form
        return False
    return given.shape == expected.shape and bool(torch.allclose(given, expected, rtol=1e-4, atol=1e-4))
