"""The shared cache on disk, and downloads into it, which are locked, verified and never incomplete."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import platformdirs

from bench.config.home import expanded_path

PROBE_SECONDS = 3.0
"""The time that a host has to answer before it counts as unreachable."""


def cache_dir() -> Path:
    """Return the cache folder: ``BENCH_CACHE``, or the operating system's folder for caches."""
    chosen = os.environ.get("BENCH_CACHE")
    return expanded_path(chosen) if chosen else Path(platformdirs.user_cache_dir("image-classifier-bench"))


def refusal(folder: Path) -> str | None:
    """Return why files in ``folder``, which is in the cache, cannot be trusted; None if they can.

    Other users could put files of theirs there, whose contents would be taken for features or pictures. What has a
    known digest needs no trust.
    """
    if not hasattr(os, "geteuid"):
        return None
    for place in (cache_dir(), folder):
        try:
            about = place.stat()
        except OSError:  # not there yet, or not readable
            continue
        if about.st_uid not in (os.geteuid(), 0):
            return f"{place} belongs to another user"
        if about.st_mode & stat.S_IWOTH and not (about.st_mode & stat.S_ISVTX and place != folder):
            return f"every user can write to {place}"
    return None


def check_trusted(folder: Path, file: Path | None = None) -> None:
    """Check that no other user can have written to a folder of the cache, or a file in it.

    Raises:
        PermissionError: another user can.
    """
    reason = refusal(folder)
    if reason is None and file is not None and hasattr(os, "geteuid") and file.exists():
        reason = None if file.stat().st_uid in (os.geteuid(), 0) else f"{file} belongs to another user"
    if reason is not None:
        raise PermissionError(reason)


def reachable(url: str) -> bool:
    """Return whether ``url`` answers within PROBE_SECONDS; proxies from the environment are used."""
    if not url.startswith(("http://", "https://")):
        return False
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the scheme was checked
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):  # noqa: S310
            return True
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError):
        return False


@contextmanager
def locked(folder: Path, name: str = "") -> Iterator[None]:
    """Hold a lock in ``folder``, so that one process fills it while the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / (f".{name}.lock" if name else ".lock")):
        yield


def limit_bytes(variable: str, default_gb: float) -> float:
    """Return the limit, in bytes, that an environment variable sets in 10^9 bytes; the default if it sets no number."""
    try:
        return float(os.environ.get(variable, default_gb)) * 1e9
    except ValueError:
        return default_gb * 1e9


def make_room(folder: Path, pattern: str, size: int, limit: float) -> bool:
    """Remove the least recently used files until ``size`` bytes fit; return False if they exceed the limit or the disk.

    Args:
        folder: the folder in the cache.
        pattern: the files that may be removed, as '*.npy'.
        size: bytes that are needed.
        limit: the most bytes that all these files may take.
    """
    for torn in folder.glob("*.tmp"):  # written by a process that was killed
        if time.time() - torn.stat().st_mtime > 3600:
            torn.unlink(missing_ok=True)
    if size > limit:
        return False
    others = sorted(folder.glob(pattern), key=lambda other: other.stat().st_mtime)
    used = sum(other.stat().st_size for other in others)
    for oldest in others:
        if used + size <= limit and size < shutil.disk_usage(folder).free:
            break
        used -= oldest.stat().st_size
        oldest.unlink(missing_ok=True)  # a process that has it mapped keeps it until the mapping ends
    return size < shutil.disk_usage(folder).free


def download(url: str, target: Path, *, sha256_prefix: str) -> None:
    """Download ``url`` to ``target`` unless that exists.

    Args:
        url: http(s) address.
        target: the file to write.
        sha256_prefix: leading hex digits of the expected digest.

    Raises:
        OSError: the host does not answer, or the content has another digest.
    """
    with locked(target.parent):
        if target.exists():
            return
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent, ignore_cleanup_errors=True) as work:
            partial = Path(work, target.name)
            with urllib.request.urlopen(url, timeout=30) as answer, partial.open("wb") as file:  # noqa: S310
                shutil.copyfileobj(answer, file)
            digest = hashlib.sha256(partial.read_bytes()).hexdigest()
            if not digest.startswith(sha256_prefix):
                raise OSError(f"{url}: SHA-256 {digest[:16]}... where {sha256_prefix}... is expected")
            partial.replace(target)
