"""How good a trained model is: accuracy with its interval, per class, what is taken for what, calibration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from bench.errors import UserError
from bench.learning.build import load_weights, read_state
from bench.learning.models import MODELS, ModelSpec
from bench.learning.preprocessing import BATCH, Preprocessor, as_tensor
from bench.learning.weights import Weights
from bench.spec import Predictions

CONFIDENCE = 0.95
"""Of the intervals."""
CALIBRATION_BINS = 15
"""As in Guo et al., 2017."""


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to answer."""

    module: nn.Module
    """In evaluation mode."""
    spec: ModelSpec
    class_names: tuple[str, ...]
    about: dict[str, str]
    """The checkpoint's metadata; empty for a bare state dict."""


def read_metadata(weights: Weights) -> dict[str, str]:
    """What a checkpoint of ours says of itself; empty for other files.

    Raises:
        UserError: it is a damaged safetensors file.
    """
    if not weights.path.endswith(".safetensors"):
        return {}
    content = weights.content.tobytes()
    try:
        safetensors.deserialize(content)  # type: ignore[no-untyped-call] # checks lengths and offsets
        length = int.from_bytes(content[:8], "little")
        found: Any = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, AttributeError) as error:
        raise UserError(f"{weights.path} is not a safetensors file or is damaged ({error})") from None
    return {str(name): str(value) for name, value in found.items()}


def load_trained(weights: Weights, model: str | None = None) -> Trained:
    """The trained model in a checkpoint: all of it, with its head.

    Args:
        weights: a checkpoint of ours, or a .pth or .safetensors file with a state dict.
        model: registered name; None takes what the checkpoint says.

    Returns:
        The model; classes that the file does not name are called by their numbers.

    Raises:
        UserError: the file is damaged, is of another model or other shapes, or does not say which model it is of.
    """
    about = read_metadata(weights)
    named = about.get("model")
    if model is None:
        if named is None:
            raise UserError(f"{weights.path} does not say which model it is of; name it with --model")
        if named not in MODELS:
            raise UserError(
                f"{weights.path} is of the model {named!r}, which is not registered ({', '.join(sorted(MODELS))} are); "
                "name the file that defines it with --plugin"
            )
        model = named
    spec = MODELS.find(model)
    if named is not None and named != model:
        raise UserError(f"{weights.path} is a checkpoint of {named}, not of {model}; use --model {named}")
    _check_inputs(weights, spec, about)
    state = read_state(weights)
    classes = _classes(state, spec, weights)
    names = _names(about, classes)
    module = spec.build(classes)
    own = {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    load_weights(module, spec, weights)
    # load_weights() is content with a backbone; here a head that stays random would be measured as if it were trained
    shapes = module.state_dict()
    absent = sorted(name for name in own if name not in state or state[name].shape != shapes[name].shape)
    if absent:
        raise UserError(
            f"{weights.path} holds {spec.name}'s backbone but not the trained head ({absent[0]} is missing or has "
            "another shape)"
        )
    strange = sorted(name for name in state if name not in shapes)
    if strange:
        raise UserError(f"{weights.path} is of another model than {spec.name}: it also holds {strange[0]}")
    module.eval()
    return Trained(module.to(memory_format=torch.channels_last), spec, names, about)


def _check_inputs(weights: Weights, spec: ModelSpec, about: dict[str, str]) -> None:
    """Refuse a checkpoint trained on other inputs than the registered model takes: its answers would be wrong."""
    expected = {
        "input_size": str(spec.input_size),
        "channels": str(spec.channels),
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
    }
    for name, value in expected.items():
        if name in about and about[name] != value:
            raise UserError(f"{weights.path} was trained with {name} {about[name]}, but {spec.name} has {value}")


def _classes(state: dict[str, Tensor], spec: ModelSpec, weights: Weights) -> int:
    """The number of classes: the size of the tensor that a model with one class more has larger."""
    two, three = (spec.build(classes).state_dict() for classes in (2, 3))
    for name, value in two.items():
        for axis, (less, more) in enumerate(zip(value.shape, three[name].shape, strict=True)):
            if (less, more) == (2, 3) and name in state and state[name].ndim == value.ndim:
                return int(state[name].shape[axis])
    load_weights(spec.build(2), spec, weights)  # says what is missing
    raise UserError(f"{weights.path} does not hold the last layer of {spec.name}: it is no trained model")


def _names(about: dict[str, str], classes: int) -> tuple[str, ...]:
    try:
        named: Any = json.loads(about.get("class_names", "null"))
    except ValueError:
        named = None
    if isinstance(named, list) and len(named) == classes:
        return tuple(str(name) for name in named)
    return tuple(str(number) for number in range(classes))


@torch.inference_mode()
def probabilities(trained: Trained, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Softmax probabilities, float32 [images, classes], of uint8 [images, 1 or 3, height, width]."""
    answer, prepare = trained.module, Preprocessor(trained.spec, "cpu")
    batches = torch.split(as_tensor(images), BATCH)
    return torch.cat([answer(prepare(batch)).float().softmax(1) for batch in batches]).numpy()


# --- figures ---------------------------------------------------------------------------------------------------


def wilson(correct: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, Probable inference, JASA 22, 1927); (nan, nan) of no images."""
    if images == 0:
        return (float("nan"), float("nan"))
    interval = stats.binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return (float(interval.low), float(interval.high))


def confusion(labels: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """How often each class was taken for each: int64 [true class, predicted class]."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels.astype(np.int64), predicted.astype(np.int64)), 1)
    return table


def calibration_error(predictions: Predictions, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: mean distance between confidence and accuracy, weighted by the images in each bin.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3: bins of equal width, open below.
    """
    confidence = predictions.probability.astype(np.float64)
    right = predictions.labels == predictions.predicted
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(number, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(right))
