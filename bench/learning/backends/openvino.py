"""OpenVINO: the exported model, in 32-bit floats, on the CPU."""

from __future__ import annotations

import tempfile
from pathlib import Path

import openvino
import openvino.properties as props
import torch
from openvino.properties import hint
from torch import Tensor

from bench.learning.backends.protocol import Prepared, Request


class OpenVino:
    """The back end that runs the model in OpenVINO's format: an .xml and a .bin file."""

    runs_onnx = True

    def prepare(self, request: Request) -> Prepared:
        """Convert the exported model, write the files to deploy, and compile them.

        The precision is set because by default OpenVINO computes in bf16 where the processor has it.
        """
        core = openvino.Core()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.xml")
            openvino.save_model(core.read_model(request.onnx.content), file, compress_to_fp16=False)
            size = sum(part.stat().st_size for part in Path(folder).iterdir())
            compiled = core.compile_model(
                core.read_model(file),
                "CPU",
                {
                    hint.inference_precision: openvino.Type.f32,
                    hint.performance_mode: hint.PerformanceMode.LATENCY,
                    props.inference_num_threads: request.threads,
                },
            )
        infer = compiled.create_infer_request()

        def answer(images: Tensor) -> Tensor:
            return torch.from_numpy(infer.infer({"images": images.numpy()}, share_inputs=True)[0])

        computes = compiled.get_property(hint.inference_precision)
        precision = "fp32" if computes == openvino.Type.f32 else str(computes.to_string())
        version = openvino.__version__.partition("-")[0]
        return Prepared(answer, device="cpu", deployed_bytes=size, precision=precision, version=f"openvino {version}")


BACKEND = OpenVino()
