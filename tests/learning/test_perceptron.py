"""Two linear layers, with ReLU and dropout between, in one: PyTorch's function and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.learning.dropout import Dropout
from bench.learning.perceptron import FEW_CLASSES, perceptron


def layers(inputs: int, units: int, classes: int, random: torch.Generator | None = None) -> tuple[nn.Linear, nn.Linear]:
    """Hidden and last; with ``random`` of whole numbers."""
    made = nn.Linear(inputs, units), nn.Linear(units, classes)
    if random is not None:
        with torch.no_grad():
            for parameter in (*made[0].parameters(), *made[1].parameters()):
                parameter.copy_(whole_numbers(random, *parameter.shape))
    return made


def whole_numbers(random: torch.Generator, *shape: int) -> Tensor:
    """So that nothing is rounded in whatever order it is summed."""
    return torch.randint(-3, 4, shape, generator=random).float()


def dropped_units(values: Tensor, hidden: nn.Linear, dropout: Dropout) -> Tensor:
    """Which of the units that ReLU lets through perceptron() drops: bool [batch, units]; from PyTorch's generator."""
    units = hidden.out_features
    with torch.random.fork_rng(), torch.no_grad():  # what the units are, one by one
        last = nn.Linear(units, units)
        last.weight.copy_(torch.eye(units))
        last.bias.zero_()
    shown = perceptron(values, hidden, last, dropout)
    return (shown == 0) & (hidden(values) > 0)


@given(
    batch=st.integers(1, 9),
    inputs=st.integers(1, 40),
    units=st.sampled_from([1, 8, 16, 20, FEW_CLASSES]),
    classes=st.sampled_from([1, 2, 10, FEW_CLASSES, FEW_CLASSES + 1]),
    p=st.sampled_from([None, 0.0, 0.5]),
    seed=st.integers(0, 1000),
    columns_first=st.booleans(),
)
def test_it_is_pytorchs_function_with_pytorchs_gradients(
    batch: int, inputs: int, units: int, classes: int, p: float | None, seed: int, columns_first: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    hidden, last = layers(inputs, units, classes, random)
    values = whole_numbers(random, inputs, batch).t() if columns_first else whole_numbers(random, batch, inputs)
    gradient = whole_numbers(random, batch, classes)
    wanted = values.requires_grad_(), *hidden.parameters(), *last.parameters()
    dropout = None if p is None else Dropout(p)
    factors = torch.ones(batch, units)
    if dropout is not None and p:
        torch.manual_seed(seed)
        factors = torch.where(dropped_units(values, hidden, dropout), 0.0, 1 / (1 - p))

    torch.manual_seed(seed)
    answers = perceptron(values, hidden, last, dropout)

    plain = last(F.relu(hidden(values)) * factors)
    assert torch.equal(answers, plain)
    ours, theirs = torch.autograd.grad(answers, wanted, gradient), torch.autograd.grad(plain, wanted, gradient)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_as_much_is_dropped_as_asked_for_and_only_in_training() -> None:
    hidden, last = layers(20, FEW_CLASSES, 10)
    dropout, values = Dropout(0.3), torch.rand(5000, 20)
    alive = hidden(values) > 0

    dropped = dropped_units(values, hidden, dropout)[alive].double()

    assert dropped.mean() == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / len(dropped)) ** 0.5)
    plain = last(F.relu(hidden(values)))
    assert torch.allclose(perceptron(values, hidden, last, dropout.eval()), plain, atol=1e-6)
    with torch.inference_mode():
        assert torch.equal(perceptron(values, hidden, last, dropout), plain)


def test_dropping_all_leaves_the_last_bias() -> None:
    hidden, last = layers(3, 4, 5)

    answers = perceptron(torch.rand(2, 3), hidden, last, Dropout(1.0))

    assert torch.equal(answers, last.bias.expand(2, 5))
    assert not any(gradient.any() for gradient in torch.autograd.grad(answers, tuple(hidden.parameters()), answers))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(broken: float) -> None:
    hidden, last = layers(3, 40, 5)
    values = torch.rand(2, 3)
    values[1, 2] = broken

    answers = perceptron(values, hidden, last, Dropout(0.5))

    assert torch.equal(answers.isfinite().all(1), torch.tensor([True, False]))


def test_a_subclass_of_linear_and_other_precisions_keep_their_own_arithmetic() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    (hidden, last), values = layers(3, 4, 5), torch.rand(2, 3)
    doubled = Doubled(3, 4)
    assert torch.equal(perceptron(values, doubled, last), last(F.relu(2 * nn.Linear.forward(doubled, values))))
    with torch.autocast("cpu", torch.bfloat16):
        assert perceptron(values, hidden, last).dtype == torch.bfloat16
    assert perceptron(values.double(), hidden.double(), last.double()).dtype == torch.float64


@pytest.mark.parametrize("threads", [1, 3])
def test_the_seed_decides_what_is_dropped_whatever_the_threads(threads: int) -> None:
    before = torch.get_num_threads()
    hidden, values = nn.Linear(64, FEW_CLASSES), torch.rand(900, 64)
    torch.manual_seed(5)
    expected = dropped_units(values, hidden, Dropout(0.5))
    try:
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        found = dropped_units(values, hidden, Dropout(0.5))
    finally:
        torch.set_num_threads(before)

    assert expected.any()
    assert torch.equal(found, expected)
