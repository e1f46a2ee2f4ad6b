"""Data sets in object storage, fetched once into the cache; then they are read like any on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from bench.config.home import expanded_path
from bench.errors import UserError, first_line
from bench.learning import cache
from bench.spec import slug
from bench.storage import Place, change_token, place_of, reach, storage_errors, url_of

UNUSED_SECONDS = 24 * 3600
"""Seconds after which an older copy of the same place counts as unused, and may go when a newer one is fetched."""


def local_path(name: str | Place, option: str) -> Path:
    """Return the path of a file or folder on this machine: for a URL, that of a copy in the cache.

    The copy is of what the storage lists now: where an object has changed since, all is fetched anew, and copies of
    before that nobody has used for a day are removed.

    Args:
        name: a path, or a URL of object storage.
        option: the option that names it, with its value, for messages.

    Raises:
        UserError: the storage cannot be reached, or holds nothing there, or the cache cannot be written.
    """
    place = expanded_path(name) if isinstance(name, str) and "://" not in name else place_of(name)
    if isinstance(place, Path):
        return place
    reach(place)
    objects = _objects(place, option)
    digest = hashlib.sha256(json.dumps(objects).encode()).hexdigest()[:16]
    prefix = f"{slug(str(place))}-{hashlib.sha256(url_of(place).encode()).hexdigest()[:16]}"
    folder = cache.cache_dir() / "remote" / f"{prefix}-{digest}"
    copy = folder / (place.name or str(place.path).strip("/"))
    try:
        with cache.locked(folder):
            cache.check_trusted(folder)
            if not copy.exists():
                older = folder.parent.glob(f"{prefix}-*")
                _remove_unused(each for each in older if each != folder)
                print(f"fetching {len(objects):,} files of {url_of(place)} into {folder}", flush=True)
                _fetch(place, objects, copy)
            os.utime(folder)
    except OSError as error:
        raise UserError(f"{option}: cannot be fetched into the cache ({first_line(error)})") from None
    return copy


def local_folder(name: str | Place, option: str) -> Path:
    """Return :func:`local_path` of what must be a folder.

    Args:
        name: a path, or a URL of object storage.
        option: the option that names it, for messages.

    Raises:
        UserError: as :func:`local_path`, or it is not a folder.
    """
    folder = local_path(name, f"{option} {name}")
    if not folder.is_dir():
        raise UserError(f"{option} {name} is not a folder")
    return folder


def _objects(place: Place, option: str) -> dict[str, str]:
    """Return what changes with each object below a place, by its name from there on; '' is the place itself.

    Raises:
        UserError: there is none, or one has a name that no file of the cache can have.
    """
    assert not isinstance(place, Path)  # noqa: S101 - for mypy
    with storage_errors(place, "read"):
        listed = place.fs.find(place.path, detail=True)
    objects = {}
    for path, about in sorted(listed.items()):
        name = path.removeprefix(place.path).lstrip("/")
        if ".." in PurePosixPath(name).parts or "\\" in name:
            raise UserError(f"{option}: {path} has a name that a file cannot have here; rename it")
        if not path.endswith("/"):  # an object that stands for a folder
            objects[name] = f"{about['size']} {change_token(about)}"
    if not objects:
        raise UserError(f"{option}: there is nothing at {url_of(place)}")
    return objects


def _remove_unused(folders: Iterable[Path]) -> None:
    for folder in folders:
        if time.time() - folder.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _fetch(place: Place, objects: dict[str, str], copy: Path) -> None:
    """Fetch objects, many at once, into the file or folder ``copy``, which is then there as a whole."""
    assert not isinstance(place, Path)  # noqa: S101 - for mypy
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=copy.parent, ignore_cleanup_errors=True) as work:
        target = Path(work, copy.name)
        sources = [f"{place.path}/{name}" if name else place.path for name in objects]
        targets = [str(target / name) if name else str(target) for name in objects]
        with storage_errors(place, "read"):
            place.fs.get(sources, targets)
        target.rename(copy)
