"""Building of a model: made from its seed, pretrained weights loaded, a backbone that is not trained frozen."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from bench.errors import UserError, first_line
from bench.learning.models.architecture import ModelSpec
from bench.learning.models.heads import head_of
from bench.learning.models.weights import Weights

State = dict[str, Tensor]


def build(
    spec: ModelSpec, classes: int, weights: Weights | None, seed: int, *, trainable: Literal["head", "all"] = "head"
) -> nn.Module:
    """Build a new model, which maps float [batch, channels, size, size] to logits [batch, classes].

    All but the head is frozen if ``weights`` filled it, unless ``trainable`` is 'all'; without weights the whole model
    is random and trainable. A model of the user's that returns a dict or a tuple returns its logits alone.

    Raises:
        UserError: the weights do not fit the model, or it cannot be built for these pictures.
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
    """Return a random module, its lazy layers made, whose output is logits alone.

    Raises:
        UserError: it cannot be built, or does not take such pictures.
    """
    try:
        return prepared(spec.build(classes), spec)
    except UserError:
        raise
    except Exception as error:  # a user's model can raise anything
        raise UserError(f"{spec.name} cannot be built for {spec.input.describe()}: {first_line(error)}") from error


def prepared(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Make a module's lazy layers, and let it return its logits alone; return it.

    Raises:
        UserError: it returns no logits.
        Exception: whatever its forward pass raises.
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
    """Return the logits in what a model returns: a tensor, a tuple that begins with it, or a dict with ``logits``.

    Raises:
        UserError: there are none in it.
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
    """Return a module filled from a weights file, its head for other classes left random.

    Raises:
        UserError: the weights do not fit the model.
    """
    if spec.load is None:
        model = make(spec, classes)
        load_weights(model, spec, weights, classes)
        return model
    state = read_state(weights)
    if weights.by_order:
        names = [name for name in spec.build(len(next(reversed(state.values())))).state_dict() if not _is_counter(name)]
        state = dict(zip(names, (value for name, value in state.items() if not _is_counter(name)), strict=True))
    try:
        return prepared(spec.load(classes, state), spec)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"weights {weights.path} do not fit {spec.name}: {first_line(error)}") from None


def check_weights(spec: ModelSpec, classes: int, weights: Weights) -> None:
    """Refuse weights that do not fit the model.

    Raises:
        UserError: they do not fit; the message names the file and the first differences.
    """
    with_weights(spec, classes, weights)  # torch's meta device would be slower here: it imports the compiler


def read_state(weights: Weights) -> State:
    """Return the tensors of a .pth or .safetensors file by name. Nothing in the file is executed.

    Raises:
        UserError: the file is neither, is damaged, or is a pickle of anything but tensors.
    """
    content = weights.content.tobytes()
    try:
        if weights.path.endswith(".safetensors"):
            return cast(State, safetensors.torch.load(content))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickle protocols: such a file is refused or fine
            loaded: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{weights.path} holds more than tensors (or is no PyTorch file), and loading it could execute code; "
            "save the model's state_dict() instead"
        ) from None
    except Exception as error:  # a damaged file makes the readers raise almost anything
        kind = "safetensors" if weights.path.endswith(".safetensors") else "PyTorch"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{weights.path} is not a {kind} file or is damaged ({reason})") from None
    for key in ("state_dict", "model_state_dict", "model"):  # the usual wrappings of a state dict
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(f"{weights.path} holds no state dict (a dict from names to tensors)")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def load_weights(model: nn.Module, spec: ModelSpec, weights: Weights, classes: int) -> None:
    """Fill ``model`` from ``weights``: all of it, or all but its head.

    A head for other classes (ImageNet's 1,000, say) is not loaded; the model's head then stays as it is.

    Raises:
        UserError: names are missing or shapes differ.
    """
    model_state = model.state_dict()
    wanted = {name: value for name, value in model_state.items() if not _is_counter(name)}
    state = read_state(weights)
    if weights.by_order and weights.path.endswith(".safetensors"):
        raise UserError(f"weights {weights.path}: a safetensors file keeps no order to match tensors by")
    head = head_of(model, spec.head, classes)
    outside = {name for name in wanted if head is None or not name.startswith(f"{head}.")}
    if weights.by_order:
        tensors = [value for name, value in state.items() if not _is_counter(name)]
        names = [name for name in wanted if name in outside]
        state = dict(zip(names, tensors, strict=False))  # too few are reported below as missing, others as misshapen
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
    return name.endswith("num_batches_tracked")  # not used in inference; some files leave it out


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a single number"
