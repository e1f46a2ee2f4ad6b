"""ONNX Runtime: the exported model, in 32-bit floats."""

from __future__ import annotations

import onnxruntime
import torch
from torch import Tensor

from bench.learning.backends.protocol import Prepared, Request


class OnnxRuntime:
    """The back end that runs the ONNX file on the GPU if the installed package can, else on the CPU."""

    runs_onnx = True

    def prepare(self, request: Request) -> Prepared:
        """Start a session of the exported model."""
        return session_of(request.onnx.content, request, precision="fp32")


def session_of(content: bytes, request: Request, *, precision: str, cpu: bool = False) -> Prepared:
    """Start a session of ONNX Runtime.

    Args:
        content: an ONNX file.
        request: has the device and the number of threads.
        precision: the precision that the file computes in.
        cpu: whether to stay on the CPU.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    # otherwise its threads keep spinning for a while after an answer, and slow down what is timed next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    available = onnxruntime.get_available_providers()
    on_gpu = request.device.startswith("cuda") and not cpu and "CUDAExecutionProvider" in available
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, options, providers=wanted)
    used = session.get_providers()  # a provider that cannot start is left out silently

    def answer(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return Prepared(
        answer=answer,
        device="cpu",  # the session takes images from there
        deployed_bytes=len(content),
        precision=precision,
        version=f"onnxruntime {onnxruntime.__version__}, {used[0]}",
    )


BACKEND = OnnxRuntime()
