"""A linear layer, ReLU and dropout in one: PyTorch's function and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.learning.dropout import Dropout
from bench.learning.hidden_layer import hidden_layer


def whole_numbers(random: torch.Generator, *shape: int) -> Tensor:
    """So that nothing is rounded in whatever order it is summed."""
    return torch.randint(-3, 4, shape, generator=random).float()


def gradients(answers: Tensor, gradient: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(answers, of, gradient)


@given(
    batch=st.integers(1, 9),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    p=st.sampled_from([None, 0.0, 0.5]),
    seed=st.integers(0, 1000),
    columns_first=st.booleans(),
)
def test_it_is_pytorchs_function_with_pytorchs_gradients(
    batch: int, inputs: int, outputs: int, p: float | None, seed: int, columns_first: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(whole_numbers(random, *parameter.shape))
    values = whole_numbers(random, inputs, batch).t() if columns_first else whole_numbers(random, batch, inputs)
    gradient = whole_numbers(random, batch, outputs)
    wanted = values.requires_grad_(), linear.weight, linear.bias
    torch.manual_seed(seed)

    answers = hidden_layer(linear, values, None if p is None else Dropout(p))

    plain = F.relu(linear(values))
    factors = torch.where((answers == 0) & (plain > 0), 0.0, 1.0 if p is None else 1 / (1 - p))
    assert torch.equal(answers, plain * factors)
    ours, theirs = gradients(answers, gradient, *wanted), gradients(plain * factors, gradient, *wanted)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    if not p:
        assert torch.equal(answers, plain)


def test_as_much_is_dropped_as_asked_for_and_only_in_training() -> None:
    linear, dropout, values = nn.Linear(20, 500), Dropout(0.3), torch.rand(400, 20)
    plain = F.relu(linear(values))

    answers = hidden_layer(linear, values, dropout)

    alive = plain > 0
    dropped = (answers[alive] == 0).double()
    assert dropped.mean() == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / len(dropped)) ** 0.5)
    assert torch.equal(hidden_layer(linear, values, dropout.eval()), plain)
    with torch.inference_mode():
        assert torch.equal(hidden_layer(linear, values, dropout), plain)


def test_dropping_all_gives_zeros_and_no_gradient() -> None:
    linear = nn.Linear(3, 4)

    answers = hidden_layer(linear, torch.rand(2, 3), Dropout(1.0))

    assert not answers.any()
    assert not any(gradient.any() for gradient in gradients(answers, torch.ones(2, 4), linear.weight, linear.bias))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(broken: float) -> None:
    linear, values = nn.Linear(3, 40), torch.rand(2, 3)
    values[1, 2] = broken

    answers = hidden_layer(linear, values, Dropout(0.5))

    assert torch.equal(answers.isfinite().all(1), torch.tensor([True, False]))


def test_a_subclass_of_linear_and_other_precisions_keep_their_own_arithmetic() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    linear, values = Doubled(3, 4), torch.rand(2, 3)
    assert torch.equal(hidden_layer(linear, values), F.relu(2 * F.linear(values, linear.weight, linear.bias)))
    with torch.autocast("cpu", torch.bfloat16):
        assert hidden_layer(nn.Linear(3, 4), values).dtype == torch.bfloat16
    assert hidden_layer(nn.Linear(3, 4).double(), values.double()).dtype == torch.float64


@pytest.mark.parametrize("threads", [1, 3])
def test_the_seed_decides_what_is_dropped_whatever_the_threads(threads: int) -> None:
    before = torch.get_num_threads()
    linear, values = nn.Linear(64, 300), torch.rand(100, 64)
    torch.manual_seed(5)
    expected = hidden_layer(linear, values, Dropout(0.5))
    try:
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        found = hidden_layer(linear, values, Dropout(0.5))
    finally:
        torch.set_num_threads(before)

    assert torch.equal(found == 0, expected == 0)
