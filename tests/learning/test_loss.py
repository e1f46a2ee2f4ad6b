from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench.learning.loss import FEW_LOGITS, backpropagate


def plain(logits: Tensor, labels: Tensor, scale: float, smoothing: float) -> tuple[Tensor, Tensor]:
    """The sum and its gradient, in float64."""
    exact = logits.detach().double().requires_grad_()
    loss = F.cross_entropy(exact, labels, reduction="sum", label_smoothing=smoothing)
    torch.autograd.backward(loss * scale)
    assert exact.grad is not None
    return loss.detach(), exact.grad


@given(
    rows=st.integers(1, 9),
    classes=st.integers(1, 12),
    scale=st.floats(0, 2, width=32),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    spread=st.sampled_from([0.1, 1.0, 50.0]),
    seed=st.integers(0, 1000),
)
def test_the_loss_and_its_gradient_are_those_of_pytorch(
    rows: int, classes: int, scale: float, smoothing: float, spread: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = (spread * torch.randn(rows, classes, generator=random)).requires_grad_()
    labels = torch.randint(classes, (rows,), generator=random)

    summed, right = backpropagate(logits, labels, scale=scale, label_smoothing=smoothing)

    loss, gradient = plain(logits, labels, scale, smoothing)
    torch.testing.assert_close(summed.double(), loss, rtol=1e-5, atol=1e-4)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), gradient, rtol=1e-4, atol=1e-6)
    assert int(right) == int((logits.argmax(1) == labels).sum())


def test_many_classes_are_left_to_pytorch_and_give_the_same() -> None:
    logits = torch.randn(4, FEW_LOGITS // 2, requires_grad=True)
    labels = torch.randint(FEW_LOGITS // 2, (4,))

    summed, right = backpropagate(logits, labels, scale=0.5, label_smoothing=0.0)

    loss, gradient = plain(logits, labels, 0.5, 0.0)
    torch.testing.assert_close(summed.double(), loss, rtol=1e-5, atol=1e-4)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), gradient, rtol=1e-4, atol=1e-6)
    assert int(right) == int((logits.argmax(1) == labels).sum())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_shows_in_the_loss(bad: float) -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad

    summed, _ = backpropagate(logits.requires_grad_(), torch.tensor([0, 1, 2]), scale=1.0, label_smoothing=0.0)

    assert not torch.isfinite(summed)


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(IndexError):
        backpropagate(torch.zeros(2, 4, requires_grad=True), torch.tensor([0, label]), scale=1.0, label_smoothing=0.0)


def test_a_class_that_is_ruled_out_leaves_the_loss_finite() -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    labels = torch.tensor([0])

    summed, _ = backpropagate(logits, labels, scale=1.0, label_smoothing=0.0)

    loss, gradient = plain(logits, labels, 1.0, 0.0)
    torch.testing.assert_close(summed.double(), loss, rtol=1e-5, atol=1e-5)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(64,), (64, 10, 1, 2), (63, 10), (65, 10)])
def test_logits_that_do_not_go_with_the_labels_are_pytorchs_to_refuse(shape: tuple[int, ...]) -> None:
    labels = torch.zeros(64, dtype=torch.int64)
    with pytest.raises((RuntimeError, ValueError)):
        backpropagate(torch.zeros(shape, requires_grad=True), labels, scale=1.0, label_smoothing=0.0)


def test_labels_of_another_type_are_pytorchs_to_refuse() -> None:
    with pytest.raises(RuntimeError):
        backpropagate(
            torch.zeros(64, 10, requires_grad=True), torch.zeros(64).to(torch.int32), scale=1.0, label_smoothing=0.0
        )
