"""The optimisers compute what their papers say, and go on from a saved state to the same bits."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.learning.optimizers import make_optimizer, make_schedule
from bench.spec import Recipe

STEPS = 12
KINDS: list[Any] = ["adam", "adamw", "sgd"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad(set_to_none=True)
    model(inputs).square().sum().backward()
    optimizer.step()


def by_hand(model: nn.Module, recipe: Recipe, rates: list[float]) -> None:
    """Train with the papers' formulas: one step for each learning rate."""
    average = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    square = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for number, rate in enumerate(rates):
        model.zero_grad(set_to_none=True)
        model(torch.randn(4, 6, generator=torch.Generator().manual_seed(number))).square().sum().backward()
        with torch.no_grad():
            for name, value in model.named_parameters():
                gradient = value.grad
                assert gradient is not None
                if recipe.optimizer == "adamw":
                    value.mul_(1 - rate * recipe.weight_decay)
                else:
                    gradient = gradient + recipe.weight_decay * value
                if recipe.optimizer == "sgd":
                    average[name] = recipe.momentum * average[name] + gradient
                    value.sub_(rate * average[name])
                    continue
                average[name] = recipe.momentum * average[name] + (1 - recipe.momentum) * gradient
                square[name] = recipe.beta2 * square[name] + (1 - recipe.beta2) * gradient**2
                first = average[name] / (1 - recipe.momentum ** (number + 1))
                second = square[name] / (1 - recipe.beta2 ** (number + 1))
                value.sub_(rate * first / (second.sqrt() + 1e-8))


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", ["constant", "one-cycle", "cosine"])
def test_steps_are_those_of_the_papers(kind: Any, schedule: Any) -> None:
    recipe = Recipe(optimizer=kind, lr=1e-2, weight_decay=0.1, momentum=0.8, beta2=0.95, schedule=schedule)
    model, expected = network(), network()
    optimizer = make_optimizer(list(model.parameters()), recipe)
    schedule_of_steps = make_schedule(optimizer, recipe, STEPS)
    rates = []
    for number in range(STEPS):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        step(model, optimizer, number)
        if schedule_of_steps is not None:
            schedule_of_steps.step()

    by_hand(expected, recipe, rates)

    for value, wanted in zip(weights(model), weights(expected), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)
    assert len(set(rates)) == (1 if schedule == "constant" else STEPS)
    assert max(rates) <= 1e-2
    assert (weights(model)[0] - weights(network())[0]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_goes_on_from_a_saved_state_to_the_same_bits(kind: Any) -> None:
    recipe = Recipe(optimizer=kind)
    model = network()
    optimizer = make_optimizer(list(model.parameters()), recipe)
    for number in range(5):
        step(model, optimizer, number)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    again = copy.deepcopy(model)
    for number in range(5, 10):
        step(model, optimizer, number)

    buffer.seek(0)
    other = make_optimizer(list(again.parameters()), recipe)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for number in range(5, 10):
        step(again, other, number)

    for value, wanted in zip(weights(again), weights(model), strict=True):
        assert torch.equal(value, wanted)
