"""An architecture, which can be asked for by name, and a model made of it for one form of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.learning.models.weights import Source
from bench.spec import ModelInput

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ModelSpec:
    """A model that is ready to be built for one form of pictures."""

    name: str
    input: ModelInput
    build: Callable[[int], nn.Module]
    """The function that makes a random module for a number of classes; the module maps float [batch, channels,
    image_size, image_size] to logits [batch, classes]."""
    head: str | None
    """Name of the sub-module that maps features to logits; None leaves it to :func:`~.heads.head_of`."""
    load: Callable[[int, Mapping[str, Tensor]], nn.Module] | None = None
    """The function that makes a module from the tensors of a weights file, where its library has its own way."""
    built_in: bool = False


@dataclass(frozen=True)
class Architecture:
    """An architecture: what can be asked for by name, and built for the pictures and classes of any data set."""

    name: str
    build: Callable[[int, ModelInput], nn.Module]
    """The function that makes a random module for a number of classes and the form of its pictures."""
    wants: Callable[[bool], Mapping[str, Any]] = field(default=lambda pretrained: {})
    """The function that returns the fields of :class:`ModelInput` that the model asks for, from whether it starts from
    pretrained weights; the others follow from the data."""
    fit: Callable[[int], int] = field(default=lambda size: size)
    """The function that returns the image size for pictures of another size, where the model does not ask for one."""
    least_size: int = 1
    """The smallest height and width that the model takes, pixels."""
    resizable: bool = True
    """True if the model takes images of other sizes too (``--image-size``)."""
    head: str | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Sources of pretrained weights, in order of preference."""
    load: Callable[[int, ModelInput, Mapping[str, Tensor]], nn.Module] | None = None
    built_in: bool = False

    def spec(self, form: ModelInput) -> ModelSpec:
        """Return the model for one form of pictures."""
        load = self.load
        return ModelSpec(
            self.name,
            form,
            lambda classes: self.build(classes, form),
            self.head,
            None if load is None else lambda classes, state: load(classes, form, state),
            self.built_in,
        )


def multiple_of_32(least: int) -> Callable[[int], int]:
    """Return a function from a size to the next multiple of 32 pixels, which most networks ask for."""
    return lambda size: max(least, 32 * -(-size // 32))
