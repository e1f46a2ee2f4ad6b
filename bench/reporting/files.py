"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import UserError


def write_whole(file: Path, content: bytes) -> os.stat_result:
    """Write a file through a temporary one and a rename: readers see the old content or the new, never a part.

    Returns:
        The status of the file, with its size and time of change.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
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
    return written


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn an error of the operating system into a :class:`UserError` that names the folder ``root``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {root}: {error.strerror or error}; what was stored before is untouched"
        ) from error
