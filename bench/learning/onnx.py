"""Export of a trained model to an ONNX file that takes raw images, with ONNX Runtime's answers checked."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bench.errors import UserError
from bench.learning.checkpoint import Trained
from bench.learning.data import datasets
from bench.learning.data.datasets import DATASETS
from bench.learning.data.preprocessing import parts_of
from bench.learning.data.statistics import LUMA
from bench.learning.evaluation import probabilities
from bench.learning.limits import LARGEST_BATCH
from bench.spec import ModelInput
from bench.storage import Place

OPSET = 18
"""The first opset in which Resize can average over pixels when it shrinks."""
PREPROCESSING = "bench_"
"""The prefix of the names of all preprocessing nodes and constants."""
TIE = 1e-4
"""The largest difference between two classes' probabilities that counts as a tie, which rounding decides."""


@dataclass(frozen=True)
class Exported:
    """An exported ONNX model and the result of its check."""

    file: Path
    images: int
    """The number of images it was checked on."""
    ties: int
    """The number of images for which PyTorch and ONNX Runtime named different, equally probable classes."""
    difference: float
    """The largest difference between PyTorch's and ONNX Runtime's probability of a class."""


def export_onnx(trained: Trained, images: NDArray[np.uint8], file: Path) -> Exported:
    """Write an ONNX file that maps ``images`` to ``logits`` and ``probabilities``, preprocessing included.

    Its input is uint8 [batch, 1 or 3, height, width] of any size (only 1 channel if the model takes grey images); both
    outputs are float32 [batch, classes]. The class names and the run's id are in its metadata.

    Args:
        trained: the model.
        images: images to check it on, uint8 [images, channels, height, width].
        file: the file; it is written only after ONNX Runtime agreed with PyTorch on all ``images`` except ties.

    Raises:
        UserError: the model cannot be exported, ONNX Runtime disagrees, or the file cannot be written.
    """
    content = to_onnx(trained)
    expected, actual = probabilities(trained, images), run_onnx(content, images)
    difference = float(np.abs(expected - actual).max())
    differs = expected.argmax(1) != actual.argmax(1)
    rows = np.arange(len(images))
    tied = expected[rows, expected.argmax(1)] - expected[rows, actual.argmax(1)] <= TIE
    if (differs & ~tied).any() or not np.isfinite(actual).all():
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
    """Return the probabilities that ONNX Runtime computes: float32 [images, classes]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    batches = [images[part] for part in parts_of(len(images), LARGEST_BATCH)]
    return np.concatenate([session.run(["probabilities"], {"images": batch})[0] for batch in batches])


def images_to_check(name: str, sha256: str, data_dir: Place | None) -> tuple[NDArray[np.uint8], str]:
    """Return (images to check a model on, what they are).

    They are the test images of the data set called ``name`` if these can be loaded and have the digest ``sha256``, else
    random images.
    """
    if name in DATASETS:
        try:
            data = datasets.load(name, data_dir)
        except UserError:
            data = None
        if data is not None and data.sha256 == sha256:
            return data.test.array, f"test images of {name}"
    noise = np.random.default_rng(0).integers(0, 256, size=(256, 1, 28, 28), dtype=np.uint8)
    return noise, f"random images ({name} is not at hand; --data-dir names its folder)"


def to_onnx(trained: Trained, image_shape: tuple[int, ...] | None = None) -> bytes:
    """Return an ONNX file of the model with its preprocessing, which maps ``images`` to ``logits``.

    Args:
        trained: the model.
        image_shape: [channels, height, width] of all images; with None the file takes images of any size, and has the
            output ``probabilities`` too.

    Raises:
        UserError: the model cannot be exported.
    """
    return _with_preprocessing(_network(trained), trained, image_shape)


def _network(trained: Trained) -> Any:
    """Return an onnx.ModelProto of the model without preprocessing, which maps float32 ``pixels`` to ``logits``."""
    spec = trained.spec
    pixels = torch.zeros(2, spec.input.channels, spec.input.image_size, spec.input.image_size)
    try:
        with warnings.catch_warnings(), _quiet("torch.onnx"), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                trained.module.eval(),
                (pixels,),
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # a user's model can make the exporter raise anything
        cause = error.__cause__ or error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0][:200]
        raise UserError(f"{spec.name} cannot be exported to ONNX: {reason}") from None
    assert program is not None  # noqa: S101 - with dynamo=True there always is one
    return program.model_proto


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Log only errors of the logger ``name`` inside the ``with`` block."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _with_preprocessing(network: Any, trained: Trained, image_shape: tuple[int, ...] | None) -> bytes:
    """Return an ONNX file of ``network`` behind ONNX operators that do what ``Preprocessor`` does."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = network.graph
    channels, height, width = image_shape or (1 if trained.spec.input.channels == 1 else "channels", "height", "width")
    before, constants = _preprocessing(trained.spec.input, image_shape)
    for number, node in enumerate(before):
        node.name = f"{PREPROCESSING}{number}"
    outputs, after = ["logits"], []
    if image_shape is None:
        outputs.append("probabilities")
        after.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    classes = len(trained.class_names)
    whole = helper.make_graph(
        [*before, *graph.node, *after],
        trained.spec.name,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", channels, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes]) for name in outputs],
        [
            *graph.initializer,
            *(numpy_helper.from_array(value, PREPROCESSING + name) for name, value in constants.items()),
        ],
    )
    model = helper.make_model(
        whole, opset_imports=network.opset_import, ir_version=network.ir_version, functions=network.functions
    )
    about = {
        **trained.about,
        "model": trained.spec.name,
        "class_names": json.dumps(trained.class_names),
        "input": "uint8 [batch, 1 or 3, height, width], from 0 to 255",
    }
    helper.set_model_props(model, about)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _preprocessing(form: ModelInput, image_shape: tuple[int, ...] | None) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """Return (nodes that turn ``images`` into ``pixels`` as ``Preprocessor`` does, their constants by name)."""
    from onnx import TensorProto, helper

    channels, height, width = image_shape or (None, None, None)
    shift = np.array([-mean / std for mean, std in zip(form.mean, form.std, strict=True)], np.float32)
    constants: dict[str, NDArray[Any]] = {
        "scale": np.array([1 / (255 * std) for std in form.std], np.float32).reshape(1, -1, 1, 1),
        "shift": shift.reshape(1, -1, 1, 1),
    }
    before: list[Any] = []
    last = "images"

    def then(operator: str, *names: str, **attributes: Any) -> None:
        """Append an operator that takes the result of the one before, in the place of '*', and constants by name."""
        nonlocal last
        inputs = [last if name == "*" else name and PREPROCESSING + name for name in names or ("*",)]
        last = f"{PREPROCESSING}result{len(before)}"
        before.append(helper.make_node(operator, inputs, [last], **attributes))

    then("Cast", to=TensorProto.FLOAT)
    if (channels, form.channels) == (3, 1):
        constants |= {"luma": np.array(LUMA, np.float32).reshape(1, 3, 1, 1), "planes": np.array([1], np.int64)}
        then("Mul", "*", "luma")
        then("ReduceSum", "*", "planes", keepdims=1)
    resized, size = form.resized, form.image_size
    bicubic = form.interpolation == "bicubic"
    as_it_is = (height, width) == (size, size) == (resized, resized)
    if image_shape is not None and not as_it_is:
        # OpenVINO's Resize averages differently from PyTorch's; a matrix product is the same everywhere
        constants |= {"rows": _weights(image_shape[1], form), "columns": _weights(image_shape[2], form).T}
        then("MatMul", "rows", "*")
        then("MatMul", "*", "columns")
    elif not as_it_is:
        constants["size"] = np.array([resized, resized], np.int64)
        then(
            "Resize",
            *("*", "", "", "size"),
            mode="cubic" if bicubic else "linear",
            axes=[2, 3],
            antialias=1,  # averages when it shrinks, changes nothing when it enlarges
            exclude_outside=1,  # at the border only pixels that exist have weights, as in PyTorch
            coordinate_transformation_mode="half_pixel",
            **({"cubic_coeff_a": -0.5} if bicubic else {}),
        )
        if resized != size:
            first = (resized - size) // 2
            constants |= {"begin": np.array([first, first], np.int64), "axes": np.array([2, 3], np.int64)}
            constants["end"] = np.array([first + size, first + size], np.int64)
            then("Slice", "*", "begin", "end", "axes")
    if bicubic:
        constants |= {"black": np.array(0, np.float32), "white": np.array(255, np.float32)}
        then("Clip", "*", "black", "white")
    then("Mul", "*", "scale")
    then("Add", "*", "shift")
    before[-1].output[0] = "pixels"
    return before, constants


def _weights(pixels: int, form: ModelInput) -> NDArray[np.float32]:
    """Return the weights that resize and cut a row of ``pixels`` pixels: float32 [image_size, pixels]."""
    rows = torch.eye(pixels)[None, None]
    resized = F.interpolate(rows, size=(form.resized, pixels), mode=form.interpolation, antialias=True)[0, 0]
    first = (form.resized - form.image_size) // 2
    weights: NDArray[np.float32] = resized[first : first + form.image_size].numpy()
    return weights


def _write_whole(file: Path, content: bytes) -> None:
    """Write ``content`` to a temporary file and rename it to ``file``, which is therefore never incomplete."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as out:
        temporary = Path(out.name)
        try:
            out.write(content)
        except BaseException:
            temporary.unlink()
            raise
    temporary.chmod(0o644)
    temporary.replace(file)
