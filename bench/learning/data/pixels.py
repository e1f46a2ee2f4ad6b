"""One picture, to be trained on or evaluated: opened, turned upright, and decoded to bytes."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bench.learning.data.depth import White, check_colours, is_deep, remember_depth, to_bytes

_LIGHT = 192
"""The luma, of 255, from which on ink is light: on white it would hardly be seen."""


LARGEST = 120_000_000
"""The most pixels that are decoded: those of the largest cameras. A file of a few kilobytes can hold many more."""
_STDERR = threading.Lock()
"""Held while standard error is closed."""


class PictureError(Exception):
    """The error for a file that is not a picture, or is damaged."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress Pillow's warnings, about odd palettes and metadata, while pictures are read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_picture(content: bytes) -> Image.Image:
    """Open the picture in a file's bytes without decoding its pixels.

    Raises:
        PictureError: the bytes are not a picture, its header is damaged.
    """
    try:
        picture = Image.open(io.BytesIO(content))
        remember_depth(picture)
        return picture
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise PictureError("not a picture" if isinstance(error, UnidentifiedImageError) else str(error)) from None


def pixels_of(picture: Image.Image, *, colour: bool, size: int | None, white: White | None = None) -> NDArray[np.uint8]:
    """Decode a picture to uint8 [channels, height, width], upright; transparency is white, behind light ink black.

    Args:
        picture: the open picture, its pixels not decoded yet.
        colour: True for 3 channels (RGB), False for 1 (grey).
        size: height and width in pixels: the centre square is cropped and resized to them; None does neither.
        white: the data set's white, for pixels of more than 8 bits; None judges the picture by itself.

    Raises:
        PictureError: the file is damaged.
    """
    try:
        if size is not None and picture.format == "JPEG":
            picture.draft(None, (2 * size, 2 * size))  # lets the JPEG decoder scale by 1/2, 1/4 or 1/8
        flat = _flat(upright(picture, white), colour=colour)
        if size is not None and flat.size != (size, size):
            flat = ImageOps.fit(flat, (size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(flat, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise PictureError(str(error) or "it ends too early") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def load(picture: Image.Image) -> None:
    """Decode the pixels of a TIFF file without libtiff's messages; those of other files are decoded when needed.

    Pillow has no switch for these messages, which C code writes to standard error, so that is closed meanwhile.

    Raises:
        ValueError: the picture has more than LARGEST pixels.
    """
    pixels = picture.width * picture.height
    if pixels > LARGEST:
        raise ValueError(f"it has {pixels / 1e6:,.0f} million pixels; at most {LARGEST / 1e6:,.0f} million are decoded")
    if picture.format != "TIFF":
        return
    with _STDERR, contextlib.ExitStack() as stack:
        try:
            before = os.dup(2)
        except OSError:  # the process has no standard error
            picture.load()
            return
        stack.callback(os.close, before)
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        stack.callback(os.dup2, before, 2)
        picture.load()


def upright(picture: Image.Image, white: White | None = None) -> Image.Image:
    """Return a picture turned as its Exif orientation says, with at most 8 bits per channel.

    Raises:
        ValueError: a pixel value is not a finite number, colours are of 12 in 16 bits, or there are more than LARGEST
            pixels.
    """
    load(picture)
    check_colours(picture)
    turned = ImageOps.exif_transpose(picture) if orientation(picture) > 1 else picture
    return to_bytes(turned, white) if is_deep(turned) else turned


def _flat(picture: Image.Image, *, colour: bool) -> Image.Image:
    """Convert a picture of 8 bits per channel to Pillow's mode 'RGB' or 'L', without transparency."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = "black" if _is_light_ink(picture) else "white"
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture)
    if not colour and picture.mode not in ("1", "L"):
        picture = picture.convert("RGB")  # so that palette indices become colours before grey
    wanted = "RGB" if colour else "L"
    return picture if picture.mode == wanted else picture.convert(wanted)


def is_grey(picture: Image.Image) -> bool:
    """Return whether the picture's mode allows no colour."""
    return picture.mode in ("1", "L", "LA") or is_deep(picture)


def orientation(picture: Image.Image) -> int:
    """Return the Exif orientation (tag 0x0112): 1 is upright, 5 to 8 swap width and height."""
    if picture.format == "JPEG" and "exif" not in picture.info:  # getexif() would take half as long as decoding
        return 1
    return int(picture.getexif().get(0x0112, 1))


def _is_light_ink(picture: Image.Image) -> bool:
    """Return whether a picture in mode 'RGBA' is light ink on a transparent ground, which would vanish on white."""
    alpha = np.asarray(picture.getchannel("A"))
    opaque = max(1, int(alpha.max()) // 2)
    ink = np.asarray(picture.convert("RGB").convert("L"))[alpha >= opaque]
    return bool(ink.size and alpha.min() < opaque and np.percentile(ink, 5) >= _LIGHT)
