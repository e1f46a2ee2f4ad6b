"""Decode picture files once, in parallel, into arrays on disk that later runs memory-map.

Files in the cache folder (``BENCH_CACHE``), where W, H and C are width, height and channels:

decoded/KEY.json                metadata of each file in a list: SHA-256, width, height, colour, error
decoded/DIGEST-WxHxC-vN.npy     their pixels, uint8 [pictures, channels, height, width]; N is VERSION; of pictures
                                with more than 8 bits the name also tells which pixel value is white

BENCH_DECODED_GB limits the size of all these arrays (default 20). Pictures that exceed it are kept in memory up to
BENCH_MEMORY_GB (default: half of the available memory), and beyond that are decoded whenever they are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import multiprocessing
import operator
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import filelock
import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from bench.learning import cache
from bench.learning.cpus import usable_cpus
from bench.learning.data.depth import Largest, White, is_deep, largest_of, white_of
from bench.learning.data.pixels import PictureError, is_grey, load, open_picture, orientation, pixels_of, quiet

VERSION = 2
"""The version of the decoder. Increase it when its output changes, so that older cached arrays are ignored."""
DEFAULT_LIMIT_GB = 20.0
"""The default limit on the total size of the cached arrays, in 10^9 bytes; BENCH_DECODED_GB overrides it."""
_CHUNK = 256
"""The number of files that a process reads per task."""
_FEW = 600
"""Up to this many files are read in the calling process, because starting worker processes would take longer."""
_SAMPLE = 64
"""The approximate number of files that are inspected to guess the common size of all."""
_CHECKED = 16
"""The size, in pixels, at which pictures are decoded only to see whether they are damaged."""
LARGEST_NATIVE = 96
"""Pictures of one common size keep it if neither side is longer than this, in pixels; all others are resized."""


@dataclass(frozen=True)
class Seen:
    """Metadata of a picture file. Width and height, in pixels, are those after its Exif orientation is applied."""

    sha256: str
    """SHA-256 of the file's bytes, in hex; empty if the file cannot be read."""
    width: int = 0
    height: int = 0
    colour: bool = False
    """True if the file's colour mode allows colour, even if every pixel is grey."""
    problem: str | None = None
    """The reason why the file cannot be read; None if it can."""
    largest: float | None = None
    """The largest pixel value, if they have more than 8 bits; None if not, or before they are decoded."""
    floating: bool = False
    """True if the pixel values are floats."""


def look(picture: Image.Image, content: bytes) -> Seen:
    """Return the metadata of an open picture without decoding its pixels; ``content`` is the file's bytes.

    Raises:
        PictureError: the picture's metadata are damaged.
    """
    try:
        turned = orientation(picture) >= 5
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PictureError(str(error)) from None
    width, height = picture.size
    size = (height, width) if turned else (width, height)
    return Seen(hashlib.sha256(content).hexdigest(), *size, colour=not is_grey(picture))


@dataclass(frozen=True)
class _Chunk:
    """Consecutive files to read, and where to write their pixels."""

    files: tuple[str, ...]
    first: int
    """The index of the first file's picture in the array."""
    array: str | None
    """The .npy file to write pixels into; None reads the metadata only."""
    colour: bool
    """True for 3 channels, False for 1; pictures with colour are then not written."""
    size: int | None
    """The height and width to resize to, in pixels; None does not resize."""
    native: tuple[int, int] | None = None
    """The (width, height) that a picture must have to be written; None accepts all."""
    white: White | None = None
    """The white of pictures of more than 8 bits, which without it are not written."""


def _read(chunk: _Chunk) -> list[Seen]:
    """Read the files of a chunk, write their pixels if it names an array, and return their metadata.

    It runs in a worker process if there are many files. A file that cannot be read has ``problem`` set.
    """
    out = np.load(chunk.array, mmap_mode="r+") if chunk.array else None
    seen = []
    with quiet():
        for place, file in enumerate(chunk.files, chunk.first):
            try:
                with open(file, "rb") as opened:  # noqa: PTH123 - a Path takes a tenth as long as the decoding
                    content = opened.read()
                picture = open_picture(content)
                about = look(picture, content)
                fits = about.colour <= chunk.colour and chunk.native in (None, (about.width, about.height))
                if chunk.white is None and is_deep(picture):
                    load(picture)
                    most = largest_of(picture)
                    about = replace(about, largest=most.value, floating=most.floating)
                elif out is None:
                    pixels_of(picture, colour=False, size=_CHECKED)  # only decoding shows that a file is damaged
                elif fits:
                    out[place] = pixels_of(picture, colour=chunk.colour, size=chunk.size, white=chunk.white)
            except (OSError, ValueError, TypeError, PictureError) as error:
                reason = getattr(error, "strerror", None) or str(error) or "it ends too early"
                about = Seen("", problem=reason)
            seen.append(about)
    return seen


class Pool(contextlib.ExitStack):
    """A pool of processes that read pictures; they start when there are many files, and end with the ``with`` block."""

    _executor: ProcessPoolExecutor | None = None

    def read(self, chunks: Sequence[_Chunk]) -> Iterator[list[Seen]]:
        """Read the files of each chunk; return an iterator over the chunks' metadata, in the order of the chunks."""
        workers = usable_cpus()
        if workers < 2 or sum(len(chunk.files) for chunk in chunks) <= _FEW:
            return map(_read, chunks)
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = self.enter_context(ProcessPoolExecutor(workers, mp_context=context))
        return self._executor.map(_read, chunks)


def _chunks(files: Sequence[str], **about: object) -> list[_Chunk]:
    return [_Chunk(tuple(files[first : first + _CHUNK]), first, **about) for first in range(0, len(files), _CHUNK)]  # type: ignore[arg-type]


@dataclass(frozen=True)
class PictureList:
    """A list of picture files with their metadata, ready to be decoded."""

    files: tuple[str, ...]
    seen: tuple[Seen, ...]
    data_white: White | None = None
    """The white of the data set that the list is a part of; None if the list is all of it."""

    @property
    def digest(self) -> str:
        """Return a SHA-256 digest, in hex, of the contents of all files in order."""
        return hashlib.sha256(" ".join(each.sha256 for each in self.seen).encode()).hexdigest()

    @property
    def native(self) -> tuple[int, int] | None:
        """Return the common (width, height) of all pictures; None if they differ or a side exceeds LARGEST_NATIVE."""
        sizes = {(each.width, each.height) for each in self.seen}
        return next(iter(sizes)) if len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST_NATIVE else None

    @property
    def colour(self) -> bool:
        """Return whether any picture may have colour."""
        return any(each.colour for each in self.seen)

    @property
    def largest(self) -> list[Largest]:
        """Return the largest values of the pictures with more than 8 bits."""
        return [Largest(each.largest, each.floating) for each in self.seen if each.largest is not None]

    @property
    def white(self) -> White | None:
        """Return the white of the pictures with more than 8 bits; None if there are none."""
        return self.data_white or white_of(self.largest)

    @property
    def usual_size(self) -> int:
        """Return the median length of the pictures' shorter sides, in pixels."""
        return int(np.median([min(each.width, each.height) for each in self.seen]))

    def decode(self, size: int | None, *, colour: bool) -> NDArray[np.uint8] | None:
        """Return the pixels, uint8 [pictures, channels, height, width], memory-mapped if the cache has room for them.

        None if neither the cache nor the memory has room.

        Args:
            size: height and width in pixels; None keeps the common size (:attr:`native`), which must not be None then.
            colour: True for 3 channels; False for 1, which needs a list without colour pictures (:attr:`colour`).

        Raises:
            PictureError: a file cannot be read, or its pixels are damaged.
        """
        width, height = (size, size) if size is not None else self.native or (0, 0)
        shape = len(self.files), 3 if colour else 1, height, width

        def write(array: str) -> None:
            with Pool() as pool:
                read = itertools.chain.from_iterable(
                    pool.read(_chunks(self.files, array=array, colour=colour, size=size, white=self.white))
                )
                for file, before, now in zip(self.files, self.seen, read, strict=True):
                    if now.problem or now.sha256 != before.sha256:
                        raise PictureError(f"{file}: {now.problem or 'its contents have changed'}")

        return _kept(_name(self.digest, shape, self.white), shape, write)


def see(names: Sequence[str], pool: Pool, *, decode: bool) -> PictureList:
    """Return the picture files with their metadata, from the cache if no path, size or modification time has changed.

    Args:
        names: the paths of the picture files.
        pool: the processes that read them.
        decode: decode small pictures of one common size into the cache in the same pass, which saves reading them again
            when the whole list is decoded.
    """
    key = hashlib.sha256(json.dumps([VERSION, "rows", [(name, *_state(name)) for name in names]]).encode())
    folder = cache.cache_dir() / "decoded"
    index = folder / f"{key.hexdigest()[:32]}.json"
    try:
        cache.check_trusted(folder, index)
        return PictureList(tuple(names), tuple(Seen(*row) for row in json.loads(index.read_text())))
    except (OSError, ValueError, TypeError):
        pass
    native, colour = _guess(names)
    pictures: PictureList | None = None
    if native is not None and decode:
        shape = len(names), 3 if colour else 1, native[1], native[0]
        try:
            cache.check_trusted(folder)
            folder.mkdir(parents=True, exist_ok=True)
            if _has_room(folder, shape):
                array = _new_array(folder, shape)
                pictures = _see(names, pool, array=str(array), colour=colour, size=None, native=native)
                written = not _problems(pictures) and not pictures.largest
                if written and pictures.native == native and pictures.colour == colour:
                    array.replace(folder / _name(pictures.digest, shape))
                array.unlink(missing_ok=True)
        except OSError:  # the cache cannot be written: decode the pictures when they are needed
            pass
    if pictures is None:
        pictures = _see(names, pool, array=None, colour=False, size=None)
    if _problems(pictures):  # what cannot be read now may be readable later, with the same time of change
        return pictures
    try:
        cache.check_trusted(folder)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = index.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps([_columns(each) for each in pictures.seen]))
        temporary.replace(index)
    except OSError:
        pass
    return pictures


def _state(name: str) -> tuple[int, int]:
    """Return the size in bytes and the time of change in nanoseconds; zeros for a link to nothing."""
    try:
        about = os.stat(name)  # noqa: PTH116 - a Path takes as long as the call
    except OSError:
        return 0, 0
    return about.st_size, about.st_mtime_ns


_columns = operator.attrgetter(*(column.name for column in fields(Seen)))


def _see(names: Sequence[str], pool: Pool, **about: object) -> PictureList:
    seen = [each for chunk in pool.read(_chunks(names, **about)) for each in chunk]
    return PictureList(tuple(names), tuple(seen))


def _problems(pictures: PictureList) -> bool:
    return any(each.problem for each in pictures.seen)


def _guess(names: Sequence[str]) -> tuple[tuple[int, int] | None, bool]:
    """Inspect a sample of the pictures; return (their common (width, height) or None, whether any may have colour)."""
    step = max(1, len(names) // _SAMPLE)
    try:
        contents = [Path(name).read_bytes() for name in names[::step]]
        with quiet():
            opened = [open_picture(content) for content in contents]
            sample = [look(picture, content) for picture, content in zip(opened, contents, strict=True)]
    except (OSError, PictureError):
        return None, False
    if any(map(is_deep, opened)):  # how they are scaled is known only when all were read
        return None, False
    pictures = PictureList(tuple(names[::step]), tuple(sample))
    return pictures.native, pictures.colour


def _name(digest: str, shape: tuple[int, ...], white: White | None = None) -> str:
    """Return the name of the file that keeps pictures of these contents and this shape, scaled by this white."""
    _, channels, height, width = shape
    scaled = f"-{white}" if white else ""
    return f"{digest[:32]}-{width}x{height}x{channels}{scaled}-v{VERSION}.npy"


def _has_room(folder: Path, shape: tuple[int, ...]) -> bool:
    limit = cache.limit_bytes("BENCH_DECODED_GB", DEFAULT_LIMIT_GB)
    return cache.make_room(folder, "*.npy", math.prod(shape), limit)


def _new_array(folder: Path, shape: tuple[int, ...]) -> Path:
    handle, name = tempfile.mkstemp(suffix=".tmp", dir=folder)
    with os.fdopen(handle, "wb") as out:
        about = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, about)
        out.truncate(out.tell() + math.prod(shape))
    return Path(name)


def _kept(name: str, shape: tuple[int, ...], write: Callable[[str], None]) -> NDArray[np.uint8] | None:
    """Return the uint8 array of this name, memory-mapped from the cache, or in memory if the cache has no room.

    None if neither has room.

    Args:
        name: the file's name, from :func:`_name`.
        shape: [pictures, channels, height, width].
        write: the function that fills the array if it is not cached; its argument is the path of a .npy file of that
            shape, filled with zeros.
    """
    folder = cache.cache_dir() / "decoded"
    file = folder / name
    try:
        cache.check_trusted(folder, file)
        with cache.locked(folder, name=file.stem):
            if not file.exists() and _has_room(folder, shape):
                array = _new_array(folder, shape)
                try:
                    write(str(array))
                    array.replace(file)
                finally:
                    array.unlink(missing_ok=True)
            if file.exists():
                os.utime(file)  # marks the file as recently used, for make_room()
                mapped: NDArray[np.uint8] = np.load(file, mmap_mode="r")
                return mapped
    except (OSError, filelock.Timeout):  # the cache cannot be written: keep the pictures in memory
        pass
    if math.prod(shape) > cache.limit_bytes("BENCH_MEMORY_GB", psutil.virtual_memory().available / 2e9):
        return None
    with tempfile.TemporaryDirectory() as elsewhere:
        array = _new_array(Path(elsewhere), shape)
        write(str(array))
        pixels: NDArray[np.uint8] = np.load(array)
        return pixels
