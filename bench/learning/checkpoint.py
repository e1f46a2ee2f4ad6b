"""Writing of trained models to safetensors files, and reading them back for inference."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import nn

from bench.errors import UserError, first_line
from bench.learning.data.class_names import listed
from bench.learning.models.architecture import Architecture, ModelSpec
from bench.learning.models.build import load_weights, make
from bench.learning.models.registry import IMAGENET_MEAN, IMAGENET_STD, MODELS, find
from bench.learning.models.state import State, metadata_of, read_state
from bench.learning.models.weights import Weights
from bench.learning.user_code import UserCode, split_name
from bench.spec import ModelInput


@dataclass(frozen=True)
class Trained:
    """A trained model, ready for inference."""

    module: nn.Module
    """The model, in evaluation mode."""
    spec: ModelSpec
    class_names: tuple[str, ...]
    about: dict[str, str]
    """The checkpoint's metadata; empty for a bare state dict."""
    names_classes: bool = True
    """False if the file does not name its classes; ``class_names`` are then their numbers."""
    names_input: bool = True
    """False if the file does not say on which form of pictures the model was trained."""


def to_safetensors(model: nn.Module, spec: ModelSpec, class_names: tuple[str, ...], **about: str) -> bytes:
    """Return the trained model as a safetensors file; its metadata has all that is needed to use it, and ``about``."""
    metadata = {
        "format": "pt",
        "model": spec.name,
        "input": spec.input.model_dump_json(),
        "class_names": json.dumps(class_names),
        **about,
    }
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return cast(bytes, safetensors.torch.save(state, metadata=metadata))


def load_trained(
    weights: Weights,
    model: str | None = None,
    form: Mapping[str, object] | None = None,
    class_names: Sequence[str] | None = None,
) -> Trained:
    """Load the whole trained model in a checkpoint, with its head.

    Args:
        weights: a checkpoint that bench wrote, or a .pth or .safetensors file with a state dict.
        model: name of the model; None takes the name in the checkpoint.
        form: fields of :class:`ModelInput` that the user gave, for a file that does not say them; where neither does,
            they are those of the model with pretrained weights.
        class_names: the names of the classes, for a file that does not say them.

    Returns:
        The model; classes that the file does not name are called by their numbers.

    Raises:
        UserError: the file is damaged, is of another model or has other shapes, or does not name its model.
    """
    about = metadata_of(weights)
    named = about.get("model")
    if model is None:
        if named is None:
            raise UserError(f"{weights.path} does not say which model it is of; name it with --model")
        model = named
        place = split_name(named)[0] if UserCode.is_named_by(named) else ""
        if place.endswith(".py") and not Path(place).is_file():
            raise UserError(f"{weights.path} is of {named}, which is not here; name the file with --model FILE.py:NAME")
    architecture = find(model)
    if named is not None and _last_part(named) != _last_part(model):
        raise UserError(f"{weights.path} is a trained model of {named}, not of {model}; use --model {named}")
    stated = _input_in(about, architecture, weights)
    if stated is not None and form:
        raise UserError(f"{weights.path} says that it was trained on {stated.describe()}; leave out {_flags(form)}")
    spec = architecture.spec(stated or _input_assumed(architecture, form or {}))
    state = read_state(weights, make(spec, 2).state_dict())
    classes = _classes(state, spec, weights)
    names = _names(about, classes, class_names, weights)
    module = make(spec, classes)
    expected = {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    load_weights(module, spec, weights, classes)
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
    numbers = tuple(str(number) for number in range(classes))
    module.to(memory_format=torch.channels_last)
    return Trained(
        module, spec, names or numbers, about, names_classes=names is not None, names_input=stated is not None
    )


def _last_part(name: str) -> str:
    return name.rpartition(":")[2]


def _input_in(about: dict[str, str], architecture: Architecture, weights: Weights) -> ModelInput | None:
    """Return the form of the pictures that a checkpoint was trained on; None if it does not say it.

    Raises:
        UserError: the checkpoint's metadata are damaged, or name a size that the model does not take.
    """
    try:
        if "input" in about:
            given = json.loads(about["input"])
        elif "input_size" in about:  # checkpoints of the versions before any model and any data
            given = {name: json.loads(about[name]) for name in ("channels", "mean", "std")}
            given["image_size"] = int(about["input_size"])
        else:
            return None
        form = ModelInput.model_validate(given)
    except (ValueError, KeyError) as error:
        raise UserError(f"{weights.path} has damaged metadata ({first_line(error)})") from None
    _check_size(form.image_size, architecture, f"{weights.path} was trained on {form.image_size} px")
    return form


def _input_assumed(architecture: Architecture, given: Mapping[str, Any]) -> ModelInput:
    """Return the form of the pictures for weights that do not say it.

    It is what the user gave, else what the model asks for with pretrained weights, else MNIST's, or ImageNet's for a
    model that sees colour. One number for mean and std holds for each channel.

    Raises:
        UserError: the model takes no such pictures.
    """
    wants = dict(architecture.wants(True))
    channels = wants.get("channels", len(given.get("mean", (0,))))
    usual = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if channels == 3 else {}
    size = architecture.fit(ModelInput().image_size)
    form = {"image_size": size, **usual, **wants, "channels": channels, **given}
    for name in given.keys() & {"mean", "std"}:
        form[name] = given[name] * channels if len(given[name]) == 1 else given[name]
        if len(form[name]) != channels:
            raise UserError(f"--{name} has {len(given[name])} numbers, but {architecture.name} has one channel: grey")
    _check_size(form["image_size"], architecture, f"--image-size is {form['image_size']}")
    return ModelInput.model_validate(form)


def _check_size(size: int, architecture: Architecture, what: str) -> None:
    """Refuse pictures of a size that the model does not take; ``what`` begins the sentence.

    Raises:
        UserError: it takes only another size, or larger ones.
    """
    only = architecture.wants(False).get("image_size", size)
    if not architecture.resizable and only != size:
        raise UserError(f"{what}, but {architecture.name} takes {only} px")
    if size < architecture.least_size:
        raise UserError(f"{what}, but {architecture.name} takes images of at least {architecture.least_size} px")


def _flags(names: Iterable[str]) -> str:
    return " and ".join("--" + name.replace("_", "-") for name in names)


def _classes(state: State, spec: ModelSpec, weights: Weights) -> int:
    """Return the number of classes: the size of the first tensor axis that grows with the model's classes."""
    two, three = (make(spec, classes).state_dict() for classes in (2, 3))
    for name, value in two.items():
        for axis, (less, more) in enumerate(zip(value.shape, three[name].shape, strict=True)):
            if (less, more) == (2, 3) and name in state and state[name].ndim == value.ndim:
                return int(state[name].shape[axis])
    load_weights(make(spec, 2), spec, weights, 2)  # if tensors are missing, its error names them
    other = _other_model(state)
    hint = f"it is of {other}, use --model {other}" if other else "it is no trained model"
    raise UserError(f"{weights.path} does not hold the last layer of {spec.name}: {hint}")


def _other_model(state: State) -> str | None:
    """Return the model that comes with this package, or with torchvision, and has tensors of just these names."""
    import torchvision.models

    libraries = torchvision.models.list_models(module=torchvision.models)
    names = {name for name in state if not name.endswith("num_batches_tracked")}
    for model in (*MODELS, *(f"torchvision/{name}" for name in libraries)):
        architecture = find(model)
        try:
            with torch.device("meta"):  # without memory or initial values
                made = architecture.build(2, _input_assumed(architecture, {}))
        except NotImplementedError:  # some read values while they are built
            continue
        expected = {
            name: value for name, value in made.state_dict().items() if not name.endswith("num_batches_tracked")
        }
        if names == set(expected) and all(state[name].ndim == value.ndim for name, value in expected.items()):
            first = next(iter(expected))
            if state[first].shape == expected[first].shape:
                return model
    return None


def _names(
    about: dict[str, str], classes: int, given: Sequence[str] | None, weights: Weights
) -> tuple[str, ...] | None:
    """Return the names of the classes, in a checkpoint's metadata or given; None if there is no name for each class.

    Raises:
        UserError: names are given, and the checkpoint has other ones, or another number of classes.
    """
    try:
        named: Any = json.loads(about.get("class_names", "null"))
    except ValueError:
        named = None
    stated = tuple(map(str, named)) if isinstance(named, list) and len(named) == classes else None
    if given is None or tuple(given) == stated:
        return stated
    if stated is not None:
        raise UserError(f"{weights.path} names its classes itself: {listed(stated)}; leave out --class-names")
    if len(given) != classes:
        raise UserError(f"--class-names has {len(given)} names, but {weights.path} knows {classes} classes")
    return tuple(given)
