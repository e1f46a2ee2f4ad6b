"""The loops of kernels.c, compiled for this machine by its own C compiler the first time they are wanted.

They are an acceleration: without a compiler everything works with PyTorch's operators, and records say which it was.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

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
    compiler = _compiler()
    if compiler is None:
        return None
    folder = cache_dir() / "kernels"
    file = folder / f"{_key()}.so"
    try:
        if not file.exists():
            with locked(folder):
                if not file.exists():
                    with fill(folder) as work:
                        _compile(compiler, work / file.name)
        library = ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError):
        return None
    return library


def call(name: str, *arguments: Tensor | int) -> None:
    """Call a function of kernels.c with as many threads as PyTorch uses, where :func:`kernels` is not None.

    Args:
        name: of the function.
        arguments: contiguous tensors on the CPU, and sizes.
    """
    import torch  # whoever has tensors has it; whoever only compiles need not wait for it

    library = kernels()
    if library is None:
        raise RuntimeError("there is no C compiler, or CC is empty")
    passed = [
        ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_void_p(argument.data_ptr())
        for argument in arguments
    ]
    library[name](*passed, ctypes.c_int(torch.get_num_threads()))


def _compiler() -> list[str] | None:
    if "CC" in os.environ:
        command = shlex.split(os.environ["CC"])
        return command if command and shutil.which(command[0]) else None
    found = [name for name in ("cc", "gcc", "clang") if shutil.which(name)]
    return found[:1] or None


def _key() -> str:
    """Of the source, and of what this processor can do: nodes of a cluster may share a home directory."""
    about = [platform.system(), platform.machine(), platform.processor(), *_ALWAYS]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about += [line for line in lines if line.startswith(("model name", "flags", "Features"))][:2]
    except OSError:
        pass
    return hashlib.sha256(_SOURCE.read_bytes() + "\n".join(about).encode()).hexdigest()[:16]


def _compile(compiler: list[str], file: Path) -> None:
    for options in _FAST:
        command = [*compiler, *_ALWAYS, *options, str(_SOURCE), "-o", str(file)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        if done.returncode == 0:
            return
    raise OSError(f"{compiler[0]} cannot compile {_SOURCE}")
