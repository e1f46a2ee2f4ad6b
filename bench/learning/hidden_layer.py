"""A hidden layer of a perceptron at once: on a CPU one node of the graph where there were five."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.learning.compiled import call, suit
from bench.learning.dropout import VALUES, Dropout, new_seed


def hidden_layer(linear: nn.Linear, values: Tensor, dropout: Dropout | None = None) -> Tensor:
    """``dropout(relu(linear(values)))``: that function, and its gradients.

    Small layers take as long to call as to compute. In training on a CPU in float32 what comes after the product is one
    loop of kernels.c, forth and back.

    Args:
        linear: any linear layer.
        values: float [batch, inputs].
        dropout: of the layer's outputs; None for none.

    Returns:
        Float [batch, outputs].
    """
    dropped = round(dropout.p * VALUES) if dropout is not None and dropout.training else 0
    if dropped < VALUES and _suits(linear, values):
        return cast(Tensor, _HiddenLayer.apply(values, linear.weight, linear.bias, dropped))
    answers = F.relu(linear(values))
    return answers if dropout is None else dropout(answers)


def _suits(linear: nn.Linear, values: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and type(linear).forward is nn.Linear.forward
        and values.dim() == 2
        and suit(values, linear.weight, linear.bias)
        and not torch.is_autocast_enabled("cpu")
    )


class _HiddenLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, dropped: int) -> Tensor:
        answers = torch.addmm(bias, values, weight.t())
        ctx.scale = VALUES / (VALUES - dropped)
        call("dropout", answers, answers, new_seed(), answers.numel(), dropped, 1, ctx.scale)
        ctx.save_for_backward(values, weight, answers)
        return answers

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        values, weight, answers = ctx.saved_tensors
        by_sum, by_bias = torch.empty_like(answers), torch.empty(answers.shape[1])
        call("dropout_gradient", gradient.contiguous(), answers, by_sum, by_bias, *answers.shape, ctx.scale)
        by_values = by_sum.mm(weight) if ctx.needs_input_grad[0] else None
        return by_values, by_sum.t().mm(values), by_bias, None
