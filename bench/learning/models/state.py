"""The tensors in a weights file, however it was saved. No code in the file is executed, and its ending says nothing."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from bench.errors import UserError
from bench.learning.models.file_kinds import other_kind
from bench.learning.models.weights import Weights

State = dict[str, Tensor]

_PREFERRED = ("state_dict", "model_state_dict", "model")
"""Keys of the state dict in training checkpoints that may hold several dicts of tensors."""
_COMPILED = "_orig_mod."
"""What torch.compile puts before the names in a module that it compiled."""
_WRAPPED = "module."
"""What DataParallel and DistributedDataParallel put before all names."""


class _Ignored:
    """The stand-in for harmless objects beside the weights, such as the options of the training: it keeps nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_HARMLESS = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "argparse.Namespace", "types.SimpleNamespace"),
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *("datetime.datetime", "datetime.date", "datetime.timedelta"),
)
"""Types and functions in weights files in whose place :class:`_Ignored` is put."""


def is_safetensors(weights: Weights) -> bool:
    """Return whether the contents begin as those of a safetensors file: a length, then JSON of that length."""
    start = weights.content[:9].tobytes()
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and 8 + length <= len(weights.content)


def metadata_of(weights: Weights) -> dict[str, str]:
    """Return the metadata of a safetensors file; it is empty for other files.

    Raises:
        UserError: the file is a damaged safetensors file.
    """
    if not is_safetensors(weights) and not weights.path.endswith(".safetensors"):
        return {}
    content = weights.content.tobytes()
    try:
        safetensors.deserialize(content)  # type: ignore[no-untyped-call] # checks lengths and offsets
        length = int.from_bytes(content[:8], "little")
        metadata: Any = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, AttributeError) as error:
        raise UserError(f"{weights.path} is not a safetensors file or is damaged ({error})") from None
    return {str(name): str(value) for name, value in metadata.items()}


def read_state(weights: Weights, expected: Collection[str] = ()) -> State:
    """Return the tensors of a PyTorch or safetensors file by name, on the CPU.

    Args:
        weights: the file.
        expected: the model's names of its tensors; a prefix that all names in the file share is taken off if that
            makes more of them the model's. Without them, only the prefixes of torch.compile and data parallelism are.

    Raises:
        UserError: the file is neither, is damaged, holds no dict of tensors or several, or holds what may be code.
    """
    state = _state_in(_loaded(weights), weights.path)
    return _unprefixed({name.replace(_COMPILED, ""): value for name, value in state.items()}, expected)


def _loaded(weights: Weights) -> Any:
    """Return what the file holds.

    Raises:
        UserError: it is neither a PyTorch nor a safetensors file, is damaged, or holds what may be code.
    """
    content = weights.content.tobytes()
    kind = "safetensors" if is_safetensors(weights) or weights.path.endswith(".safetensors") else "PyTorch"
    try:
        if is_safetensors(weights):
            return safetensors.torch.load(content)
        with warnings.catch_warnings(), torch.serialization.safe_globals([(_Ignored, name) for name in _HARMLESS]):
            warnings.simplefilter("ignore")  # about unusual pickle protocols: the file then loads or fails anyway
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if (other := other_kind(content)) is not None:
            raise UserError(f"{weights.path} is {other}") from None
        if kind == "safetensors":
            raise UserError(f"{weights.path} is not a safetensors file or is damaged") from None
        others = _others_in(content)
        named = f" ({', '.join(others)})" if others else ""
        raise UserError(
            f"{weights.path} holds more than tensors{named} (or is no PyTorch file), and loading it could execute "
            "code; save the model's state_dict() instead"
        ) from None
    except Exception as error:  # damaged files can raise almost anything
        if (other := other_kind(content)) is not None:
            raise UserError(f"{weights.path} is {other}") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{weights.path} is not a {kind} file or is damaged ({reason})") from None


def _others_in(content: bytes) -> list[str]:
    """Return the types and functions in a PyTorch file that are not loaded; [] if that cannot be told."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))
    except Exception:  # of files of other formats it raises almost anything
        return []
    return sorted(set(names) - set(_HARMLESS))[:3]


def _state_in(loaded: Any, path: str) -> State:
    """Return the only dict of tensors in ``loaded``: itself, one of its values, or one inside its only dict.

    Raises:
        UserError: there is none, or there are several.
    """
    if _is_state(loaded):
        return {str(name): value for name, value in loaded.items()}
    inside = {str(key): value for key, value in loaded.items()} if isinstance(loaded, Mapping) else {}
    states = [key for key, value in inside.items() if _is_state(value)]
    dicts = states or [key for key, value in inside.items() if isinstance(value, Mapping) and value]
    preferred = [key for key in _PREFERRED if key in dicts]
    if preferred or len(dicts) == 1:
        return _state_in(inside[(preferred or dicts)[0]], path)
    if states:
        raise UserError(f"{path} holds several state dicts ({', '.join(states)}); save the one of the model by itself")
    raise UserError(f"{path} holds no state dict (a dict of tensors by name)")


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


def _unprefixed(state: State, expected: Collection[str]) -> State:
    """Return the tensors without the prefix that all names share, if more of the names are then expected ones."""
    names = list(state)
    best, most = names, sum(name in expected for name in names)
    while len({name.partition(".")[0] for name in names}) == 1 and all("." in name for name in names):
        prefix = names[0].partition(".")[0] + "."
        names = [name.removeprefix(prefix) for name in names]
        fitting = sum(name in expected for name in names)
        if fitting > most or (not most and prefix == _WRAPPED):
            best, most = names, fitting
    return dict(zip(best, state.values(), strict=True))
