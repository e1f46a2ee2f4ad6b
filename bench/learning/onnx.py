"""A trained model as an ONNX file that takes raw images, checked against PyTorch by ONNX Runtime."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.errors import UserError
from bench.learning import datasets
from bench.learning.datasets import DATASETS
from bench.learning.evaluation import Trained, probabilities
from bench.learning.preprocessing import BATCH

OPSET = 18
"""The first in which Resize can average over pixels when it shrinks."""
TIE = 1e-4
"""Two classes whose probabilities are nearer than this are a tie: rounding decides."""


@dataclass(frozen=True)
class Exported:
    """An ONNX model that was checked."""

    file: Path
    images: int
    """How many it was checked on."""
    ties: int
    """On how many of them PyTorch and ONNX Runtime named different classes, equally probable."""
    difference: float
    """Largest distance between two probabilities."""


def export_onnx(trained: Trained, images: NDArray[np.uint8], file: Path) -> Exported:
    """Write ``file``: a model from ``images`` to ``logits`` and ``probabilities``, with its preprocessing inside.

    Its input is uint8 [batch, 1 or 3, height, width] of any size (1 channel only where the model sees grey); both
    outputs are float32 [batch, classes]. The class names and the run's id are in its metadata.

    Args:
        trained: the model.
        images: to check it on, uint8 [images, channels, height, width].
        file: written only after ONNX Runtime agreed with PyTorch on all ``images``, but for ties.

    Raises:
        UserError: the model cannot be exported, disagrees, or the file cannot be written.
    """
    content = _with_preprocessing(_network(trained), trained)
    expected, found = probabilities(trained, images), run_onnx(content, images)
    difference = float(np.abs(expected - found).max())
    differs = expected.argmax(1) != found.argmax(1)
    rows = np.arange(len(images))
    tied = expected[rows, expected.argmax(1)] - expected[rows, found.argmax(1)] <= TIE
    if (differs & ~tied).any() or not np.isfinite(found).all():
        raise UserError(
            f"the ONNX model of {file.stem} disagrees with PyTorch on {int((differs & ~tied).sum())} of "
            f"{len(images)} images (probabilities differ by up to {difference:.1e}); it was not written"
        )
    try:
        _write_whole(file, content)
    except OSError as error:
        raise UserError(f"--onnx: cannot write {file}: {error.strerror or error}") from None
    return Exported(file, len(images), int(differs.sum()), difference)


def run_onnx(content: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The probabilities that ONNX Runtime gives: float32 [images, classes]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    batches = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    return np.concatenate([session.run(["probabilities"], {"images": batch})[0] for batch in batches])


def images_to_check(name: str, sha256: str, data_dir: Path | None) -> tuple[NDArray[np.uint8], str]:
    """(images to check a model on, what they are): the test images it was measured on if they are at hand."""
    if name in DATASETS:
        try:
            # a folder that is given holds one data set; the others come from where they usually are
            data = datasets.load(name, data_dir)
        except UserError:
            data = None
        if data is not None and data.sha256 == sha256:
            return data.test.images, f"test images of {name}"
    noise = np.random.default_rng(0).integers(0, 256, size=(256, 1, 28, 28), dtype=np.uint8)
    return noise, f"random images ({name} is not at hand; --data-dir names its folder)"


def _network(trained: Trained) -> Any:
    """The model without its preprocessing as an onnx.ModelProto: float32 ``pixels`` to ``logits``."""
    import onnx

    spec = trained.spec
    module = trained.folded
    pixels = torch.zeros(2, spec.channels, spec.input_size, spec.input_size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            file = Path(folder, "network.onnx")
            torch.onnx.export(
                module,
                (pixels,),
                file,
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_axes={"pixels": {0: "batch"}, "logits": {0: "batch"}},
                opset_version=OPSET,
                dynamo=False,  # the other exporter takes ten times as long and gives the same graph
            )
            return onnx.load(file)
    except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        raise UserError(f"{spec.name} cannot be exported to ONNX: {str(error).splitlines()[0][:200]}") from None


def _with_preprocessing(network: Any, trained: Trained) -> bytes:
    """The network behind what :class:`bench.learning.preprocessing.Preprocessor` does, as ONNX operators."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    spec, graph = trained.spec, network.graph
    scale = np.array([1 / (255 * std) for std in spec.std], np.float32).reshape(1, -1, 1, 1)
    shift = np.array([-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)], np.float32)
    constants: dict[str, NDArray[Any]] = {
        "bench_size": np.array([spec.input_size, spec.input_size], np.int64),
        "bench_scale": scale,
        "bench_shift": shift.reshape(1, -1, 1, 1),
    }
    before = [
        helper.make_node("Cast", ["images"], ["bench_floats"], to=TensorProto.FLOAT),
        helper.make_node(
            "Resize",
            ["bench_floats", "", "", "bench_size"],
            ["bench_resized"],
            mode="linear",
            axes=[2, 3],
            antialias=1,  # averages when it shrinks, changes nothing when it enlarges
            exclude_outside=1,  # at the border too the weights are of pixels that exist, as in PyTorch
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node("Mul", ["bench_resized", "bench_scale"], ["bench_scaled"]),
        helper.make_node("Add", ["bench_scaled", "bench_shift"], ["pixels"]),
    ]
    nodes = [*before, *graph.node, helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)]
    channels = 1 if spec.channels == 1 else "channels"
    classes = len(trained.class_names)
    whole = helper.make_graph(
        nodes,
        spec.name,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", channels, "height", "width"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes])
            for name in ("logits", "probabilities")
        ],
        [*graph.initializer, *(numpy_helper.from_array(value, name) for name, value in constants.items())],
    )
    model = helper.make_model(whole, opset_imports=network.opset_import, ir_version=network.ir_version)
    about = {
        **trained.about,
        "model": spec.name,
        "class_names": json.dumps(trained.class_names),
        "input": "uint8 [batch, 1 or 3, height, width], from 0 to 255",
    }
    helper.set_model_props(model, about)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _write_whole(file: Path, content: bytes) -> None:
    """Write beside ``file`` and rename: whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as out:
        temporary = Path(out.name)
        try:
            out.write(content)
        except BaseException:
            temporary.unlink()
            raise
    temporary.chmod(0o644)
    temporary.replace(file)
