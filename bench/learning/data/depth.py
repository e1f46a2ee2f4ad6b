"""Pixel values of more than 8 bits: scaled to 8 bits alike in every picture of a data set, whatever its file format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PpmImagePlugin

_MAXVAL = "maxval"
"""The key of ``Image.info`` under which :func:`remember_depth` keeps the value that stands for white in a file."""

_DEEP_COLOUR = "16 bits per colour"
"""The key of ``Image.info`` where :func:`remember_depth` notes colours of which Pillow keeps only the upper 8 bits."""
_UPPER_OF_12_BITS = (2**12 - 1) >> 8


@dataclass(frozen=True)
class White:
    """The pixel values that are white in pictures of more than 8 bits."""

    whole: float
    """In pictures whose pixels are whole numbers."""
    floating: float
    """In pictures whose pixels are floats."""

    def __str__(self) -> str:
        return f"{self.whole:g}-{self.floating:g}"


@dataclass(frozen=True)
class Largest:
    """The largest pixel value of a picture of more than 8 bits."""

    value: float
    floating: bool
    """True if the pixels are floats."""


def is_deep(picture: Image.Image) -> bool:
    """Return whether a picture has more than 8 bits per pixel in one channel: whole numbers or floats."""
    return picture.mode == "F" or picture.mode.startswith("I")


def remember_depth(picture: Image.Image) -> None:
    """Note what is lost when the pixels of an open file are decoded: that a PNG or TIFF has 16 bits per colour, and the
    value that is white in a PGM file, which Pillow scales to 65,535.
    """
    if not (isinstance(picture, ImageFile.ImageFile) and picture.tile):
        return
    arguments = picture.tile[0].args
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    if not is_deep(picture) and isinstance(raw, str) and ";16" in raw:
        picture.info[_DEEP_COLOUR] = True
    if isinstance(picture, PpmImagePlugin.PpmImageFile) and picture.mode == "I":
        maxval = arguments[-1] if isinstance(arguments, tuple) else None
        if isinstance(maxval, int):
            picture.info[_MAXVAL] = maxval


def check_colours(picture: Image.Image) -> None:
    """Refuse a decoded picture whose 16 bits per colour hold only 12 bits: its upper 8 bits would be nearly black.

    Raises:
        ValueError: they do.
    """
    if _DEEP_COLOUR in picture.info:
        colours = np.asarray(picture.convert("RGB"))
        if 0 < colours.max(initial=0) <= _UPPER_OF_12_BITS:
            raise ValueError("its 16 bits per colour hold values of 12 bits; save it with 8 bits per colour")


def values_of(picture: Image.Image) -> NDArray[np.float32]:
    """Return the pixel values in the file of a deep picture, float32 [height, width].

    Raises:
        ValueError: a value is not a finite number.
    """
    values = np.asarray(picture, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("some of its pixels are no finite numbers (NaN or infinite)")
    maxval = picture.info.get(_MAXVAL, 65535) if picture.mode == "I" else 65535
    return values if maxval == 65535 else np.rint(values * np.float32(maxval / 65535))


def largest_of(picture: Image.Image) -> Largest:
    """Return the largest pixel value of a deep picture.

    Raises:
        ValueError: a value is not a finite number.
    """
    return Largest(float(values_of(picture).max(initial=0)), picture.mode == "F")


def white_of(largest: Iterable[Largest]) -> White | None:
    """Return the white of a data set from the largest values of all its deep pictures; None if it has none.

    It is the first of 255, 4095 and 65535 (8, 12 and 16 bits) that no value exceeds, or else the largest value. Floats
    that are nowhere above 1 have the white 1.
    """
    pictures = list(largest)
    return _white_of(pictures) if pictures else None


def _white_of(pictures: Sequence[Largest]) -> White:
    fractions = max((each.value for each in pictures if each.floating), default=0.0) <= 1
    most = max((each.value for each in pictures if not (each.floating and fractions)), default=0.0)
    white = next((float(2**bits - 1) for bits in (8, 12, 16) if most <= 2**bits - 1), most)
    return White(white, 1.0 if fractions else white)


def to_bytes(picture: Image.Image, white: White | None = None) -> Image.Image:
    """Return a deep picture in Pillow's mode 'L', 0 to 255; with ``white`` None it is judged by itself.

    Raises:
        ValueError: a value is not a finite number.
    """
    values = values_of(picture)
    white = white or _white_of([largest_of(picture)])
    scale = 255 / (white.floating if picture.mode == "F" else white.whole)
    return Image.fromarray(np.rint(values * np.float32(scale)).clip(0, 255).astype(np.uint8))
