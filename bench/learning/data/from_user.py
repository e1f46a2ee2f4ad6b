"""Data sets of the user's own: a function in ``FILE.py:NAME`` that returns training and test images with labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.errors import UserError
from bench.learning.data.arrays import dataset_of
from bench.learning.data.dataset import Dataset, Reading
from bench.learning.data.from_torchvision import as_in_training, classes_of
from bench.learning.user_code import UserCode, call


def loader(name: str) -> Callable[[Reading], Dataset]:
    """Return a function that loads the data set ``FILE.py:NAME``.

    The user's function returns ``(train_images, train_labels), (test_images, test_labels)``, and a list of class names
    behind them if it likes; or two data sets of torch's kind, whose items are pairs (picture, label).

    Raises:
        UserError: the file cannot be read, or has no such function.
    """
    function = UserCode.read(name, "--dataset").get(name, "data set")

    def load(reading: Reading) -> Dataset:
        try:
            given = call(function, data_dir=reading.data_dir)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{name} raised {type(error).__name__}: {error}") from error
        if isinstance(given, Dataset):
            given = (
                (given.train.images, given.train.labels),
                (given.test.images, given.test.labels),
                given.class_names,
            )
        if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
            raise UserError(
                f"{name} returned {type(given).__name__}; (train_images, train_labels), (test_images, test_labels) is "
                "needed, with a list of class names behind it or not"
            )
        names = [str(each) for each in given[2]] if len(given) == 3 else classes_of(given[0])
        images, labels = pair_of(given[1], name)
        if len(given) == 2:
            labels = as_in_training(name, labels, *given)
        return dataset_of(name, pair_of(given[0], name), (images, labels), names)

    return load


def pair_of(split: Any, name: str) -> tuple[Any, Any]:
    """Return (images, labels) of a pair, or of a data set of torch's kind, whose pictures are decoded one by one.

    Raises:
        UserError: it is neither.
    """
    if isinstance(split, (tuple, list)) and len(split) == 2:
        return split[0], split[1]
    if not (hasattr(split, "__len__") and hasattr(split, "__getitem__")):
        raise UserError(f"{name} returned {type(split).__name__} for a split; a pair (images, labels) is needed")
    images, labels = [], []
    for position in range(len(split)):
        picture, label = split[position]
        if hasattr(picture, "getbands"):  # a Pillow picture
            picture = np.asarray(picture.convert("L" if picture.getbands() == ("L",) else "RGB"))
        elif hasattr(picture, "detach"):
            picture = picture.detach().cpu().numpy()
        images.append(np.asarray(picture))
        labels.append(int(label))
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        two = " and ".join(str(list(shape)) for shape in sorted(shapes, key=str)[:2])
        raise UserError(f"{name}: pictures have different sizes, as {two}; resize them, or use --dataset folder:DIR")
    return np.stack(images), np.array(labels)
