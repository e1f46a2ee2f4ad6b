"""The recipe's optimiser and learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.spec import Recipe


def make_optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser, in its fused form."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
    decoupled = recipe.optimizer == "adamw"
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    options: dict[str, Any] = {"betas": (recipe.momentum, recipe.beta2), "weight_decay": recipe.weight_decay}
    if on_cpu:
        kind: type[torch.optim.Adam] = _BriefAdam
        options["decoupled_weight_decay"] = decoupled
    else:
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    return kind(parameters, recipe.lr, fused=True, **options)


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """What changes the learning rate after each of ``steps`` steps; None where nothing does."""
    if recipe.schedule == "one-cycle":  # Smith and Topin, Super-Convergence, 2018
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, cycle_momentum=False)
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    return None


_Tensors = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
"""Parameters, averages of gradients and of their squares, and the counter once for each parameter."""


class _BriefAdam(torch.optim.Adam):
    """``torch.optim.Adam(fused=True)`` on a CPU without the half of its step's time that is bookkeeping.

    All parameters have made the same number of steps, so that one counter does for them; the tensors stay what they
    are, so that they need not be sorted by device and type each time. The same operator computes, with the same result.
    """

    _tensors: _Tensors | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients that there are."""
        (group,) = self.param_groups
        gradients = [parameter.grad for parameter in group["params"]]
        if closure is not None or any(gradient is None for gradient in gradients):
            self._count_apart()
            return super().step(closure)
        if self._tensors is None:
            self._tensors = self._gathered(group["params"])
        if self._tensors is None:  # the first step makes the averages
            return super().step()
        parameters, averages, squares, counters = self._tensors
        update = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        with torch.no_grad():
            counters[0].add_(1)
            update(
                parameters,
                cast(list[Tensor], gradients),
                averages,
                squares,
                [],
                counters,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
        return None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """No gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    # what Optimizer would wrap around it: a profiler's label and hooks that nothing here sets
    step.hooked = True  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from another's state."""
        super().load_state_dict(state_dict)
        self._tensors = None

    def _count_apart(self) -> None:
        self._tensors = None
        for state in self.state.values():
            state["step"] = state["step"].clone()

    def _gathered(self, parameters: list[Tensor]) -> _Tensors | None:
        """None before all have made a step, or as long as some have made fewer than others."""
        states = [self.state[parameter] for parameter in parameters if parameter in self.state]
        if len(states) < len(parameters) or len({float(state["step"]) for state in states}) > 1:
            return None
        for state in states:
            state["step"] = states[0]["step"]
        averages, squares = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
        return parameters, averages, squares, [states[0]["step"]] * len(states)
