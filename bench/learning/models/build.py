"""Building of a model: made from its seed, pretrained weights loaded, a backbone that is not trained frozen."""

from __future__ import annotations

import io
import pickle
import warnings
from typing import Any, Literal, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.learning.models.registry import ModelSpec
from bench.learning.models.weights import Weights

State = dict[str, Tensor]


def build(
    spec: ModelSpec, classes: int, weights: Weights | None, seed: int, *, trainable: Literal["head", "all"] = "head"
) -> nn.Module:
    """Build a new model, which maps float [batch, channels, size, size] to logits [batch, classes].

    A backbone that ``weights`` filled is frozen unless ``trainable`` is 'all'; without weights the whole model is
    random and trainable.

    Raises:
        UserError: the weights do not fit the model.
    """
    torch.manual_seed(seed)
    model = spec.build(classes)
    if weights is not None:
        load_weights(model, spec, weights)
        if spec.backbone is not None and trainable == "head":
            for parameter in model.get_submodule(spec.backbone).parameters():
                parameter.requires_grad_(False)
    return model


def check_weights(spec: ModelSpec, classes: int, weights: Weights) -> None:
    """Refuse weights that do not fit the model.

    Raises:
        UserError: they do not fit; the message names the file and the first differences.
    """
    # torch's meta device would be slower here: it imports the compiler
    load_weights(spec.build(classes), spec, weights)


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


def load_weights(model: nn.Module, spec: ModelSpec, weights: Weights) -> None:
    """Fill ``model`` from ``weights``: all of it, or at least its backbone if it has one.

    A head for other classes (torchvision's 1,000, say) is not loaded; the model's head then stays as it is.

    Raises:
        UserError: names are missing or shapes differ.
    """
    model_state = model.state_dict()
    wanted = {name: value for name, value in model_state.items() if not _is_counter(name)}
    state = read_state(weights)
    if weights.by_order and weights.path.endswith(".safetensors"):
        raise UserError(f"weights {weights.path}: a safetensors file keeps no order to match tensors by")
    if weights.by_order:
        names = [name for name in wanted if name.startswith(f"{spec.backbone}.")]
        tensors = [value for name, value in state.items() if not _is_counter(name)]
        state = dict(zip(names, tensors, strict=False))  # too few are reported below as missing, others as misshapen
    fits = {name for name, value in wanted.items() if name in state and state[name].shape == value.shape}
    needed = set(wanted)
    if spec.backbone is not None and len(fits) < len(wanted):
        needed = {name for name in wanted if name.startswith(f"{spec.backbone}.")}
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
