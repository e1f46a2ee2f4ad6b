"""Decoding of picture files: in parallel, once, into arrays that are kept in the cache and mapped from there.

cache/decoded/KEY.json           what was seen of a list of files: digests of their contents, sizes, colours
cache/decoded/DIGEST-SIZE.npy    their pixels, uint8 [pictures, channels, height, width]
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bench.errors import UserError
from bench.learning import cache

VERSION = 1
"""The version of decoding. Raise it when the pixels change, so that cached ones are not used again."""
DEFAULT_LIMIT_GB = 20.0
"""The limit of all decoded pictures in the cache together, in 10^9 bytes, unless BENCH_DECODED_GB sets another."""
_CHUNK = 256
_FEW = 600
"""So many files are read in this process: others would take longer to start."""
_SAMPLE = 64
LARGEST_NATIVE = 96
"""Pictures that all have one size keep it up to so many pixels; larger ones are read at the size that is needed."""


class PictureError(Exception):
    """A file that is not a picture, or is damaged."""


@dataclass(frozen=True)
class Seen:
    """What was seen of a picture file. Sizes are those after the camera's orientation was applied."""

    sha256: str
    """Digest of the file's bytes; empty if the file cannot be read."""
    width: int = 0
    height: int = 0
    colour: bool = False
    problem: str | None = None
    """The reason why it cannot be read."""


def open_picture(content: bytes) -> Image.Image:
    """Return the picture in a file's bytes, its pixels not read yet.

    Raises:
        PictureError: it is none.
    """
    try:
        return Image.open(io.BytesIO(content))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise PictureError("not a picture" if isinstance(error, UnidentifiedImageError) else str(error)) from None


def pixels_of(picture: Image.Image, *, colour: bool, size: int | None) -> NDArray[np.uint8]:
    """Return uint8 [channels, height, width]: turned upright, transparent parts laid on white.

    Args:
        picture: the picture; its file is read.
        colour: three channels instead of one.
        size: height and width: the middle square is resized to it; None keeps the picture as it is.

    Raises:
        PictureError: the file is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd palettes and metadata
            if size is not None and picture.format == "JPEG":
                picture.draft(None, (2 * size, 2 * size))  # decodes a large photo at an eighth to a half of its size
            flat = _flat(ImageOps.exif_transpose(picture) if _orientation(picture) > 1 else picture, colour=colour)
            if size is not None and flat.size != (size, size):
                flat = ImageOps.fit(flat, (size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(flat, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise PictureError(str(error) or "it ends too early") from None
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


def _flat(picture: Image.Image, *, colour: bool) -> Image.Image:
    """Return the picture as 'RGB' or 'L', without transparency and with 8 bits."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float32)
        picture = Image.fromarray(np.rint(values * (255 / _most(values, picture.mode))).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if not colour and picture.mode not in ("1", "L"):
        picture = picture.convert("RGB")  # a palette's grey is that of its colours
    wanted = "RGB" if colour else "L"
    return picture if picture.mode == wanted else picture.convert(wanted)


def _orientation(picture: Image.Image) -> int:
    """Return how the camera was held (Exif's tag 0x0112): 1 is upright, 5 to 8 are turned by a quarter."""
    if picture.format == "JPEG" and "exif" not in picture.info:  # looking for it takes half as long as decoding
        return 1
    return int(picture.getexif().get(0x0112, 1))


def _most(values: NDArray[np.float32], mode: str) -> float:
    """Return the value of white: 255, 4095 (12 bits in 16) or 65535, the least that is large enough; 1 for floats."""
    most = float(values.max()) if values.size else 0.0
    if mode == "F" and most <= 1:
        return 1.0
    return next((float(2**bits - 1) for bits in (8, 12, 16) if most <= 2**bits - 1), most)


def look(picture: Image.Image, content: bytes) -> Seen:
    """Return what is seen of an open picture without its pixels.

    Raises:
        PictureError: its metadata are damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turned = _orientation(picture) >= 5
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PictureError(str(error)) from None
    width, height = picture.size
    grey = picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I")
    size = (height, width) if turned else (width, height)
    return Seen(hashlib.sha256(content).hexdigest(), *size, colour=not grey)


@dataclass(frozen=True)
class _Chunk:
    """Consecutive files to read, and where their pixels go."""

    files: tuple[str, ...]
    first: int
    """The place of the first file in the array."""
    array: str | None
    """The .npy file to write pixels into; None only looks at the files."""
    colour: bool
    size: int | None
    """The size to resize to; None keeps pictures of ``native`` size, and leaves others out."""
    native: tuple[int, int] | None = None


def _read(chunk: _Chunk) -> list[Seen]:
    """Look at the files of a chunk and decode them. It runs in a process of its own."""
    out = np.load(chunk.array, mmap_mode="r+") if chunk.array else None
    seen = []
    for place, file in enumerate(chunk.files, chunk.first):
        try:
            content = Path(file).read_bytes()
            picture = open_picture(content)
            about = look(picture, content)
            fits = chunk.native is None or (
                (about.width, about.height) == chunk.native and about.colour <= chunk.colour
            )
            if out is not None and fits and about.colour <= chunk.colour:
                out[place] = pixels_of(picture, colour=chunk.colour, size=chunk.size)
        except (OSError, PictureError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it ends too early"
            about = Seen("", problem=reason)
        seen.append(about)
    return seen


class Pool(contextlib.ExitStack):
    """Processes that read pictures, started when there are many to read, and ended with the ``with`` block."""

    _executor: ProcessPoolExecutor | None = None

    def read(self, chunks: Sequence[_Chunk]) -> Iterator[list[Seen]]:
        """Read the files of each chunk; yield what was seen of them, in their order."""
        workers = os.cpu_count() or 1
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
    """A list of picture files, seen and ready to be decoded."""

    files: tuple[str, ...]
    seen: tuple[Seen, ...]

    @property
    def digest(self) -> str:
        """Return the digest of the contents of all files, in their order."""
        return hashlib.sha256(" ".join(each.sha256 for each in self.seen).encode()).hexdigest()

    @property
    def native(self) -> tuple[int, int] | None:
        """Return (width, height) if all pictures have the same, and are small enough to keep it; else None."""
        sizes = {(each.width, each.height) for each in self.seen}
        return next(iter(sizes)) if len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST_NATIVE else None

    @property
    def colour(self) -> bool:
        """Return whether any picture may have colour."""
        return any(each.colour for each in self.seen)

    @property
    def usual_size(self) -> int:
        """Return the median of the pictures' smaller sides, in pixels."""
        return int(np.median([min(each.width, each.height) for each in self.seen]))

    def decode(self, size: int | None, *, colour: bool) -> NDArray[np.uint8]:
        """Return the pixels, uint8 [pictures, channels, height, width], mapped from the cache if they fit into it.

        Args:
            size: height and width in pixels; None keeps the native size.
            colour: three channels instead of one.

        Raises:
            PictureError: a file was damaged since it was seen.
        """
        width, height = (size, size) if size is not None else self.native or (0, 0)
        shape = len(self.files), 3 if colour else 1, height, width
        name = f"{self.digest[:32]}-{width}x{height}x{shape[1]}"

        def write(array: str) -> None:
            with Pool() as pool:
                for seen in pool.read(_chunks(self.files, array=array, colour=colour, size=size)):
                    for each in seen:
                        if each.problem:
                            raise PictureError(each.problem)

        return kept(name, shape, write)


def see(files: Sequence[Path], pool: Pool) -> PictureList:
    """Look at picture files, whose list and times of change are the key of what the cache keeps.

    Small pictures of one size are decoded in the same pass, so that each file is read once.
    """
    names = [str(file) for file in files]
    states = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, map(os.stat, names), strict=True)]
    key = hashlib.sha256(json.dumps([VERSION, states]).encode()).hexdigest()[:32]
    folder = cache.cache_dir() / "decoded"
    index = folder / f"{key}.json"
    try:
        return PictureList(tuple(names), tuple(Seen(**each) for each in json.loads(index.read_text())))
    except (OSError, ValueError, TypeError):
        pass
    native, colour = _guess(names)
    pictures: PictureList | None = None
    if native is not None:
        shape = len(names), 3 if colour else 1, native[1], native[0]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if cache.make_room(folder, "*.npy", math.prod(shape), _limit_bytes()):
                array = _new_array(folder, shape)
                pictures = _see(names, pool, array=str(array), colour=colour, size=None, native=native)
                if pictures.native == native and pictures.colour == colour and not _problems(pictures):
                    name = f"{pictures.digest[:32]}-{native[0]}x{native[1]}x{shape[1]}-v{VERSION}.npy"
                    array.replace(folder / name)
                array.unlink(missing_ok=True)
        except OSError:  # without a cache, they are decoded when they are needed
            pass
    if pictures is None:
        pictures = _see(names, pool, array=None, colour=False, size=None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{key}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps([asdict(each) for each in pictures.seen]))
        temporary.replace(index)
    except OSError:
        pass
    return pictures


def _see(names: list[str], pool: Pool, **about: object) -> PictureList:
    seen = [each for chunk in pool.read(_chunks(names, **about)) for each in chunk]
    return PictureList(tuple(names), tuple(seen))


def _problems(pictures: PictureList) -> bool:
    return any(each.problem for each in pictures.seen)


def _guess(names: list[str]) -> tuple[tuple[int, int] | None, bool]:
    """Return ((width, height) of a sample of the pictures if they have one size, whether any of them has colour)."""
    step = max(1, len(names) // _SAMPLE)
    try:
        contents = [Path(name).read_bytes() for name in names[::step]]
        sample = [look(open_picture(content), content) for content in contents]
    except (OSError, PictureError):
        return None, False
    pictures = PictureList(tuple(names[::step]), tuple(sample))
    return pictures.native, pictures.colour


def _new_array(folder: Path, shape: tuple[int, ...]) -> Path:
    handle, name = tempfile.mkstemp(suffix=".tmp", dir=folder)
    with os.fdopen(handle, "wb") as out:
        about = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, about)
        out.truncate(out.tell() + math.prod(shape))
    return Path(name)


def kept(name: str, shape: tuple[int, ...], write: Callable[[str], None]) -> NDArray[np.uint8]:
    """Return the array of this name, mapped from the cache; ``write`` first fills the file if it is not there.

    Args:
        name: identifies the pictures, their size and channels.
        shape: [pictures, channels, height, width].
        write: called with the name of a .npy file of that shape, which is all zeros.

    Raises:
        UserError: neither the cache nor the memory has room for them.
    """
    folder = cache.cache_dir() / "decoded"
    file = folder / f"{name}-v{VERSION}.npy"
    try:
        with cache.locked(folder, name=file.stem):
            if not file.exists() and cache.make_room(folder, "*.npy", math.prod(shape), _limit_bytes()):
                array = _new_array(folder, shape)
                try:
                    write(str(array))
                    array.replace(file)
                finally:
                    array.unlink(missing_ok=True)
            if file.exists():
                os.utime(file)  # for make_room(), which removes the least recently used
                mapped: NDArray[np.uint8] = np.load(file, mmap_mode="r")
                return mapped
    except (OSError, filelock.Timeout):  # without a cache, they are kept in memory
        pass
    free = psutil.virtual_memory().available
    if math.prod(shape) > free / 2:
        raise UserError(
            f"the decoded pictures take {math.prod(shape) / 1e9:.1f} GB: more than the cache may hold "
            f"(BENCH_DECODED_GB, and what the disk has free) and than half of the free memory, {free / 1e9:.1f} GB; "
            "raise the limit, or ask for fewer pixels with --image-size"
        )
    with tempfile.TemporaryDirectory() as elsewhere:
        array = _new_array(Path(elsewhere), shape)
        write(str(array))
        pixels: NDArray[np.uint8] = np.load(array)
        return pixels


def _limit_bytes() -> float:
    try:
        return float(os.environ.get("BENCH_DECODED_GB", DEFAULT_LIMIT_GB)) * 1e9
    except ValueError:
        return DEFAULT_LIMIT_GB * 1e9
