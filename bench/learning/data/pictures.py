"""Folders of pictures to evaluate, labelled by sub-folders as in torchvision's ImageFolder, or not labelled."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bench.errors import UserError

T = TypeVar("T")

Redraw = Callable[[Image.Image | NDArray[np.uint8]], NDArray[np.uint8] | None]
"""A function that redraws a picture to look like the training images: uint8 [height, width]; None if it is blank."""

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
"""The file endings of pictures; other files are ignored."""


@dataclass(frozen=True)
class Pictures:
    """The pictures in a folder."""

    root: Path
    files: tuple[Path, ...]
    """The pictures' files, sorted by class and name."""
    folders: tuple[str, ...] | None
    """The name of each picture's sub-folder, which is its class; None if the pictures have no labels."""

    @property
    def names(self) -> list[str]:
        """Return the files' paths relative to the folder."""
        return [file.relative_to(self.root).as_posix() for file in self.files]


def find_pictures(root: Path) -> Pictures:
    """Find the pictures in ``root``, or in its sub-folders, which are then their classes.

    Raises:
        UserError: there is no such folder, no picture in it, or there are pictures both beside and in sub-folders.
    """
    if not root.is_dir():
        raise UserError(f"--images {root} is not a folder")
    loose = among(root.iterdir())
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    labelled = [(file, folder.name) for folder in classes for file in among(folder.rglob("*"))]
    if loose and labelled:
        raise UserError(
            f"--images {root}: some pictures lie in sub-folders (as {labelled[0][0].relative_to(root)}) and some "
            f"beside them (as {loose[0].name}); put all into sub-folders named by class, or none"
        )
    if not loose and not labelled:
        raise UserError(f"--images {root} holds no pictures ({', '.join(ending[1:] for ending in ENDINGS)})")
    if loose:
        return Pictures(root, tuple(loose), None)
    return Pictures(root, tuple(file for file, _ in labelled), tuple(name for _, name in labelled))


def among(entries: Iterable[Path]) -> list[Path]:
    """Return the picture files among ``entries``, sorted; hidden ones are left out."""
    return sorted(
        file for file in entries if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()
    )


def labels_of(pictures: Pictures, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Return the class number of each picture: int64 [pictures].

    A sub-folder is named after its class, in small or capital letters, with ``_`` for all but letters and digits. If no
    sub-folder is named after a class, the sub-folders are the classes in alphabetical order, as in ImageFolder.

    Raises:
        UserError: the pictures have no labels, or their sub-folders are not the classes.
    """
    if pictures.folders is None:
        raise UserError(f"{pictures.root} has no sub-folders, so its pictures have no labels")
    class_numbers = {_plain(name): number for number, name in enumerate(class_names)}
    folders = sorted(set(pictures.folders))
    strange = [name for name in folders if _plain(name) not in class_numbers]
    if not strange:
        numbers = {name: class_numbers[_plain(name)] for name in folders}
    elif len(strange) == len(folders) == len(class_names):
        numbers = {name: number for number, name in enumerate(folders)}
    else:
        raise UserError(
            f"--images {pictures.root}: sub-folder {strange[0]!r} is no class of this model; name the sub-folders "
            f"{', '.join(class_names)}"
        )
    return np.array([numbers[name] for name in pictures.folders], dtype=np.int64)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def read_pictures(files: Sequence[Path], *, channels: int, input_size: int) -> NDArray[np.uint8]:
    """Return all pictures as one array: uint8 [pictures, channels, height, width].

    If all pictures have the same size, they keep it; otherwise all are resized to the model's input size. If all are
    grey, they stay grey: models with three channels take them too.

    Raises:
        UserError: a file is not a picture or is damaged.
    """
    headers = [_opened(file, _header) for file in files]
    one_size = len({size for size, _ in headers}) == 1
    colour = channels == 3 and any(is_colour for _, is_colour in headers)
    target = None if one_size else (input_size, input_size)
    return np.stack([_opened(file, lambda picture: _pixels(picture, colour=colour, size=target)) for file in files])


def redraw_files(files: Sequence[Path], redraw: Redraw, *, input_size: int) -> tuple[NDArray[np.uint8], int]:
    """Read pictures and redraw each; see :func:`redraw_all`.

    Raises:
        UserError: a file is not a picture or is damaged.
    """
    return _stacked([_opened(file, redraw) for file in files], input_size)


def redraw_all(
    images: Iterable[NDArray[np.uint8]], redraw: Redraw, *, input_size: int
) -> tuple[NDArray[np.uint8], int]:
    """Redraw each image; return (uint8 [images, 1, height, width], number of blank images, which are all black)."""
    return _stacked([redraw(image) for image in images], input_size)


def _stacked(drawings: Sequence[NDArray[np.uint8] | None], input_size: int) -> tuple[NDArray[np.uint8], int]:
    size = next((drawing.shape for drawing in drawings if drawing is not None), (input_size, input_size))
    black = np.zeros(size, dtype=np.uint8)
    pixels = np.stack([black if drawing is None else drawing for drawing in drawings])[:, None]
    return pixels, sum(drawing is None for drawing in drawings)


def _opened(file: Path, read: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(file) as picture:
            return read(picture)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error) or "it ends too early"
        raise UserError(f"cannot read the picture {file}: {reason}") from None


def _header(picture: Image.Image) -> tuple[tuple[int, int], bool]:
    """Return ((width, height), whether the picture may have colour) without reading the pixels."""
    turned = picture.getexif().get(0x0112, 1) >= 5
    width, height = picture.size
    grey = picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;")
    return ((height, width) if turned else (width, height)), not grey


def grey_and_alpha(picture: Image.Image) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return luma (ITU-R BT.601) and opacity, each [height, width] from 0 to 255; opacity is None if all is opaque."""
    picture = ImageOps.exif_transpose(picture)  # cameras store the orientation beside the pixels
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more: scale by the range of the values
        values = np.asarray(picture, dtype=np.float32)
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if picture.mode.startswith("I;16"):
            low, high = 0.0, 65535.0
        return (values - low) * (255 / max(high - low, 1e-6)), None
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = np.asarray(picture.getchannel("A"), dtype=np.float32)
        grey = np.asarray(picture.convert("RGB").convert("L"), dtype=np.float32)
        return grey, None if alpha.min() == 255 else alpha
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about palettes with odd transparency
        return np.asarray(picture.convert("L"), dtype=np.float32), None


def _pixels(picture: Image.Image, *, colour: bool, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Return uint8 [channels, height, width]; transparent parts are laid on white."""
    if colour:
        turned = ImageOps.exif_transpose(picture).convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned).convert("RGB")
    else:
        grey, alpha = grey_and_alpha(picture)
        if alpha is not None:
            grey = (255 + (grey - 255) * (alpha / 255)).astype(np.float32)
        flat = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    if size is not None and flat.size != size:
        flat = flat.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(flat, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
