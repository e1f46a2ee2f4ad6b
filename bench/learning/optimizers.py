"""The recipe's optimiser and learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from bench.spec import Recipe


def make_optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser, in its fused form."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    betas = (recipe.momentum, recipe.beta2)
    return kind(parameters, recipe.lr, betas, weight_decay=recipe.weight_decay, fused=True)


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """Return the recipe's learning-rate schedule over ``steps`` steps; None if the rate is constant."""
    warm = steps * recipe.warmup_epochs // recipe.epochs
    if warm:

        def factor(step: int) -> float:
            done = max(0.0, (step - warm) / max(1, steps - warm))
            rest = (1 + math.cos(math.pi * min(1.0, done))) / 2 if recipe.schedule == "cosine" else 1.0
            return min(1.0, (step + 1) / warm) * rest

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    if recipe.schedule == "one-cycle":  # Smith and Topin, Super-Convergence, 2018
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, cycle_momentum=False)
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    return None
