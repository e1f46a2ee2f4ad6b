"""ONNX Runtime: the exported model, in 32-bit floats."""

from __future__ import annotations

import onnxruntime
import torch
from torch import Tensor

from bench.learning.backends.protocol import Prepared, Request


class OnnxRuntime:
    """Runs the ONNX file on the GPU where the installed package can, else on the CPU."""

    runs_onnx = True

    def prepare(self, request: Request) -> Prepared:
        """Start a session of the exported model."""
        return session_of(request.onnx.content, request, precision="fp32")


def session_of(content: bytes, request: Request, *, precision: str, cpu: bool = False) -> Prepared:
    """Start a session.

    Args:
        content: an ONNX file.
        request: with the device and the number of threads.
        precision: what the file computes in.
        cpu: stay on the CPU.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # its threads go on looking for work for a while after an answer, which would take time from what is timed next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    available = onnxruntime.get_available_providers()
    on_gpu = request.device.startswith("cuda") and not cpu and "CUDAExecutionProvider" in available
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, options, providers=wanted)
    used = session.get_providers()  # one that cannot start is left out without a word

    def answer(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return Prepared(
        answer=answer,
        device="cpu",  # where the images are given
        deployed_bytes=len(content),
        precision=precision,
        version=f"onnxruntime {onnxruntime.__version__}, {used[0]}",
    )


BACKEND = OnnxRuntime()
