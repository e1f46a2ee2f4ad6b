"""Pictures that are decoded whenever they are read, for want of room in the cache and in memory."""

from __future__ import annotations

import functools
import hashlib
import math
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.learning.cpus import usable_cpus
from bench.learning.data.decoding import PictureList
from bench.learning.data.depth import White
from bench.learning.data.pixels import PictureError, open_picture, pixels_of

_SAMPLE = 512
"""The largest number of pictures that are decoded to measure the rate."""

Places = slice | Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Streamed:
    """Picture files that are read like a uint8 array [pictures, channels, height, width].

    Every access decodes what it asks for, on all CPUs; nothing is kept. Each process decodes for itself, and needs the
    files under the same paths.
    """

    files: tuple[str, ...]
    digests: tuple[str, ...]
    """SHA-256 of each file's bytes, in hex."""
    size: tuple[int, int]
    """Height and width, in pixels."""
    resized: bool
    """False if the files have this size."""
    colour: bool
    """True for 3 channels, False for 1."""
    white: White | None = None
    """The white of pictures of more than 8 bits, if there are any."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the array: [pictures, channels, height, width]."""
        return len(self.files), 3 if self.colour else 1, *self.size

    @property
    def nbytes(self) -> int:
        """Return the size of all decoded pictures, in bytes."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.files)

    def __getitem__(self, places: Places) -> NDArray[np.uint8]:
        """Return the pictures at ``places``, decoded.

        Raises:
            PictureError: a file cannot be read, or its contents have changed since the data set was loaded.
        """
        chosen = range(len(self.files))[places] if isinstance(places, slice) else [int(place) for place in places]
        pixels = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)

        def fill(numbered: tuple[int, int]) -> None:
            pixels[numbered[0]] = self._decode(numbered[1])

        for _ in _threads().map(fill, enumerate(chosen)):
            pass
        return pixels

    def only(self, places: Sequence[int] | NDArray[np.integer]) -> Streamed:
        """Return the pictures at ``places``, still to be decoded."""
        files, digests = (tuple(every[int(place)] for place in places) for every in (self.files, self.digests))
        return replace(self, files=files, digests=digests)

    def rate(self) -> float:
        """Return how many pictures per second are decoded if this process does nothing else: measured on a sample."""
        step = math.ceil(len(self) / _SAMPLE)
        start = time.perf_counter()
        return len(self[::step]) / (time.perf_counter() - start)

    def _decode(self, place: int) -> NDArray[np.uint8]:
        file = Path(self.files[place])
        try:
            content = file.read_bytes()
        except OSError as error:
            raise PictureError(f"{file}: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != self.digests[place]:
            raise PictureError(f"{file}: its contents have changed since the training began")
        try:
            size = self.size[0] if self.resized else None
            return pixels_of(open_picture(content), colour=self.colour, size=size, white=self.white)
        except PictureError as error:
            raise PictureError(f"{file}: {error}") from None


def pixels_or_stream(pictures: PictureList, size: int | None, *, colour: bool) -> NDArray[np.uint8] | Streamed:
    """Return the pictures decoded once, or to be decoded whenever they are read if there is no room for all.

    Args:
        pictures: the files.
        size: height and width in pixels; None keeps the pictures' common size.
        colour: True for 3 channels, False for 1.

    Raises:
        PictureError: a file cannot be read, or its pixels are damaged.
    """
    decoded = pictures.decode(size, colour=colour)
    return stream(pictures, size, colour=colour) if decoded is None else decoded


def stream(pictures: PictureList, size: int | None, *, colour: bool) -> Streamed:
    """Return the pictures, to be decoded whenever they are read; the arguments are those of pixels_or_stream()."""
    width, height = (size, size) if size is not None else pictures.native or (0, 0)
    digests = tuple(each.sha256 for each in pictures.seen)
    return Streamed(pictures.files, digests, (height, width), size is not None, colour, pictures.white)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Return this process's threads for decoding; Pillow lets go of Python's lock while it decodes and resizes."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # in threads they cannot be suppressed for a while only
    return ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode")
