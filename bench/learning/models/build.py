"""Build a model: initialise it from a seed, load pretrained weights, and freeze its backbone if asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from bench.errors import UserError, first_line
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.heads import head_of
from bench.learning.models.state import is_safetensors, read_state
from bench.learning.models.weights import Weights


def build(
    spec: ModelSpec, classes: int, weights: Weights | None, seed: int, *, trainable: Literal["head", "all"] = "head"
) -> nn.Module:
    """Build a model that maps images, float [batch, channels, size, size], to logits, float [batch, classes].

    A user's model that returns a dict or a tuple is wrapped so that it returns its logits only.

    Args:
        spec: the model, and the form of its input.
        classes: the number of classes.
        weights: pretrained weights; None keeps the initial ones.
        seed: seed of torch's global generator, which this function sets.
        trainable: 'head' freezes everything but the head if ``weights`` are given and the model has a known head; in
            all other cases no parameter is frozen here.

    Raises:
        UserError: the weights do not fit the model, or the model cannot be built for such images.
    """
    torch.manual_seed(seed)
    model = make(spec, classes) if weights is None else with_weights(spec, classes, weights)
    head = head_of(model, spec.head, classes)
    if weights is not None and trainable == "head" and head is not None:
        inside = set(model.get_submodule(head).parameters())
        for parameter in model.parameters():
            parameter.requires_grad_(parameter in inside)
    return model


def make(spec: ModelSpec, classes: int) -> nn.Module:
    """Return a newly initialised model that returns its logits only, with all lazy layers materialised.

    Raises:
        UserError: the model cannot be built, or does not accept such images.
    """
    try:
        return prepared(spec.build(classes), spec)
    except UserError:
        raise
    except Exception as error:  # a user's model can raise anything
        raise UserError(f"{spec.name} cannot be built for {spec.input.describe()}: {first_line(error)}") from error


def prepared(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Materialise the lazy layers of a model, make it return its logits only, and return it.

    Both need forward passes, on two black images; built-in models are returned as they are.

    Raises:
        Exception: whatever the model's forward pass raises.
    """
    if spec.built_in:
        return model
    size = spec.input.image_size
    images = torch.zeros(2, spec.input.channels, size, size)
    with torch.no_grad():
        if any(isinstance(value, (UninitializedParameter, UninitializedBuffer)) for value in _tensors(model)):
            model.eval()(images)
            model.train()
        probe = copy.deepcopy(model)  # a forward pass in training mode changes batch-norm's statistics
        plain = all(isinstance(probe.train(mode)(images), Tensor) for mode in (True, False))
    if not plain:
        model.register_forward_hook(lambda module, arguments, output: logits_in(output))
    return model


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def logits_in(output: object) -> Tensor:
    """Return the logits in a model's output.

    The output may be a tensor, a tuple or list that begins with one, a dict with the key 'logits', or an object with
    the attribute ``logits``.

    Raises:
        UserError: the output is of another form.
    """
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise UserError(f"it returns {type(output).__name__}; a tensor of logits is needed, or a dict with 'logits'")
    return output


def with_weights(spec: ModelSpec, classes: int, weights: Weights) -> nn.Module:
    """Return a model with the weights of a file; its head stays random if the file's is for another number of classes.

    Raises:
        UserError: the file cannot be read, its weights do not fit the model, or the model cannot be built.
    """
    if spec.load is None:
        model = make(spec, classes)
        load_weights(model, spec, weights, classes)
        return model
    state = read_state(weights, spec.build(classes).state_dict())
    try:
        if weights.by_order:  # the last tensor is the bias of the head, one for each class
            reference = spec.build(len(next(reversed(state.values())))).state_dict()
            names = [name for name in reference if not _is_counter(name)]
            state = dict(zip(names, (value for name, value in state.items() if not _is_counter(name)), strict=True))
        return prepared(spec.load(classes, state), spec)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"weights {weights.path} do not fit {spec.name}: {first_line(error)}") from None


def load_weights(model: nn.Module, spec: ModelSpec, weights: Weights, classes: int) -> None:
    """Copy ``weights`` into ``model``.

    A head for another number of classes (such as ImageNet's 1,000) is not copied; the model's head then stays as it is.

    Raises:
        UserError: a tensor outside the head is missing or has another shape, or the file cannot be read.
    """
    model_state = model.state_dict()
    wanted = {name: value for name, value in model_state.items() if not _is_counter(name)}
    state = read_state(weights, wanted)
    if weights.by_order and is_safetensors(weights):
        raise UserError(
            f"weights {weights.path}: these tensors are matched by order, which a .safetensors file does not keep"
        )
    head = head_of(model, spec.head, classes)
    outside = {name for name in wanted if head is None or not name.startswith(f"{head}.")}
    if weights.by_order:
        tensors = [value for name, value in state.items() if not _is_counter(name)]
        names = [name for name in wanted if name in outside]
        state = dict(zip(names, tensors, strict=False))  # missing ones and other shapes are reported below
    fits = {name for name, value in wanted.items() if name in state and state[name].shape == value.shape}
    needed = set(wanted)
    if len(fits) < len(wanted):
        needed = outside
        fits &= needed
    if needed - fits:
        problems = []
        for name in sorted(needed - fits):
            problem = f"has {_shape(state[name])}" if name in state else "is missing"
            problems.append(f"{name} {problem}, expected {_shape(wanted[name])}")
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"weights {weights.path} do not fit {spec.name}: {'; '.join(problems[:3])}{more}")
    with torch.no_grad():
        for name in fits:
            model_state[name].copy_(state[name])


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")  # not used in inference, and missing in some files


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a single number"
