"""Every classification model of torchvision, as ``torchvision/NAME``."""

from __future__ import annotations

import warnings
from typing import Any

import torchvision.models
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from bench.errors import unknown
from bench.learning.models.architecture import Architecture, multiple_of_32
from bench.learning.models.weights import HubSource
from bench.spec import ModelInput


def find(name: str) -> Architecture:
    """Return the model called ``torchvision/NAME``; its weights and their preprocessing are torchvision's default.

    Raises:
        UserError: torchvision has no classification model of that name.
    """
    names = list_models(module=torchvision.models)
    short = name.partition("/")[2]
    if short not in names:
        raise unknown("model", name, [f"torchvision/{other}" for other in names])
    default: Any = get_model_weights(short).DEFAULT
    preprocessing = default.transforms()
    size, resized = preprocessing.crop_size[0], preprocessing.resize_size[0]
    pretrained_input = {
        "image_size": size,
        "channels": 3,
        "mean": tuple(preprocessing.mean),
        "std": tuple(preprocessing.std),
        "crop": min(1.0, size / resized),
        "interpolation": preprocessing.interpolation.value,
    }

    def build(classes: int, form: ModelInput) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the initial weights of two old models
            made: nn.Module = get_model(short, weights=None, num_classes=classes)
        return made

    source = HubSource(
        description=f"ImageNet (torchvision {default.name})",
        url=default.url,
        sha256_prefix=default.url.rsplit("-", 1)[-1].partition(".")[0],
    )
    return Architecture(
        name,
        build,
        lambda pretrained: pretrained_input if pretrained else {"channels": 3},
        fit=multiple_of_32(max(default.meta["min_size"])),
        sources={"imagenet": source},
    )
