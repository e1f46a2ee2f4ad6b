"""``torch.compile`` of what the back end 'eager' runs, compiled separately for each batch size."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from bench.learning.backends.protocol import Prepared, Request, UnavailableError, pipeline, without_gradients
from bench.learning.data.preprocessing import as_tensor

COMPILERS = ("g++", "clang++")


class Compile:
    """The back end that runs the model compiled by TorchInductor."""

    runs_onnx = False

    def prepare(self, request: Request) -> Prepared:
        """Compile the model for each batch size, and for the number of threads that is set now.

        PyTorch's cache of code compiled by earlier processes is not used, so that preparing always takes as long as the
        first time. Before torch 2.13 the code of all models in a process counts towards one limit of eight.

        Raises:
            UnavailableError: there is no C++ compiler.
        """
        compiler = os.environ.get("CXX")
        if not any(shutil.which(name) for name in ((compiler,) if compiler else COMPILERS)):
            wanted = f"CXX names {compiler}, which is not there" if compiler else f"{' or '.join(COMPILERS)} is needed"
            raise UnavailableError(f"torch.compile needs a C++ compiler: {wanted}")
        apart: dict[str, Any] = {}
        if "isolate_recompiles" in inspect.signature(torch.compile).parameters:  # since torch 2.13
            apart = {"isolate_recompiles": True, "recompile_limit": len(request.batch_sizes)}
        compiled = torch.compile(pipeline(request), dynamic=False, **apart)
        answer = without_gradients(compiled, request)
        example = as_tensor(request.example)
        with _without_caches(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about caches that are not used
            for size in request.batch_sizes:
                answer(example[:1].repeat(size, 1, 1, 1).to(request.device))
        return Prepared(
            answer=answer,
            device=request.device,
            deployed_bytes=request.checkpoint_bytes,
            precision=request.precision,
            version=f"torch {torch.__version__}",
        )


@contextlib.contextmanager
def _without_caches() -> Iterator[None]:
    """Compile without PyTorch's caches inside the ``with`` block."""
    before = torch.compiler.config.force_disable_caches
    torch.compiler.config.force_disable_caches = True
    try:
        yield
    finally:
        torch.compiler.config.force_disable_caches = before


BACKEND = Compile()
