"""PyTorch as it is: the trained model in evaluation mode, channels-last, in inference mode."""

from __future__ import annotations

import torch

from bench.learning.backends.protocol import Prepared, Request, pipeline, without_gradients


class Eager:
    """The back end that calls the PyTorch model."""

    runs_onnx = False

    def prepare(self, request: Request) -> Prepared:
        """Return the unchanged model behind its preprocessing."""
        return Prepared(
            answer=without_gradients(pipeline(request), request),
            device=request.device,
            deployed_bytes=request.checkpoint_bytes,
            precision=request.precision,
            version=f"torch {torch.__version__}",
        )


BACKEND = Eager()
