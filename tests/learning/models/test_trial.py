"""Strange models are tried out before anything trains: those that can be trained are, the others are told why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.build import build
from bench.learning.models.trial import try_out
from bench.spec import ModelInput

CLASSES = 5
FORM = ModelInput(image_size=8)


class Net(nn.Module):
    """A plain network, whose answer is changed."""

    def __init__(self, change: Callable[[Tensor], Any] = lambda logits: logits, outputs: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(12, outputs)
        self.change = change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.head(self.body(images)))


def spec_of(make: Callable[[int], nn.Module], *, head: str | None = None) -> ModelSpec:
    return ModelSpec("mine.py:Net", FORM, build=make, head=head)


def refused(make: Callable[[int], nn.Module], *words: str, head: str | None = None) -> None:
    with pytest.raises(UserError) as caught:
        try_out(spec_of(make, head=head), CLASSES, None)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def answers(make: Callable[[int], nn.Module]) -> nn.Module:
    """The model as a run builds it, after its trial: it maps images to logits, in training and evaluation."""
    assert try_out(spec_of(make), CLASSES, None) is None
    model = build(spec_of(make), CLASSES, None, seed=3)
    images = torch.randn(4, 1, 8, 8)
    for training in (True, False):
        logits = model.train(training)(images)
        assert isinstance(logits, Tensor)
        assert logits.shape == (4, CLASSES)
    return model


# --- those that can be trained -------------------------------------------------------------------------------------


def test_a_plain_model_is_built_as_it_is() -> None:
    model = answers(lambda classes: Net())

    again = build(spec_of(lambda classes: Net()), CLASSES, None, seed=3)
    fresh = Net().state_dict()
    for name, value in again.state_dict().items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(value, fresh[name]), "the trial leaves no statistics behind"
    assert again.training
    assert not model._forward_hooks


def test_lazy_layers_are_made_and_the_same_for_a_seed() -> None:
    def lazy(classes: int) -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))

    answers(lazy)

    one, same, other = (build(spec_of(lazy), CLASSES, None, seed=seed).state_dict() for seed in (1, 1, 2))
    assert one["4.weight"].shape == (CLASSES, 4 * 6 * 6)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["4.weight"], other["4.weight"])


class WithAuxiliary(Net):
    """A model that returns a second output in training, as GoogLeNet does."""

    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return (logits, 2 * logits) if self.training else logits


class Answer:
    """An answer with more in it, as those of Hugging Face's models."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.hidden_states = logits, None


@pytest.mark.parametrize(
    "make",
    [
        lambda classes: WithAuxiliary(),
        lambda classes: Net(lambda logits: (logits, None)),
        lambda classes: Net(lambda logits: [logits]),
        lambda classes: Net(lambda logits: {"loss": None, "logits": logits}),
        lambda classes: Net(Answer),
    ],
    ids=["tuple in training", "tuple", "list", "dict", "object"],
)
def test_the_logits_in_an_answer_with_more_in_it_are_taken(make: Callable[[int], nn.Module]) -> None:
    answers(make)


def test_a_frozen_part_beside_one_that_is_trained_is_a_model() -> None:
    def make(classes: int) -> nn.Module:
        model = Net()
        for parameter in model.body.parameters():
            parameter.requires_grad_(False)
        return model

    answers(make)


def test_positive_answers_that_are_no_probabilities_are_logits() -> None:
    answers(lambda classes: Net(lambda logits: logits.relu() + 1))
    answers(lambda classes: Net(lambda logits: logits.sigmoid()))
    answers(lambda classes: Net(lambda logits: logits.log_softmax(1)))


# --- those that cannot ---------------------------------------------------------------------------------------------


def fails(logits: Tensor) -> Tensor:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand a second line")


class FailsInTraining(Net):
    def forward(self, images: Tensor) -> Any:
        if self.training:
            raise ValueError("not so")
        return super().forward(images)


def no_builder(classes: int) -> nn.Module:
    raise TypeError("it takes no classes")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda classes: Net(lambda logits: logits.softmax(1)), ["probabilities", "leave the softmax at its end out"]),
        (lambda classes: Net(outputs=1000), ["2x1000 numbers", "2x5 are needed", "number of classes"]),
        (lambda classes: Net(lambda logits: logits[0]), ["with 5 numbers", "2x5 are needed"]),
        (lambda classes: Net(lambda logits: logits[:, :, None, None]), ["2x5x1x1", "2x5 are needed"]),
        (lambda classes: Net(lambda logits: logits.mean()), ["2x5 are needed"]),
        (lambda classes: Net(lambda logits: logits.detach()), ["no gradients", "detach"]),
        (lambda classes: Net(lambda logits: logits * float("nan")), ["not finite"]),
        (lambda classes: Net(lambda logits: logits.argmax(1)), ["2x5 are needed"]),
        (lambda classes: Net(fails), ["8 px", "shapes cannot be multiplied"]),
        (lambda classes: FailsInTraining(), ["not so"]),
        (lambda classes: Net(lambda logits: "cat"), ["mine.py:Net: it returns str", "a tensor of logits is needed"]),
        (lambda classes: Net(lambda logits: {"scores": logits}), ["mine.py:Net: it returns dict", "'logits'"]),
        (lambda classes: nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(CLASSES)), ["no parameters"]),
        (no_builder, ["cannot be built for 8 px, grey", "it takes no classes"]),
    ],
    ids=[
        *("softmax", "1,000 classes", "no batch axis", "maps", "one number", "detached", "nan", "class numbers"),
        *("raises", "raises in training", "text", "dict without logits", "no parameters", "not built"),
    ],
)
def test_a_model_that_cannot_be_trained_is_told_why(make: Callable[[int], nn.Module], words: list[str]) -> None:
    refused(make, "mine.py:Net", *words)


def test_a_model_that_answers_otherwise_in_evaluation_is_told_so() -> None:
    class Switching(Net):
        def forward(self, images: Tensor) -> Any:
            logits = super().forward(images)
            return logits if self.training else self.evaluated(logits)

        def __init__(self, evaluated: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.evaluated = evaluated

    refused(lambda classes: Switching(lambda logits: logits.repeat(1, 200)), "2x1000 numbers", "2x5 are needed")
    refused(lambda classes: Switching(lambda logits: logits.softmax(1)), "probabilities; logits are needed")


def test_a_model_that_is_frozen_as_a_whole_is_refused() -> None:
    refused(lambda classes: Net().requires_grad_(False), "no gradients")


def test_a_head_that_the_model_has_not_is_refused() -> None:
    refused(
        lambda classes: Net(), "mine.py:Net: the model has no sub-module 'classifier'", "body, head", head="classifier"
    )


def test_pictures_that_a_model_does_not_take_are_described() -> None:
    make = spec_of(lambda classes: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, classes)))

    with pytest.raises(UserError, match=r"8 px, grey, mean 0\.1307, std 0\.3081"):
        try_out(make, CLASSES, None)


# --- weights that a model brings by itself -------------------------------------------------------------------------


def brings(seed: int, *, head: bool = True) -> Callable[[int], nn.Module]:
    """A builder of a model whose weights are those of a seed of its own, with or without those of its head."""

    def make(classes: int) -> nn.Module:
        model = Net()
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        known = Net().state_dict()
        torch.set_rng_state(state)
        model.load_state_dict({**model.state_dict(), **{k: v for k, v in known.items() if head or "head" not in k}})
        return model

    return make


def test_weights_that_a_model_brings_by_itself_are_known_by_their_digest() -> None:
    one, same, other = (try_out(spec_of(brings(seed)), CLASSES, None) for seed in (1, 1, 2))

    assert one is not None
    assert len(one) == 64
    assert one == same != other
    beside_a_random_head = try_out(spec_of(brings(1, head=False)), CLASSES, None)
    assert beside_a_random_head is not None
    assert beside_a_random_head != one
    assert try_out(spec_of(lambda classes: Net()), CLASSES, None) is None


def test_constant_weights_are_no_pretrained_ones() -> None:
    def zeros(classes: int) -> nn.Module:
        model = Net()
        nn.init.zeros_(model.head.weight)
        nn.init.ones_(model.body[1].weight)
        return model

    assert try_out(spec_of(zeros), CLASSES, None) is None
