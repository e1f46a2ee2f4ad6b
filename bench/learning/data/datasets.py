"""Data sets by name: each has a training and a test split of uint8 images. Reading one needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.learning.registry import Registry
from bench.spec import DatasetInfo


@dataclass(frozen=True)
class Split:
    """Images with their classes."""

    images: NDArray[np.uint8]
    """Shape [images, channels, height, width]."""
    labels: NDArray[np.int64]
    """Class numbers from 0 to the number of classes less one, shape [images]."""


@dataclass(frozen=True)
class Dataset:
    """A data set in memory."""

    name: str
    sha256: str
    """Digest of everything that determines the two splits."""
    train: Split
    test: Split
    class_names: tuple[str, ...]
    note: str | None = None
    """A line for the user, if they may expect another data set than was loaded."""

    @property
    def info(self) -> DatasetInfo:
        """Return the name, digest and sizes."""
        return DatasetInfo(
            name=self.name,
            sha256=self.sha256,
            train_images=len(self.train.labels),
            test_images=len(self.test.labels),
            classes=len(self.class_names),
        )


Loader = Callable[[Path | None], Dataset]
"""A function that loads a data set, from the folder given with --data-dir if there is one."""

DATASETS: Registry[Loader] = Registry("data set")


def register(name: str) -> Callable[[Loader], Loader]:
    """Return a decorator that registers a loader under ``name``."""

    def add(loader: Loader) -> Loader:
        DATASETS.add(name, loader)
        return loader

    return add


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load the data set called ``name``, from ``data_dir`` if that is given.

    Raises:
        UserError: there is no such data set, its files are missing or damaged, or ``data_dir`` is not a folder.
    """
    loader = DATASETS.find(name)
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"--data-dir {data_dir} is not a folder")
    return loader(data_dir)


def digest(parts: Sequence[str]) -> str:
    """Return a data set's digest, computed from the digests of its parts."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
