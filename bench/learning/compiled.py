"""The loops of kernels.c, compiled for this machine by its own C compiler the first time they are wanted.

They are an acceleration: without a compiler everything works with PyTorch's operators, and records say which it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.learning.cache import cache_dir, fill, locked

if TYPE_CHECKING:
    from torch import Tensor

PARTS = 8
"""As in kernels.c: gradients of weights come as so many sums, each over a part of the batch."""

_SOURCE = Path(__file__).with_name("kernels.c")
# No option that changes what a number that is none does: a loss that is not finite must show.
_ALWAYS = ("-O3", "-ffp-contract=fast", "-shared", "-fPIC")
# Not every compiler knows these: tried from left to right. OpenMP's threads are those that PyTorch computes with.
_FAST = (("-march=native", "-fopenmp"), ("-march=native", "-fopenmp-simd"), ())


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled loops; None where no C compiler is found (``CC`` names one, or none if it is empty) or it fails."""
    try:
        compiler = _compiler()
        if compiler is None:
            return None
        file = cache_dir() / "kernels" / f"{_key(compiler)}.so"
        library = _load(file)
        if library is None:
            with locked(file.parent):
                library = _load(file)  # another process may have made it meanwhile
                if library is None:
                    with fill(file.parent) as work:
                        _compile(compiler, work / file.name)
                    library = _load(file)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return library


def _load(file: Path) -> ctypes.CDLL | None:
    """None where it is missing, or torn by a power cut."""
    try:
        return ctypes.CDLL(str(file))
    except OSError:
        return None


def suit(*tensors: Tensor | None) -> bool:
    """Whether the loops compute with these: all there, float32 on a CPU and to stay so, no operators written down."""
    import torch

    for one in tensors:  # all() would take three times as long, and this is asked several times in a step
        if one is None or not one.is_cpu or one.dtype != torch.float32:
            return False
    return kernels() is not None and not recorded() and not torch.is_autocast_enabled("cpu")


def lanes() -> int:
    """How many channels the loops compute with at once, where :func:`kernels` is not None."""
    library = kernels()
    return library.lanes_at_once() if library is not None else 1


def recorded() -> bool:
    """Whether operators are written down, for ONNX or a compiler, which know PyTorch's and not ours."""
    import torch

    return torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined, no-untyped-call]


def call(name: str, *arguments: Tensor | int | float) -> None:
    """Call a function of kernels.c with as many threads as PyTorch uses, where :func:`kernels` is not None.

    Args:
        name: of the function.
        arguments: contiguous tensors on the CPU of the types that it takes, sizes, and factors.
    """
    import torch  # whoever has tensors has it; whoever only compiles need not wait for it

    passed: list[int | float] = []
    for argument in arguments:
        if isinstance(argument, int | float):
            passed.append(argument)
        elif argument.is_cpu and argument.is_contiguous() and argument.dtype in _types():
            passed.append(argument.data_ptr())
        else:
            raise ValueError(f"{name} wants contiguous tensors on the CPU, of types that it knows")
    _function(name, tuple(map(type, arguments)))(*passed, torch.get_num_threads())


@functools.cache
def _types() -> frozenset[object]:
    import torch

    return frozenset({torch.float32, torch.int32, torch.int64, torch.uint8})


@functools.cache
def _function(name: str, kinds: tuple[type, ...]) -> Callable[..., None]:
    """The function, which takes such arguments and then the number of threads."""
    library = kernels()
    if library is None:
        raise RuntimeError("there is no C compiler, or CC is empty")
    numbers: dict[type, Any] = {int: ctypes.c_int64, float: ctypes.c_float}
    prototype = ctypes.CFUNCTYPE(None, *(numbers.get(kind, ctypes.c_void_p) for kind in kinds), ctypes.c_int)
    return cast("Callable[..., None]", prototype((name, library)))


def _compiler() -> list[str] | None:
    """The command, its program with the whole path."""
    commands = [shlex.split(os.environ["CC"])] if "CC" in os.environ else [["cc"], ["gcc"], ["clang"]]
    for program, *options in filter(None, commands):
        if path := shutil.which(program):
            return [path, *options]
    return None


def _key(compiler: list[str]) -> str:
    """Of the source, the compiler, and what this processor can do: nodes of a cluster may share a home directory."""
    program = Path(compiler[0]).stat()
    about = [platform.system(), platform.machine(), platform.processor(), *compiler, str(program.st_mtime_ns)]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about += [line for line in lines if line.startswith(("model name", "flags", "Features"))][:2]
    return hashlib.sha256(_SOURCE.read_bytes() + repr((about, _ALWAYS, _FAST)).encode()).hexdigest()[:16]


def _compile(compiler: list[str], file: Path) -> None:
    for options in _FAST:
        with_options = [*compiler, *_ALWAYS, *options]
        if _succeeds([*with_options, str(_SOURCE), "-lm", "-o", str(file)]):
            return
        if _succeeds([*with_options, "-x", "c", "-", "-o", str(file)]):
            break  # it knows the options: something else went wrong, and may not the next time
    raise OSError(f"{compiler[0]} cannot compile {_SOURCE}")


def _succeeds(command: list[str]) -> bool:
    # in a session of its own: Ctrl-C would end the compiler alone, and look as if it did not know its options
    done = subprocess.run(
        command, input=b"int nothing;", capture_output=True, check=False, timeout=60, start_new_session=True
    )
    return done.returncode == 0
