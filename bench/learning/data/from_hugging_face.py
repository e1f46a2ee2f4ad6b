"""Data sets of Hugging Face: parquet files or a folder of pictures on disk, or a name; the package is an extra."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from bench.errors import UserError, first_line
from bench.learning.data.dataset import Dataset, Reading
from bench.learning.data.from_torchvision import dataset_from


class _Items:
    """A split as pairs (Pillow picture, class number)."""

    def __init__(self, split: Any, image: str, label: str) -> None:
        self._split, self._image = split, image
        self.targets = [int(each) for each in split[label]]
        feature = split.features[label]
        self.classes = list(feature.names) if hasattr(feature, "names") else None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        from PIL import Image

        value = self._split[place][self._image]
        if isinstance(value, dict):
            value = Image.open(io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"])
        return value, self.targets[place]


def load(path: str, reading: Reading) -> Dataset:
    """Load the data set at a folder, or of a name.

    Raises:
        UserError: the package is missing, there is no such data set, or it has no pictures with classes.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        import datasets
    except ImportError:
        needed = "pip install 'image-classifier-bench[huggingface]'"
        raise UserError(f"--dataset hf:{path} needs the package datasets: {needed}") from None
    datasets.disable_progress_bars()
    try:
        if Path(path).is_dir() and (Path(path) / "dataset_dict.json").exists():
            loaded: Any = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path)
    except Exception as error:  # the package raises errors of many kinds
        raise UserError(f"--dataset hf:{path} cannot be loaded: {first_line(error)}") from None
    train = loaded.get("train")
    test = next((loaded[name] for name in ("test", "validation", "val", "valid") if name in loaded), None)
    if train is None:
        raise UserError(f"--dataset hf:{path} has the splits {', '.join(loaded)}; train is needed")
    image, label = _columns(train, path)
    if test is None:
        parts = train.train_test_split(test_size=reading.test_fraction, seed=0)
        train, test = parts["train"], parts["test"]
    return dataset_from(f"hf:{Path(path).name}", _Items(train, image, label), _Items(test, image, label))


def _columns(split: Any, path: str) -> tuple[str, str]:
    """Return the names of the columns with pictures and with classes."""
    features = split.features
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    labels = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    labels = labels or [name for name in ("label", "labels", "fine_label") if name in features]
    if not images or not labels:
        raise UserError(f"--dataset hf:{path} has the columns {', '.join(features)}; a picture and a class are needed")
    return images[0], labels[0]
