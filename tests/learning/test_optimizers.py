from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from bench.learning.optimizers import make_optimizer, make_schedule
from bench.spec import Recipe


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def torchs_own(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    betas = (recipe.momentum, recipe.beta2)
    return kind(parameters, recipe.lr, betas=betas, weight_decay=recipe.weight_decay, fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad(set_to_none=True)
    model(inputs).square().sum().backward()
    optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(weights(one), weights(other), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_steps_as_torchs_optimiser_to_the_last_bit(kind: str, schedule: str) -> None:
    recipe = Recipe(optimizer=kind, weight_decay=0.1, schedule=schedule)
    one, other = network(), network()
    ours, theirs = make_optimizer(list(one.parameters()), recipe), torchs_own(list(other.parameters()), recipe)
    schedules = make_schedule(ours, recipe, 20), make_schedule(theirs, recipe, 20)
    for number in range(20):
        step(one, ours, number)
        step(other, theirs, number)
        for each in filter(None, schedules):
            each.step()
    assert_same(one, other)
    assert not torch.equal(weights(one)[0], weights(network())[0])


def test_goes_on_from_a_saved_state() -> None:
    model = network()
    optimizer = make_optimizer(list(model.parameters()), Recipe(optimizer="adam"))
    for number in range(5):
        step(model, optimizer, number)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    again = copy.deepcopy(model)
    for number in range(5, 10):
        step(model, optimizer, number)

    buffer.seek(0)
    other = make_optimizer(list(again.parameters()), Recipe(optimizer="adam"))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for number in range(5, 10):
        step(again, other, number)
    assert_same(model, again)
    assert [float(state["step"]) for state in other.state.values()] == [10] * 4


def test_a_parameter_without_a_gradient_misses_that_step_alone() -> None:
    one, other = network(), network()
    ours, theirs = (
        make(list(model.parameters()), Recipe(optimizer="adam"))
        for make, model in ((make_optimizer, one), (torchs_own, other))
    )
    for number in range(8):
        for model, optimizer in ((one, ours), (other, theirs)):
            last = model[2]  # type: ignore[index]
            for parameter in last.parameters():
                parameter.requires_grad_(number not in (3, 4))
            step(model, optimizer, number)
    assert_same(one, other)
    counted = [[float(state["step"]) for state in optimizer.state.values()] for optimizer in (ours, theirs)]
    assert counted[0] == counted[1] == [8, 8, 6, 6]
