"""Folders of pictures to evaluate, labelled by sub-folders as in torchvision's ImageFolder, or not labelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.errors import UserError
from bench.learning.data.class_names import TEST, TRAIN, VALIDATION, class_numbers
from bench.learning.data.decoding import PictureList, Pool, see
from bench.learning.data.depth import White
from bench.learning.data.pixels import PictureError, open_picture, quiet, upright
from bench.learning.data.remote import local_folder
from bench.learning.data.streaming import Streamed, pixels_or_stream
from bench.storage import Place

Redraw = Callable[[Image.Image | NDArray[np.uint8]], NDArray[np.uint8] | None]
"""A function that redraws a picture to look like the training images: uint8 [height, width]; None if it is blank."""

ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""The file endings of pictures that are read."""
NOT_READ = (
    *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jxr", ".svg", ".svgz", ".eps", ".psd", ".xcf", ".kra"),
    *(".ico", ".icns", ".cur", ".tga", ".dds", ".pcx", ".sgi", ".exr", ".hdr", ".pfm", ".dcm", ".fits", ".qoi"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw"),
)
"""The file endings of pictures that are passed over, and named to the user; files with other endings are ignored."""
_MOST_NAMED = 3
"""The most files that are named in a line."""


@dataclass(frozen=True)
class Pictures:
    """The pictures in a folder."""

    root: Path
    files: tuple[Path, ...]
    """The pictures' files, sorted by class and name."""
    folders: tuple[str, ...] | None
    """The name of each picture's sub-folder, which is its class; None if the pictures have no labels."""
    passed_over: tuple[Path, ...] = ()
    """Pictures in formats that are not read, sorted."""

    @property
    def names(self) -> list[str]:
        """Return the files' paths relative to the folder."""
        return [file.relative_to(self.root).as_posix() for file in self.files]


def find_pictures(place: Place) -> Pictures:
    """Find the pictures in a folder, or in its sub-folders, which are then their classes.

    Raises:
        UserError: there is no such folder, no picture in it, or there are pictures both beside and in sub-folders.
    """
    root = local_folder(place, "--images")
    entries = list(root.iterdir())
    classes = sorted(entry for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    inside = {folder.name: list(folder.rglob("*")) for folder in classes}
    loose = among(entries)
    labelled = [(file, name) for name, files in inside.items() for file in among(files)]
    unread = tuple(file for files in (entries, *inside.values()) for file in among(files, NOT_READ))
    if loose and labelled:
        raise UserError(
            f"--images {root}: some pictures lie in sub-folders (as {labelled[0][0].relative_to(root)}) and some "
            f"beside them (as {loose[0].name}); put all into sub-folders named by class, or none"
        )
    if not loose and not labelled:
        others = f"; {describe_passed_over([file.name for file in unread])}" if unread else ""
        raise UserError(f"--images {root} holds no pictures ({', '.join(ending[1:] for ending in ENDINGS)}){others}")
    if loose:
        return Pictures(root, tuple(loose), None, unread)
    return Pictures(root, tuple(file for file, _ in labelled), tuple(name for _, name in labelled), unread)


def among(entries: Iterable[Path], endings: tuple[str, ...] = ENDINGS) -> list[Path]:
    """Return the files among ``entries`` with one of these endings, sorted; hidden ones are left out."""
    return sorted(
        file for file in entries if file.suffix.lower() in endings and not file.name.startswith(".") and file.is_file()
    )


def describe_passed_over(names: Sequence[str]) -> str:
    """Return a line that counts and names pictures in formats that are not read."""
    named = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    count = "1 picture is" if len(names) == 1 else f"{len(names):,} pictures are"
    return f"{count} passed over, as the format is not read ({named}); convert to JPEG or PNG"


def labels_of(pictures: Pictures, class_names: Sequence[str], whose: str = "this model") -> NDArray[np.int64]:
    """Return the class number of each picture: int64 [pictures].

    Args:
        pictures: pictures in sub-folders, which are named after their classes; see :func:`.class_names.class_numbers`.
        class_names: the names of the model's classes.
        whose: whose these are, for the error.

    Raises:
        UserError: the pictures have no labels, or their sub-folders are not the classes.
    """
    if pictures.folders is None:
        raise UserError(f"{pictures.root} has no sub-folders, so its pictures have no labels")
    try:
        numbers = class_numbers(pictures.folders, class_names, f"--images {pictures.root}: sub-folder", whose)
    except UserError as error:
        split = _split_among(pictures)
        if split is None or split in class_names:
            raise
        raise UserError(f"{error}; {split}/ looks like a split: give --images {pictures.root / split}") from None
    return np.array([numbers[name] for name in pictures.folders], dtype=np.int64)


def _split_among(pictures: Pictures) -> str | None:
    """Return a sub-folder that is named like a split and has sub-folders with pictures; None if there is none."""
    for file in pictures.files:
        folder, *inside = file.relative_to(pictures.root).parts[:-1]
        if inside and folder.lower() in TRAIN + TEST + VALIDATION:
            return folder
    return None


def see_pictures(pictures: Pictures) -> PictureList:
    """Return the pictures with their metadata, ready to be decoded as they are for training.

    Raises:
        UserError: a file is not a picture or is damaged.
    """
    with Pool() as pool:
        listed = see([str(file) for file in pictures.files], pool, decode=True)
    for file, about in zip(listed.files, listed.seen, strict=True):
        if about.problem:
            raise UserError(f"cannot read the picture {file}: {about.problem}")
    return listed


def read_pictures(listed: PictureList, *, resized: int) -> NDArray[np.uint8] | Streamed:
    """Return all pictures, uint8 [pictures, channels, height, width], as training reads them.

    Small pictures of one size keep it; all others are cropped and resized. If all are grey, they stay grey: models with
    three channels take them too.

    Args:
        listed: the pictures.
        resized: the height and width, in pixels, that the model's pictures are resized to.

    Raises:
        UserError: a file has changed meanwhile.
    """
    try:
        return pixels_or_stream(listed, None if listed.native else resized, colour=listed.colour)
    except PictureError as error:
        raise UserError(f"a picture changed while it was read: {error}") from None


def redraw_files(listed: PictureList, redraw: Redraw, *, input_size: int) -> tuple[NDArray[np.uint8], int]:
    """Read pictures and redraw each; see :func:`redraw_all`.

    Raises:
        UserError: a file is damaged.
    """
    white = listed.white
    return _stacked([_redrawn(file, redraw, white) for file in listed.files], input_size)


def _redrawn(file: str, redraw: Redraw, white: White | None) -> NDArray[np.uint8] | None:
    try:
        with quiet():
            return redraw(upright(open_picture(Path(file).read_bytes()), white))
    except (PictureError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the picture {file}: {str(error) or 'it ends too early'}") from None


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
