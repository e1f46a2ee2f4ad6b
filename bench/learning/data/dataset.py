"""A data set: a training and a test split of uint8 images. Reading this file needs no torch."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.learning.cpus import usable_cpus
from bench.learning.data.streaming import Streamed
from bench.learning.registry import Registry
from bench.spec import TEST_FRACTION, DatasetInfo, Storage


@dataclass(frozen=True)
class Split:
    """Images with their classes."""

    images: NDArray[np.uint8] | Streamed
    """Shape [images, channels, height, width]. They may be mapped from a file, which other processes then map too, or
    be decoded whenever they are read."""
    labels: NDArray[np.int64]
    """Class numbers from 0 to the number of classes less one, shape [images]."""

    @property
    def array(self) -> NDArray[np.uint8]:
        """Return the images as an array; streamed ones are all decoded."""
        return self.images[:] if isinstance(self.images, Streamed) else self.images

    @property
    def storage(self) -> Storage:
        """Return where the images are."""
        if isinstance(self.images, Streamed):
            return "streamed"
        return "mapped" if isinstance(self.images, np.memmap) else "memory"

    def __getstate__(self) -> dict[str, Any]:
        """Return the labels, and the images or the file that they are mapped from."""
        images: Any = self.images
        if isinstance(images, np.memmap):
            images = str(images.filename) if isinstance(images.base, mmap.mmap) else np.asarray(images)
        return {"images": images, "labels": self.labels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the file again, if there is one.

        Raises:
            FileNotFoundError: the file is not on this machine.
        """
        images = state["images"]
        object.__setattr__(self, "images", np.load(images, mmap_mode="r") if isinstance(images, str) else images)
        object.__setattr__(self, "labels", state["labels"])

    def in_memory(self) -> Split:
        """Return the split with mapped images in memory, so that machines without the file can have it.

        Streamed images stay as they are: every machine needs their files.
        """
        return replace(self, images=np.array(self.images)) if isinstance(self.images, np.memmap) else self


@dataclass(frozen=True)
class Dataset:
    """A data set."""

    name: str
    sha256: str
    """Digest of everything that determines the two splits."""
    train: Split
    test: Split
    class_names: tuple[str, ...]
    note: str | None = None
    """A line for the user, if they may expect another data set than was loaded."""
    resize: Callable[[int], tuple[Split, Split]] | None = None
    """The function that reads pictures of different sizes at a height and width in pixels; None if all have one size,
    which they keep."""

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

    @property
    def size(self) -> int:
        """Return the size of the pictures in pixels: the smaller one of height and width."""
        return int(min(self.train.images.shape[2:]))

    @property
    def channels(self) -> int:
        """Return the number of channels: 1 for grey, 3 for colour."""
        return int(self.train.images.shape[1])

    @property
    def storage_note(self) -> str | None:
        """Return a line that says where decoded pictures are; None for images that did not come from picture files."""
        images, parts = self.train.images, (self.train, self.test)
        count, size = sum(len(part.labels) for part in parts), sum(part.images.nbytes for part in parts)
        about = f"{self.name}: {count:,} pictures of {images.shape[3]} x {images.shape[2]}, {size / 1e6:,.0f} MB"
        if isinstance(images, Streamed):
            return (
                f"{about}, are more than BENCH_DECODED_GB and BENCH_MEMORY_GB allow to keep: they are decoded anew in "
                f"every epoch; decoding alone reaches {images.rate():,.0f} images/s on {usable_cpus()} CPUs"
            )
        mapped = self.train.storage == "mapped"
        return f"{about}, were decoded once, into a file that all workers read" if mapped else None

    def at(self, size: int) -> Dataset:
        """Return the data set as a model of this input size reads it: pictures of different sizes are read anew."""
        if self.resize is None:
            return self
        train, test = self.resize(size)
        return replace(self, train=train, test=test, resize=None)

    def in_memory(self) -> Dataset:
        """Return the data set without files that it is mapped from."""
        return replace(self, train=self.train.in_memory(), test=self.test.in_memory())


Loader = Callable[[Path | None], Dataset]
"""A function that loads a data set, from the folder given with --data-dir if there is one."""

DATASETS: Registry[Loader] = Registry("data set")
"""The data sets that come with this package."""


@dataclass(frozen=True)
class Reading:
    """How a data set is read."""

    data_dir: Path | None = None
    test_fraction: float = TEST_FRACTION
    skip_unreadable: int = 0
    """The number of pictures that may be unreadable, and are left out."""


def register(name: str) -> Callable[[Loader], Loader]:
    """Return a decorator that registers a loader under ``name``."""

    def add(loader: Loader) -> Loader:
        DATASETS.add(name, loader)
        return loader

    return add


def digest(parts: Sequence[str]) -> str:
    """Return a data set's digest, computed from the digests of its parts."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
