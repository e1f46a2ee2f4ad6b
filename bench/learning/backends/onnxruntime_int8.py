"""ONNX Runtime with 8-bit integers: the exported model, quantised statically by ONNX Runtime's tool."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from bench.learning.backends.onnxruntime import session_of
from bench.learning.backends.protocol import Prepared, Request
from bench.learning.onnx import PREPROCESSING

BATCH = 32
"""The batch size of calibration."""


class OnnxRuntimeInt8:
    """The back end that runs the quantised ONNX file on the CPU."""

    runs_onnx = True

    def prepare(self, request: Request) -> Prepared:
        """Quantise the exported model, calibrated on training images, and start a session."""
        return session_of(quantised(request.onnx.content, request.calibration), request, precision="int8", cpu=True)


def quantised(content: bytes, images: NDArray[np.uint8]) -> bytes:
    """Return the ONNX file with 8-bit weights (a scale per channel) and 8-bit activations; preprocessing stays float.

    Args:
        content: the ONNX file.
        images: calibration images, which give the range of each activation.
    """
    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        exported, prepared, result = (Path(folder, f"{name}.onnx") for name in ("exported", "prepared", "quantised"))
        exported.write_bytes(content)
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        quantize_static(
            prepared,
            result,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # weights of 7 bits: with 8, sums overflow on processors without VNNI, and answers depend on the processor
            reduce_range=True,
            nodes_to_exclude=[node.name for node in nodes if node.name.startswith(PREPROCESSING)],
        )
        return result.read_bytes()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress warnings inside the ``with`` block: they advise preparing the model, which has been done."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class _Images(CalibrationDataReader):  # type: ignore[misc] # has no annotations
    """A reader of the calibration images, batch by batch."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = iter(images[first : first + BATCH] for first in range(0, len(images), BATCH))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next batch, or None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


BACKEND = OnnxRuntimeInt8()
