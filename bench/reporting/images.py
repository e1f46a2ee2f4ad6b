"""The test images of a data set, kept in the results folder, so that a report can show what a model got wrong.

results/images/DATASET-SHA12.npz    images, labels, names of the classes, the data set's digest
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.reporting.files import disk_errors, listed, make_folder, source_of, write_whole
from bench.spec import slug
from bench.storage import Place

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""The errors that reading a damaged file raises."""
_LEAST_PIXELS = 24
_CHUNK = 256
MOST_MB = 100
"""The largest size of test images that are kept, uncompressed, 10^6 bytes."""


@dataclass(frozen=True)
class KeptImages:
    """The test split of a data set."""

    images: NDArray[np.uint8]
    """Shape [images, channels, height, width]."""
    labels: NDArray[np.int16]
    """Shape [images]: the true classes."""
    class_names: tuple[str, ...]


class Images(Protocol):
    """An array of images, or what is read like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape: [images, channels, height, width]."""

    @property
    def nbytes(self) -> int:
        """Return the size in bytes."""

    def __getitem__(self, places: slice, /) -> NDArray[np.uint8]:
        """Return the images at ``places``."""


def save(
    root: Place,
    sha256: str,
    images: Images,
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    *,
    dataset: str = "test",
) -> Place | None:
    """Keep the test images of the data set with this digest in the results folder ``root``, unless they are there.

    Args:
        root: the results folder, which exists.
        sha256: digest of the data set.
        images: uint8 [images, channels, height, width]; shrunk if they take more than ``MOST_MB``.
        labels: [images], the true classes.
        class_names: one for each class.
        dataset: the data set's name, with which the file's name begins.

    Returns:
        The file; None if the images would take more than ``MOST_MB`` at less than 24 pixels, and were not kept.

    Raises:
        UserError: the file cannot be written.
    """
    existing = _file(root, sha256)
    if existing is not None and _read(existing, sha256) is not None:
        return existing
    share = math.sqrt(MOST_MB * 1e6 / max(images.nbytes, 1))
    longest = max(images.shape[2:]) if share >= 1 else int(share * max(images.shape[2:]))
    if share < 1 and int(share * min(images.shape[2:])) < _LEAST_PIXELS:
        return None
    parts = [shrunk(images[first : first + _CHUNK], longest) for first in range(0, len(labels), _CHUNK)]
    content = io.BytesIO()
    names = np.array(list(class_names), dtype=np.str_)
    arrays = {
        "images": np.concatenate(parts),
        "labels": labels.astype(np.int16),
        "class_names": names,
        "sha256": np.array(sha256),
    }
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:  # np.savez_compressed adds the time of day
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asarray(array, order="C"), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue(), zipfile.ZIP_DEFLATED)
    file = root / "images" / f"{slug(dataset)}-{sha256[:12]}.npz"
    with disk_errors(file.parent):
        make_folder(file.parent)
        write_whole(file, content.getvalue())
    return file


def shrunk(images: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Return images whose longer side has ``most`` pixels, smoothly resized; smaller ones are returned unchanged.

    Args:
        images: uint8 [images, channels, height, width] with 1 or 3 channels.
        most: the largest height and width, in pixels.
    """
    height, width = images.shape[2:]
    if max(height, width) <= most:
        return images
    from PIL import Image

    share = most / max(height, width)
    size = max(1, round(share * width)), max(1, round(share * height))
    small = np.empty((*images.shape[:2], size[1], size[0]), dtype=np.uint8)
    for place in np.ndindex(*images.shape[:2]):
        small[place] = Image.fromarray(images[place]).resize(size, Image.Resampling.LANCZOS)
    return small


def load(root: Place, sha256: str) -> KeptImages | None:
    """Return the test images of the data set with this digest; None if ``root`` keeps none, or they are damaged."""
    file = _file(root, sha256)
    return None if file is None else _read(file, sha256)


def class_names(root: Place, sha256: str) -> tuple[str, ...] | None:
    """Return the names of the classes of the data set with this digest; None if they are not kept, or damaged."""
    file = _file(root, sha256)
    if file is None:
        return None
    try:
        with np.load(source_of(file), allow_pickle=False) as stored:
            return _names(stored) if str(stored["sha256"]) == sha256 else None
    except _DAMAGED:
        return None


def _names(stored: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    return tuple(str(name) for name in stored["class_names"])


def _file(root: Place, sha256: str) -> Place | None:
    names = listed(root / "images", f"-{sha256[:12]}.npz")
    return root / "images" / min(names) if names else None


def _read(file: Place, sha256: str) -> KeptImages | None:
    try:
        with np.load(source_of(file), allow_pickle=False) as stored:
            if str(stored["sha256"]) != sha256:
                return None
            kept = KeptImages(stored["images"], stored["labels"], _names(stored))
    except _DAMAGED:
        return None
    pixels = kept.images
    pictures = pixels.ndim == 4 and pixels.dtype == np.uint8 and pixels.size > 0 and pixels.shape[1] in (1, 3)
    return kept if pictures and len(pixels) == len(kept.labels) else None
