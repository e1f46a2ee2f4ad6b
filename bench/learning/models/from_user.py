"""Models of the user's own: any callable that takes the number of classes and returns a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from bench.errors import UserError
from bench.learning.models.architecture import Architecture
from bench.learning.models.weights import Source
from bench.learning.user_code import UserCode, call
from bench.spec import ModelInput

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T", bound=Callable[..., Any])
_ATTRIBUTE = "bench_description"


def model(
    *,
    image_size: int | None = None,
    channels: Literal[1, 3] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    resizable: bool = True,
    head: str | None = None,
    sources: Mapping[str, Source] | None = None,
) -> Callable[[T], T]:
    """Return a decorator that says which pictures a model wants to see; what it leaves out follows from the data.

    Args:
        image_size: height and width in pixels.
        channels: 1 for grey, 3 for colour.
        mean: mean of each channel, for pixels from 0 to 1.
        std: standard deviation of each channel.
        resizable: False if the model takes no other size than ``image_size``.
        head: name of the sub-module that maps features to logits; by default the last linear layer.
        sources: sources of pretrained weights for all but the head, by name, in order of preference.
    """
    if (mean is None) != (std is None):
        raise ValueError("give mean and std together")
    if channels is None and mean is not None:
        channels = 3 if len(mean) == 3 else 1
    description = {
        "given": {"image_size": image_size, "channels": channels, "mean": mean, "std": std},
        "resizable": resizable,
        "head": head,
        "sources": dict(sources or {}),
    }

    def describe(function: T) -> T:
        setattr(function, _ATTRIBUTE, description)
        return function

    return describe


def find(name: str, code: UserCode) -> Architecture:
    """Return the model that ``name`` (FILE.py:NAME) names in ``code``.

    Raises:
        UserError: there is nothing of that name, or it cannot be called.
    """
    function = code.get(name, "model")
    described: dict[str, Any] = getattr(function, _ATTRIBUTE, {})
    given = {key: value for key, value in described.get("given", {}).items() if value is not None}

    def build(classes: int, form: ModelInput) -> nn.Module:
        from torch import nn

        made = call(function, classes, channels=form.channels, image_size=form.image_size)
        if not isinstance(made, nn.Module):
            raise UserError(f"{name} returned {type(made).__name__}, not a torch.nn.Module")
        return made

    return Architecture(
        name,
        build,
        lambda pretrained: given,
        resizable=described.get("resizable", True),
        head=described.get("head"),
        sources=described.get("sources", {}),
    )
