"""Files on this machine and in object storage, read, listed, and written whole or not at all.

On a disk a whole write is a temporary file and a rename; in object storage every upload is one.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import UserError
from bench.storage import Place, StorageError, change_token, storage_errors

_AT_ONCE = 1000
"""The number of objects that are fetched before the first is given out, which bounds the memory."""


class State(NamedTuple):
    """The state of a file; a file that is written again has another."""

    size: int
    changed: int | str
    """The time of change in nanoseconds; of an object its ETag, or what its storage has instead."""


def write_whole(file: Place, content: bytes) -> State:
    """Write a file: readers see the old content or the new, never a part.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
        StorageError: the same, of an object.
    """
    if not isinstance(file, Path):
        with storage_errors(file, "write to"):
            try:
                file.fs.pipe_file(file.path, content)
            except FileNotFoundError as error:  # the bucket has gone
                raise StorageError(f"cannot write to {file}: {error}") from None
        return State(len(content), "")
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
            written = os.fstat(out.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return State(written.st_size, written.st_mtime_ns)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read(file: Place) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: a file on this machine cannot be read, or an object is not there.
        StorageError: object storage cannot be read now.
    """
    if isinstance(file, Path):
        return file.read_bytes()
    with storage_errors(file, "read"):
        return bytes(file.fs.cat_file(file.path))


def read_each(files: Sequence[Place]) -> Iterator[bytes | OSError]:
    """Yield the content of each file, in order, or the error that it cannot be read with; objects many at once.

    Raises:
        StorageError: object storage cannot be read now.
    """
    for first in range(0, len(files), _AT_ONCE):
        some = files[first : first + _AT_ONCE]
        contents: dict[str, Any] = {}
        remote = [file for file in some if not isinstance(file, Path)]
        if remote:
            with storage_errors(remote[0].parent, "read"):
                contents = remote[0].fs.cat([file.path for file in remote], on_error="return")
        for file in some:
            try:
                if isinstance(file, Path):
                    yield file.read_bytes()
                    continue
                with storage_errors(file, "read"):
                    content = contents[file.path]
                    if isinstance(content, Exception):
                        raise content
                    yield content
            except OSError as error:
                yield error


def source_of(file: Place) -> Path | io.BytesIO:
    """Return a file as libraries open it: its path, or an object's content.

    Raises:
        OSError: an object is not there.
        StorageError: object storage cannot be read now.
    """
    return file if isinstance(file, Path) else io.BytesIO(read(file))


@contextmanager
def local_copy(file: Place) -> Iterator[Path]:
    """Give the path of a file on this machine: the file itself, or a copy of an object, as long as the block lasts.

    Raises:
        OSError: an object is not there.
        StorageError: object storage cannot be read now.
    """
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="bench-copy-") as folder:
        copy = Path(folder, file.name)
        copy.write_bytes(read(file))
        yield copy


def listed(folder: Place, ending: str = "") -> dict[str, State]:
    """Return the state of each file in a folder whose name has this ending, by name, in order; empty without a folder.

    Raises:
        StorageError: object storage cannot be read now.
    """
    return dict(sorted(_listed(folder, ending)))


def _listed(folder: Place, ending: str) -> Iterator[tuple[str, State]]:
    if not isinstance(folder, Path):
        with storage_errors(folder, "read"), suppress(FileNotFoundError):
            for path, about in folder.fs.find(folder.path, detail=True).items():
                name = path.removeprefix(folder.path).lstrip("/")
                if "/" not in name and name.endswith(ending):
                    yield name, State(about["size"], change_token(about))
        return
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(ending):
                try:
                    state = entry.stat()
                    yield entry.name, State(state.st_size, state.st_mtime_ns)
                except OSError:  # a link to nowhere, or gone meanwhile: reading it says so
                    yield entry.name, State(-1, -1)


def is_file(file: Place) -> bool:
    """Return whether there is such a file.

    Raises:
        StorageError: object storage cannot be read now.
    """
    if isinstance(file, Path):
        return file.is_file()
    with storage_errors(file, "read"):
        try:
            return bool(file.fs.info(file.path)["type"] == "file")
        except FileNotFoundError:
            return False


def is_folder(folder: Place) -> bool:
    """Return whether there is such a folder; in object storage a folder is there if it holds anything.

    Raises:
        StorageError: object storage cannot be read now.
    """
    if isinstance(folder, Path):
        return folder.is_dir()
    with storage_errors(folder, "read"):
        return bool(folder.fs.isdir(folder.path))


def folders_in(folder: Place) -> list[str]:
    """Return the names of the folders in a folder, in order; empty without it.

    Raises:
        StorageError: object storage cannot be read now.
    """
    if isinstance(folder, Path):
        return sorted(below.name for below in folder.iterdir() if below.is_dir())
    with storage_errors(folder, "read"), suppress(FileNotFoundError):
        inside = folder.fs.ls(folder.path, detail=True)
        return sorted(about["name"].rstrip("/").rsplit("/", 1)[-1] for about in inside if about["type"] == "directory")
    return []


def make_folder(folder: Place) -> None:
    """Make a folder, and those above it, unless it is there; object storage needs none.

    Raises:
        OSError: it cannot be made.
    """
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)


def remove(files: Iterable[Place]) -> None:
    """Delete files; those that are not there are passed over.

    Raises:
        OSError: one cannot be deleted.
        StorageError: the same, of an object.
    """
    for file in files:
        if isinstance(file, Path):
            file.unlink(missing_ok=True)
            continue
        with storage_errors(file, "write to"), suppress(FileNotFoundError):
            file.fs.rm_file(file.path)


def move(file: Place, target: Place) -> None:
    """Move a file within its storage; an object is copied and then deleted.

    Raises:
        OSError: it cannot be moved, or is not there.
        StorageError: the same, of an object.
    """
    if isinstance(file, Path):
        file.rename(str(target))
        return
    with storage_errors(file, "write to"):
        file.fs.cp_file(file.path, target.path)  # type: ignore[union-attr]
    remove([file])


@contextmanager
def disk_errors(root: Place) -> Iterator[None]:
    """Turn an error of the operating system into a :class:`UserError` that names the folder ``root``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {root}: {error.strerror or error}; what was stored before is untouched"
        ) from error
