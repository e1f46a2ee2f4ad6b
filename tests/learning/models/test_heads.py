"""The head of a model is its last linear layer with an output per class, where that is all behind the features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.errors import UserError
from bench.learning.models.heads import head_of, is_last, without_head
from bench.learning.models.registry import find
from bench.spec import ModelInput

CLASSES = 7


def made(name: str) -> nn.Module:
    form = ModelInput(image_size=64, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    return find(f"torchvision/{name}").build(CLASSES, form)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
        ("shufflenet_v2_x0_5", "fc"),
        ("googlenet", "fc"),  # its outputs aux1 and aux2 only help in training
        pytest.param("densenet121", "classifier", marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", "classifier.1", marks=pytest.mark.slow),
        pytest.param("swin_t", "head", marks=pytest.mark.slow),
    ],
)
def test_the_head_is_the_last_linear_layer(name: str, head: str) -> None:
    model = made(name)
    images = torch.randn(2, 3, 64, 64)

    assert head_of(model, None, CLASSES) == head

    embedding = without_head(model, head)
    assert is_last(model, embedding, head, images)
    features = embedding(images)
    assert not embedding.training
    assert features.shape == (2, model.get_submodule(head).in_features)
    assert model(images).shape == (2, CLASSES), "the model keeps its head"


def test_a_last_layer_that_is_a_convolution_is_no_head() -> None:
    """And as a head by name, it is followed by more."""
    model = made("squeezenet1_1")

    assert head_of(model, None, CLASSES) is None

    images = torch.randn(2, 3, 64, 64)
    assert not is_last(model, without_head(model, "classifier.1"), "classifier.1", images)


def test_a_layer_with_another_number_of_outputs_is_no_head() -> None:
    assert head_of(made("resnet18"), None, CLASSES + 1) is None


def test_a_head_that_the_model_declares_is_taken() -> None:
    assert head_of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, CLASSES)), "0", CLASSES) == "0"


def test_a_head_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(UserError, match="has no sub-module 'classifier' to be its head; it has 0, 1"):
        head_of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, CLASSES)), "classifier", CLASSES)


class Transposed(nn.Module):
    """A model whose head's input is no vector of features."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).permute(0, 2, 3, 1)).mean((1, 2))


def test_what_is_computed_behind_the_head_is_noticed() -> None:
    model, images = Transposed().train(), torch.randn(2, 3, 9, 9)
    softmax = nn.Sequential(nn.Flatten(), nn.Linear(243, CLASSES), nn.Softmax(1))

    assert not is_last(softmax, without_head(softmax, "1"), "1", images)
    # a mean of linear functions is the linear function of the mean, so here the head comes last after all
    assert is_last(model, without_head(model, "head"), "head", images)
    assert not model.training
