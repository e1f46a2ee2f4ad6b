"""Classification data sets of torchvision, as ``torchvision/NAME``, from --data-dir or by its own download."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError, first_line, unknown
from bench.learning import cache
from bench.learning.data.arrays import dataset_of
from bench.learning.data.class_names import relabelled
from bench.learning.data.dataset import Dataset, Reading, Split, digest
from bench.learning.data.decoding import LARGEST_NATIVE
from bench.learning.data.depth import White, is_deep, largest_of, white_of
from bench.learning.data.pixels import PictureError, is_grey, pixels_of, quiet

Options = dict[str, Any]
_TRAINING = "the training split"


def _trained(**more: Any) -> tuple[Options, Options]:
    return {"train": True, **more}, {"train": False, **more}


def _split(train: str = "train", test: str = "test", **more: Any) -> tuple[Options, Options]:
    return {"split": train, **more}, {"split": test, **more}


SETS: dict[str, tuple[Options, Options]] = {
    "CIFAR10": _trained(),
    "CIFAR100": _trained(),
    "MNIST": _trained(),
    "FashionMNIST": _trained(),
    "KMNIST": _trained(),
    "QMNIST": _trained(),
    "USPS": _trained(),
    **{
        f"EMNIST-{split}": _trained(split=split)
        for split in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")
    },
    "SVHN": _split(),
    "STL10": _split(),
    "Food101": _split(),
    "Flowers102": _split(),
    "GTSRB": _split(),
    "DTD": _split(),
    "FGVCAircraft": _split("trainval"),
    "PCAM": _split(),
    "Country211": _split(),
    "OxfordIIITPet": _split("trainval"),
    "RenderedSST2": _split(),
    "Imagenette": _split("train", "val"),
}
"""The options that choose the training and the test split, by name; EMNIST has several pairs of splits."""


def loader(name: str) -> Callable[[Reading], Dataset]:
    """Return a function that loads ``torchvision/NAME``.

    Raises:
        UserError: there is no such data set.
    """
    if name not in SETS:
        raise unknown("data set", f"torchvision/{name}", [f"torchvision/{other}" for other in SETS])

    def load(reading: Reading) -> Dataset:
        root = reading.data_dir or cache.cache_dir() / "torchvision"
        train, test = (_open(name, root, options, download=reading.data_dir is None) for options in SETS[name])
        return dataset_from(f"torchvision/{name}", train, test)

    return load


def _open(name: str, root: Path, options: Options, *, download: bool) -> Any:
    """Return torchvision's data set from ``root``, downloaded if it is not there and may be.

    Raises:
        UserError: it is not there, is damaged, or cannot be downloaded.
    """
    from torchvision import datasets

    kind = getattr(datasets, name.partition("-")[0])
    root.mkdir(parents=True, exist_ok=True)
    try:
        return kind(root, download=False, **options)
    except (RuntimeError, OSError) as error:
        missing = first_line(error)
    if not download:
        raise UserError(f"--data-dir {root} does not hold torchvision/{name} as torchvision keeps it: {missing}")
    try:
        return kind(root, download=True, **options)
    except Exception as error:  # a host that does not answer makes it raise almost anything
        raise UserError(
            f"torchvision/{name} cannot be downloaded from here ({first_line(error)}); name a folder that holds it, as "
            "torchvision keeps it, with --data-dir"
        ) from None


def _white(splits: Sequence[Any]) -> White | None:
    """Return the white of all pictures with more than 8 bits; None if there are none among them.

    Raises:
        UserError: a picture is damaged, or has values that are not finite numbers.
    """
    largest = []
    for split in splits:
        for place in range(len(split)):
            try:
                with quiet():
                    picture = split[place][0]
                    if is_deep(picture):
                        largest.append(largest_of(picture))
            except (OSError, ValueError, SyntaxError) as error:
                raise UserError(f"picture {place:,} of the data set cannot be read: {error}") from None
    return white_of(largest)


def _decoded(source: Any, size: int | None, *, colour: bool, white: White | None) -> NDArray[np.uint8]:
    """Return the pictures of a split, decoded one by one, uint8 [pictures, channels, height, width].

    They are not cached: nothing but their contents, which only decoding shows, would tell when they have changed.

    Raises:
        UserError: a picture is damaged, or has another size than the first, which without ``size`` all need.
    """
    with quiet():
        first = pixels_of(source[0][0], colour=colour, size=size, white=white)
        pixels = np.empty((len(source), *first.shape), dtype=np.uint8)
        for place in range(len(source)):
            try:
                pixels[place] = pixels_of(source[place][0], colour=colour, size=size, white=white)
            except (PictureError, ValueError) as error:
                raise UserError(f"picture {place:,} of the data set cannot be read: {error}") from None
    return pixels


def dataset_from(name: str, train: Any, test: Any) -> Dataset:
    """Return the data set of two splits of torch's kind, whose items are pairs (picture, class).

    Raises:
        UserError: they are no pictures with classes.
    """
    names = classes_of(train)
    arrays = [(_array(split), _labels(split)) for split in (train, test)]
    if all(images is not None for images, _ in arrays):
        (a, b), (c, d) = arrays
        return dataset_of(name, (a, b), (c, as_in_training(name, d, train, test)), names)
    labels = [
        np.array(each if each is not None else [item[1] for item in split], dtype=np.int64)
        for (_, each), split in zip(arrays, (train, test), strict=True)
    ]
    class_names = tuple(str(each) for each in names or range(int(labels[0].max()) + 1))
    labels = [
        relabelled(labels[0], class_names, class_names, f"{name}: the training class", _TRAINING),
        relabelled(labels[1], classes_of(test) or class_names, class_names, f"{name}: the test class", _TRAINING),
    ]
    sample = [train[place][0] for place in range(0, len(train), max(1, len(train) // 64))]
    sizes = {picture.size for picture in sample}
    colour = not all(is_grey(picture) for picture in sample)
    white = _white((train, test)) if any(is_deep(picture) for picture in sample) else None

    def read(size: int | None) -> tuple[Split, Split]:
        parts = [_decoded(split, size, colour=colour, white=white) for split in (train, test)]
        return Split(parts[0], labels[0]), Split(parts[1], labels[1])

    native = len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST_NATIVE
    splits = read(None if native else min(LARGEST_NATIVE, *(min(size) for size in sizes)))
    contents = [hashlib.sha256(np.ascontiguousarray(part.images).data).hexdigest() for part in splits]
    about = [*contents, *(hashlib.sha256(each.tobytes()).hexdigest() for each in labels), *class_names]
    return Dataset(name, digest(about), *splits, class_names, resize=None if native else read)


def classes_of(split: Any) -> tuple[str, ...] | None:
    """Return the names of the classes of a split of torch's kind; None if it does not name them."""
    names = getattr(split, "classes", None)
    return tuple(str(name) for name in names) if isinstance(names, (list, tuple)) else None


def as_in_training(name: str, labels: Any, train: Any, test: Any) -> Any:
    """Return the labels of a test split of torch's kind, with the class numbers of the training split.

    Two splits made from two folders number their classes differently where one folder lacks a class.

    Raises:
        UserError: a test class is no training class.
    """
    names, others = classes_of(train), classes_of(test)
    if names is None or others is None or names == others:
        return labels
    return relabelled(np.asarray(labels, dtype=np.int64), others, names, f"{name}: the test class", _TRAINING)


def _array(split: Any) -> Any:
    """Return the images of a split that holds them all in one array of whole numbers; None if it does not."""
    data = getattr(split, "data", None)
    if data is None or not hasattr(data, "shape") or len(data.shape) not in (3, 4):
        return None
    return data


def _labels(split: Any) -> Any:
    for name in ("targets", "labels"):
        if hasattr(split, name):
            return getattr(split, name)
    return None
