"""A folder of pictures as images to evaluate: labelled by its sub-folders, as torchvision's ImageFolder, or not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bench.errors import UserError
from bench.learning.drawing import SIZE, grey_and_alpha, to_mnist

T = TypeVar("T")

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
"""Other files are passed over."""


@dataclass(frozen=True)
class Pictures:
    """Which pictures a folder holds."""

    root: Path
    files: tuple[Path, ...]
    """Sorted by class and name."""
    folders: tuple[str, ...] | None
    """The sub-folder of each picture: its class; None when the pictures have no labels."""

    @property
    def names(self) -> list[str]:
        """The files' paths below the folder."""
        return [file.relative_to(self.root).as_posix() for file in self.files]


def find_pictures(root: Path) -> Pictures:
    """The pictures in ``root``, or in its sub-folders, which are then their classes.

    Raises:
        UserError: there is no such folder, no picture in it, or some lie beside the sub-folders and some in them.
    """
    if not root.is_dir():
        raise UserError(f"--images {root} is not a folder")
    loose = _pictures_among(root.iterdir())
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    labelled = [(file, folder.name) for folder in classes for file in _pictures_among(folder.rglob("*"))]
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


def _pictures_among(entries: Iterable[Path]) -> list[Path]:
    return sorted(
        file for file in entries if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()
    )


def labels_of(pictures: Pictures, class_names: Sequence[str]) -> NDArray[np.int64]:
    """The class number of each picture: int64 [pictures].

    A sub-folder is named as the class, in small or capital letters, with ``_`` for what a file name cannot hold.
    Where no sub-folder is named so, they are the classes in alphabetical order, as ImageFolder has it.

    Raises:
        UserError: the pictures have no labels, or their sub-folders are not the classes.
    """
    if pictures.folders is None:
        raise UserError(f"{pictures.root} has no sub-folders, so its pictures have no labels")
    known = {_plain(name): number for number, name in enumerate(class_names)}
    folders = sorted(set(pictures.folders))
    strange = [name for name in folders if _plain(name) not in known]
    if not strange:
        numbers = {name: known[_plain(name)] for name in folders}
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


def read_pictures(
    files: Sequence[Path], *, channels: int, input_size: int, as_drawing: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """All pictures as one array: uint8 [pictures, channels, height, width], and bool [pictures]: is there any ink.

    Pictures of one size keep it; others are resized to the model's input size. With ``as_drawing`` each goes through
    :func:`bench.learning.drawing.to_mnist`; one without ink is black. Grey pictures stay grey: models with three
    channels take them too.

    Raises:
        UserError: a file is not a picture or is damaged.
    """
    if as_drawing:
        found = [_opened(file, to_mnist) for file in files]
        blank = np.zeros((SIZE, SIZE), dtype=np.uint8)
        inked = np.array([picture is not None for picture in found])
        return np.stack([blank if picture is None else picture for picture in found])[:, None], inked
    headers = [_opened(file, _header) for file in files]
    one_size = len({size for size, _ in headers}) == 1
    colour = channels == 3 and any(is_colour for _, is_colour in headers)
    target = None if one_size else (input_size, input_size)
    images = [_opened(file, lambda picture: _pixels(picture, colour=colour, size=target)) for file in files]
    return np.stack(images), np.ones(len(images), dtype=bool)


def _opened(file: Path, read: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(file) as picture:
            return read(picture)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error) or "it ends too early"
        raise UserError(f"cannot read the picture {file}: {reason}") from None


def _header(picture: Image.Image) -> tuple[tuple[int, int], bool]:
    """(size, whether it may have colour), without reading the pixels."""
    turned = picture.getexif().get(0x0112, 1) >= 5
    width, height = picture.size
    grey = picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;")
    return ((height, width) if turned else (width, height)), not grey


def _pixels(picture: Image.Image, *, colour: bool, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """uint8 [channels, height, width]; what is transparent is laid on white."""
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
