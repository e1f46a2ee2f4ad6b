"""Writing of trained models to safetensors files, and reading them back for inference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.learning.models.build import load_weights, read_state
from bench.learning.models.registry import MODELS, ModelSpec
from bench.learning.models.weights import Weights


@dataclass(frozen=True)
class Trained:
    """A trained model, ready for inference."""

    module: nn.Module
    """The model, in evaluation mode."""
    spec: ModelSpec
    class_names: tuple[str, ...]
    about: dict[str, str]
    """The checkpoint's metadata; empty for a bare state dict."""


def to_safetensors(model: nn.Module, spec: ModelSpec, class_names: tuple[str, ...], **about: str) -> bytes:
    """Return the trained model as a safetensors file; its metadata has all that is needed to use it, and ``about``."""
    metadata = {
        "format": "pt",
        "model": spec.name,
        "input_size": str(spec.input_size),
        "channels": str(spec.channels),
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
        "class_names": json.dumps(class_names),
        **about,
    }
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return cast(bytes, safetensors.torch.save(state, metadata=metadata))


def read_metadata(weights: Weights) -> dict[str, str]:
    """Return the metadata of a checkpoint that bench wrote; it is empty for other files.

    Raises:
        UserError: the file is a damaged safetensors file.
    """
    if not weights.path.endswith(".safetensors"):
        return {}
    content = weights.content.tobytes()
    try:
        safetensors.deserialize(content)  # type: ignore[no-untyped-call] # checks lengths and offsets
        length = int.from_bytes(content[:8], "little")
        metadata: Any = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, AttributeError) as error:
        raise UserError(f"{weights.path} is not a safetensors file or is damaged ({error})") from None
    return {str(name): str(value) for name, value in metadata.items()}


def load_trained(weights: Weights, model: str | None = None) -> Trained:
    """Load the whole trained model in a checkpoint, with its head.

    Args:
        weights: a checkpoint that bench wrote, or a .pth or .safetensors file with a state dict.
        model: registered name; None takes the name in the checkpoint.

    Returns:
        The model; classes that the file does not name are called by their numbers.

    Raises:
        UserError: the file is damaged, is of another model or has other shapes, or does not name its model.
    """
    about = read_metadata(weights)
    named = about.get("model")
    if model is None:
        if named is None:
            raise UserError(f"{weights.path} does not say which model it is of; name it with --model")
        if named not in MODELS:
            raise UserError(
                f"{weights.path} is of the model {named!r}, which is not registered ({', '.join(sorted(MODELS))} are); "
                "name the file that defines it with --plugin"
            )
        model = named
    spec = MODELS.find(model)
    if named is not None and named != model:
        raise UserError(f"{weights.path} is a checkpoint of {named}, not of {model}; use --model {named}")
    _check_inputs(weights, spec, about)
    state = read_state(weights)
    classes = _classes(state, spec, weights)
    names = _names(about, classes)
    module = spec.build(classes)
    expected = {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    load_weights(module, spec, weights)
    # load_weights() accepts a backbone alone; here a head that stays random would be measured as if it were trained
    shapes = module.state_dict()
    absent = sorted(name for name in expected if name not in state or state[name].shape != shapes[name].shape)
    if absent:
        raise UserError(
            f"{weights.path} holds {spec.name}'s backbone but not the trained head ({absent[0]} is missing or has "
            "another shape)"
        )
    strange = sorted(name for name in state if name not in shapes)
    if strange:
        raise UserError(f"{weights.path} is of another model than {spec.name}: it also holds {strange[0]}")
    module.eval()
    return Trained(module.to(memory_format=torch.channels_last), spec, names, about)


def _check_inputs(weights: Weights, spec: ModelSpec, about: dict[str, str]) -> None:
    """Refuse a checkpoint trained on other inputs than the registered model takes: its answers would be wrong."""
    expected = {
        "input_size": str(spec.input_size),
        "channels": str(spec.channels),
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
    }
    for name, value in expected.items():
        if name in about and about[name] != value:
            raise UserError(f"{weights.path} was trained with {name} {about[name]}, but {spec.name} has {value}")


def _classes(state: dict[str, Tensor], spec: ModelSpec, weights: Weights) -> int:
    """Return the number of classes: the size of the first tensor axis that grows with the model's classes."""
    two, three = (spec.build(classes).state_dict() for classes in (2, 3))
    for name, value in two.items():
        for axis, (less, more) in enumerate(zip(value.shape, three[name].shape, strict=True)):
            if (less, more) == (2, 3) and name in state and state[name].ndim == value.ndim:
                return int(state[name].shape[axis])
    load_weights(spec.build(2), spec, weights)  # if tensors are missing, its error names them
    raise UserError(f"{weights.path} does not hold the last layer of {spec.name}: it is no trained model")


def _names(about: dict[str, str], classes: int) -> tuple[str, ...]:
    try:
        named: Any = json.loads(about.get("class_names", "null"))
    except ValueError:
        named = None
    if isinstance(named, list) and len(named) == classes:
        return tuple(str(name) for name in named)
    return tuple(str(number) for number in range(classes))
