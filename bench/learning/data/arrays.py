"""Check images and labels that come as arrays, make a data set of them, and explain the usual mistakes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.learning.data.dataset import Dataset, Split, digest


def dataset_of(
    name: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Return a checked data set of two pairs (images, labels); its digest is computed from the contents.

    Args:
        name: the data set's name.
        train: training images and labels, as arrays or tensors. Images are converted to uint8 [images, channels,
            height, width]: they may lack the channel axis or have it last, and may be floats from 0 to 1 or booleans.
            Labels are whole numbers from 0, [images] or [images, 1], or one-hot, [images, classes].
        test: the test images and labels, in the same form.
        class_names: a name for each class; None uses the class numbers, and then labels may also start at 1.

    Raises:
        UserError: the arrays are not images and labels; the message says what is wrong, and where.
    """
    notes: list[str] = []
    train_labels, test_labels = (_labels(split[1], f"{name}: {part}") for split, part in _parts(train, test))
    train_images, test_images = (_images(split[0], f"{name}: {part}", notes) for split, part in _parts(train, test))
    if train_images.shape[1:] != test_images.shape[1:]:
        raise UserError(
            f"{name}: the training images are {_shape(train_images)} and the test images {_shape(test_images)}; "
            "both need one shape"
        )
    for images, labels, part in ((train_images, train_labels, "training"), (test_images, test_labels, "test")):
        if len(images) != len(labels):
            raise UserError(f"{name}: {len(images):,} {part} images have {len(labels):,} labels; each image needs one")
        if len(images) == 0:
            raise UserError(f"{name}: there are no {part} images")
    if class_names is None and train_labels.min() == 1 and test_labels.min() >= 1:
        train_labels, test_labels = train_labels - 1, test_labels - 1
        class_names = [str(number + 1) for number in range(int(max(train_labels.max(), test_labels.max())) + 1)]
        notes.append("its labels begin with 1, so label 1 is taken as the first class")
    names = tuple(class_names) if class_names is not None else tuple(str(n) for n in range(int(train_labels.max()) + 1))
    _check_classes(name, train_labels, test_labels, names, notes)
    contents = [
        hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        for array in (train_images, train_labels, test_images, test_labels)
    ]
    shapes = [str(train_images.shape), str(test_images.shape)]
    return Dataset(
        name=name,
        sha256=digest([*contents, *shapes, *names]),
        train=Split(train_images, train_labels),
        test=Split(test_images, test_labels),
        class_names=names,
        note=f"{name}: {'; '.join(dict.fromkeys(notes))}" if notes else None,
    )


def _parts(train: tuple[Any, Any], test: tuple[Any, Any]) -> list[tuple[tuple[Any, Any], str]]:
    return [(train, "training"), (test, "test")]


def _array(value: Any) -> NDArray[Any]:
    """Convert a value or tensor to an array; parts of different shapes give an array of objects (all None)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError:
        parts = np.empty(len(value), dtype=object)
        parts[:] = [None] * len(value)
        return parts


def _images(value: Any, where: str, notes: list[str]) -> NDArray[np.uint8]:
    """Convert images to uint8 [images, channels, height, width].

    Raises:
        UserError: the images' dtype, values or shape do not allow it.
    """
    images = _array(value)
    if images.dtype == object:
        raise UserError(f"{where} images have different sizes or kinds; they need one size, or a folder of pictures")
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise UserError(
            f"{where} images have the shape {_shape(images, 0)}; [images, channels, height, width] is needed"
        )
    if images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = np.moveaxis(images, 3, 1)
    if images.shape[1] not in (1, 3):
        raise UserError(f"{where} images have {images.shape[1]} channels; 1 (grey) or 3 (colour) are needed")
    if images.dtype == np.bool_:
        images = images.astype(np.uint8) * np.uint8(255)
    if images.dtype != np.uint8:
        images = _as_bytes(images, where, notes)
    return np.ascontiguousarray(images)


def _as_bytes(images: NDArray[Any], where: str, notes: list[str]) -> NDArray[np.uint8]:
    if images.dtype.kind not in "iuf":
        raise UserError(f"{where} images are {images.dtype}; whole numbers from 0 to 255 (uint8) are needed")
    if images.size and not np.isfinite(images).all():
        raise UserError(f"{where} images have values that are not finite; whole numbers from 0 to 255 are needed")
    low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
    scale, tolerance = 1.0, 1e-2
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        scale = 255.0
        tolerance = max(tolerance, 255 * float(np.finfo(images.dtype).eps))  # of float16, steps of 1/255 are coarse
    scaled = images.astype(np.result_type(images.dtype, np.float32), copy=False) * scale
    rounded = np.rint(scaled)
    whole = bool(np.allclose(rounded, scaled, atol=tolerance))
    if low < 0 or high > 255 or not whole:
        hint = "leave the normalisation out" if images.dtype.kind == "f" else "scale them to 8 bits"
        raise UserError(
            f"{where} images are {images.dtype} from {low:g} to {high:g}; whole numbers from 0 to 255 (uint8) are "
            f"needed: {hint}"
        )
    if scale != 1.0:
        notes.append("its images are numbers from 0 to 1; they were scaled to 0 to 255")
    return rounded.astype(np.uint8)


def _labels(value: Any, where: str) -> NDArray[np.int64]:
    """Convert labels to int64 [images].

    Raises:
        UserError: the labels are not one whole number for each image, 0 or larger.
    """
    labels = _array(value)
    if labels.dtype.kind not in "iufb":
        raise UserError(f"{where} labels are {labels.dtype}; whole numbers from 0 are needed")
    if labels.ndim == 2 and labels.shape[1] > 1 and set(np.unique(labels)) <= {0, 1} and (labels.sum(1) == 1).all():
        labels = labels.argmax(1)  # one-hot
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise UserError(f"{where} labels have the shape {_shape(labels, 0)}; one number for each image is needed")
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.rint(labels)).all()):
        raise UserError(f"{where} labels are not whole numbers")
    labels = labels.astype(np.int64)
    if labels.size and labels.min() < 0:
        first = int(np.flatnonzero(labels < 0)[0])
        count = int((labels < 0).sum())
        raise UserError(
            f"{where} label {labels[first]} of image {first:,} is no class ({count:,} of this kind); leave images "
            "without a class out"
        )
    return labels


def _check_classes(
    name: str, train: NDArray[np.int64], test: NDArray[np.int64], names: Sequence[str], notes: list[str]
) -> None:
    classes = len(names)
    if classes < 2:
        raise UserError(f"{name} has one class only; at least two are needed")
    for labels, part in ((train, "training"), (test, "test")):
        if labels.max() >= classes:
            one = " (do they begin with 1?)" if labels.max() == classes and labels.min() == 1 else ""
            raise UserError(
                f"{name}: a {part} label is {labels.max()}, but its {classes} classes end at {classes - 1}{one}"
            )
    absent = sorted(set(range(classes)) - set(np.unique(train).tolist()))
    if absent:
        raise UserError(f"{name}: no training image has the class {names[absent[0]]!r}; every class needs some")
    untested = sorted(set(range(classes)) - set(np.unique(test).tolist()))
    if untested:
        notes.append(f"no test image has the class {names[untested[0]]!r}, so its accuracy is not measured")


def _shape(array: NDArray[Any], first: int = 1) -> str:
    return "[" + ", ".join(str(size) for size in array.shape[first:]) + "]"
