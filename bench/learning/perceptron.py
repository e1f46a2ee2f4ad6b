"""A perceptron with one hidden layer at once: on a CPU one node of the graph where there were seven."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.learning.compiled import call, lanes, suit
from bench.learning.dropout import VALUES, Dropout, new_seed, scale

FEW_CLASSES = 32
"""Up to which a loop is faster than PyTorch's products for the last layer's gradients."""


def perceptron(values: Tensor, hidden: nn.Linear, last: nn.Linear, dropout: Dropout | None = None) -> Tensor:
    """``last(dropout(relu(hidden(values))))``: that function, and its gradients.

    Small layers take as long to call as to compute. In training on a CPU in float32 all but the large products are
    loops of kernels.c.

    Args:
        values: float [batch, inputs].
        hidden: any linear layer.
        last: any linear layer on what the hidden one gives.
        dropout: of the hidden units; None for none.

    Returns:
        Float [batch, outputs].
    """
    dropped = round(dropout.p * VALUES) if dropout is not None and dropout.training else 0
    if dropped < VALUES and _suits(values, hidden, last):
        parameters = hidden.weight, hidden.bias, last.weight, last.bias
        return cast(Tensor, _Perceptron.apply(values, *parameters, dropped))
    units = F.relu(hidden(values))
    return cast(Tensor, last(units if dropout is None else dropout(units)))


def _suits(values: Tensor, hidden: nn.Linear, last: nn.Linear) -> bool:
    return (
        torch.is_grad_enabled()
        and type(hidden).forward is type(last).forward is nn.Linear.forward
        and values.dim() == 2
        and last.out_features <= FEW_CLASSES
        and hidden.out_features % lanes() == 0
        and suit(values, hidden.weight, hidden.bias, last.weight, last.bias)
    )


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, last_weight: Tensor, last_bias: Tensor, dropped: int
    ) -> Tensor:
        units = torch.addmm(bias, values, weight.t())
        ctx.scale = scale(dropped)
        call("dropout", units, units, new_seed(), units.numel(), dropped, 1, ctx.scale)
        ctx.save_for_backward(values, weight, last_weight, units)
        return torch.addmm(last_bias, units, last_weight.t())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, None]:
        values, weight, last_weight, units = ctx.saved_tensors
        by_sum, by_bias = torch.empty_like(units), torch.empty(units.shape[1])
        by_last_weight, by_last_bias = torch.empty_like(last_weight), torch.empty(len(last_weight))
        found = by_sum, by_bias, by_last_weight, by_last_bias
        sizes = *units.shape, len(last_weight)
        call("perceptron_gradients", gradient.contiguous(), units, last_weight, *found, *sizes, ctx.scale)
        by_values = by_sum.mm(weight) if ctx.needs_input_grad[0] else None
        return by_values, by_sum.t().mm(values), by_bias, by_last_weight, by_last_bias, None
