"""Back ends by name: ways to run a trained model's inference. Each is a small file that imports what it needs."""

from __future__ import annotations

import importlib
import importlib.util
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.spec import BackendName

if TYPE_CHECKING:  # check_installed() needs no torch
    from bench.learning.backends.protocol import Backend

BACKENDS: tuple[str, ...] = typing.get_args(BackendName)
EXTRA = "image-classifier-bench[backends]"
_PACKAGES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "onnxruntime-int8": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
"""The packages that each back end needs beyond PyTorch; exporting a model needs onnx and onnxscript."""


def check_installed(names: Sequence[str]) -> None:
    """Refuse back ends whose packages are not installed.

    Raises:
        UserError: packages are missing; the message names them and the extra that installs them.
    """
    for name in names:
        missing = [package for package in _PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            packages = f"the package{'s' if len(missing) > 1 else ''} {' and '.join(missing)}"
            raise UserError(f"--backends {name} needs {packages}: pip install '{EXTRA}'")


def backend(name: str) -> Backend:
    """Return the back end called ``name``; its module has the same name."""
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return typing.cast("Backend", module.BACKEND)
