"""Dropout is PyTorch's in all that can be seen of it: how much, which, how scaled, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from bench.learning import dropout
from bench.learning.dropout import Dropout


@pytest.fixture(autouse=True, params=["compiled", "PyTorch"], scope="module")
def _operators(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "PyTorch":
            patch.setattr(dropout, "suit", lambda values: False)
        yield


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.99])
def test_so_many_are_dropped_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    count = 1_000_000

    found = Dropout(p)(torch.ones(1000, 1000))

    kept = int(found.count_nonzero())
    assert stats.binom.cdf(kept, count, 1 - p) > 1e-6
    assert stats.binom.sf(kept - 1, count, 1 - p) > 1e-6
    assert torch.allclose(found[found != 0], torch.tensor(1 / (1 - p)), rtol=1e-2 if p == 0.99 else 1e-4)
    assert found.double().mean() == pytest.approx(1, abs=5 * (p / (1 - p) / count) ** 0.5 + 1e-9)


def test_neighbours_are_dropped_independently_in_every_lane() -> None:
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(100_000, 32)) == 0).double()

    assert (dropped.mean(0) - 0.5).abs().max() < 5 * 0.5 / 100_000**0.5
    correlation = torch.corrcoef(dropped.T) - torch.eye(32)
    assert correlation.abs().max() < 5 / 100_000**0.5


@given(shape=st.lists(st.integers(0, 19), min_size=1, max_size=3), p=st.sampled_from([0.0, 0.3, 1.0]))
def test_shapes_stay_and_gradients_flow_where_values_did(shape: list[int], p: float) -> None:
    values = torch.ones(shape, requires_grad=True)

    found = Dropout(p)(values)
    found.sum().backward()

    assert values.grad is not None
    assert found.shape == values.shape
    assert torch.equal(found, values.grad)


def test_the_seed_decides_and_evaluation_drops_nothing() -> None:
    layer, values = Dropout(0.5), torch.rand(50, 50)

    torch.manual_seed(3)
    first = layer(values)
    second = layer(values)
    torch.manual_seed(3)

    assert torch.equal(layer(values), first)
    assert not torch.equal(first, second)
    assert layer.eval()(values) is values
    assert isinstance(layer, nn.Dropout)
    assert layer.train()(values.bfloat16()).dtype == torch.bfloat16
