"""Dropout whose random numbers cost little on a CPU."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.learning.compiled import call, suit

VALUES = 2**16
"""Of the number that decides on a value: the probability is rounded to 1 / 65,536, and what is kept scaled by that."""
_LOWEST = -(2**15)


class Dropout(nn.Dropout):
    """``nn.Dropout`` in a tenth of its time on a CPU: drawing took a third of a training step of MobileNetV2's head.

    Several decisions are made with each random number, 16 bits for one. The mean stays as it was.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Floats of any shape, each zero with probability ``p`` in training."""
        dropped = round(self.p * VALUES)
        if not self.training or values.device.type != "cpu" or dropped == VALUES:
            return super().forward(values)
        if suit(values):
            drop = _Dropped.apply if values.requires_grad else _dropped
            return cast(Tensor, drop(values, new_seed(), dropped))
        drawn = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        decisions = drawn.view(torch.int16)[: values.numel()].view(values.shape)
        kept = torch.ge(decisions, dropped + _LOWEST, out=torch.empty(values.shape, dtype=values.dtype))
        return values * kept.mul_(scale(dropped))


def scale(dropped: int) -> float:
    """What is kept is multiplied by, where so many of VALUES are dropped: the mean stays as it was."""
    return VALUES / (VALUES - dropped)


def new_seed() -> Tensor:
    """For the compiled loop, int64 []: drawn from PyTorch's generator, which decides on everything that is random."""
    return torch.empty((), dtype=torch.int64).random_(-(2**63), None)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, seed: Tensor, dropped: int) -> Tensor:
        ctx.seed, ctx.dropped = seed, dropped
        return _dropped(values, seed, dropped)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # each value's gradient is multiplied by what the value was
        return _dropped(gradient, ctx.seed, ctx.dropped), None, None


def _dropped(values: Tensor, seed: Tensor, dropped: int) -> Tensor:
    values = values.contiguous()
    answers = torch.empty_like(values)
    call("dropout", values, answers, seed, values.numel(), dropped, 0, scale(dropped))
    return answers
