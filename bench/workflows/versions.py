"""Versions of the results: folders, and the results that git revisions hold."""

from __future__ import annotations

import io
import posixpath
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from bench.errors import UserError, nearest
from bench.reporting.entries import tested
from bench.reporting.files import folders_in, is_folder
from bench.reporting.store import Store
from bench.spec import Status
from bench.storage import Place, place_of, reach

REFERENCE = "results/reference"
"""The folder of a git revision that holds its results."""
GIT_SECONDS = 120


def store_of(name: str, results: Place, stack: ExitStack) -> Store:
    """Return the results folder that a folder's name or a git revision stands for.

    Args:
        name: a folder, REV or REV:FOLDER.
        results: the folder whose models a message proposes if ``name`` is none of these.
        stack: keeps what was extracted from git until it ends.

    Raises:
        UserError: it is none, or holds no results or several.
    """
    folder = place_of(name)
    if not isinstance(folder, Path) or folder.is_dir():
        reach(folder)
        below = _one_of(_folders_in(folder), name, "/")
        return Store(folder / below if below else folder)
    revision, _, part = name.partition(":")
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        models = model_names(results)
        those = (
            f"a model in {results} ({', '.join(models)})" if models else f"a model ({results} holds no finished runs)"
        )
        raise UserError(f"{name} is neither {those}, nor a results folder, nor a git revision{nearest(name, models)}")
    return Store(_checked_out(commit.decode().strip(), name, part, stack))


def model_names(results: Place) -> list[str]:
    """Return the names of the models with finished runs in a results folder, sorted."""
    store = Store(results)
    records = store.records()[0] if store.holds_runs() else []
    return sorted({record.model for record in tested(records) if record.status is Status.OK})


def _folders_in(folder: Place) -> list[str]:
    """Return the names of the results folders in ``folder``: '' if it is one itself, else those below it."""
    if is_folder(folder / "runs"):
        return [""]
    return [name for name in folders_in(folder) if is_folder(folder / name / "runs")]


def _one_of(folders: Sequence[str], name: str, separator: str) -> str:
    if not folders:
        raise UserError(f"{name} holds no runs; python -m bench.run makes some")
    if len(folders) > 1:
        choice = " or ".join(name + separator + folder for folder in folders)
        raise UserError(f"{name} holds several results: name one, {choice}")
    return folders[0]


def _checked_out(commit: str, name: str, part: str, stack: ExitStack) -> Path:
    """Extract the reference results of a commit into a temporary folder, and return their path."""
    top = _git("rev-parse", "--show-toplevel")
    listed = _git("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit)
    if top is None or listed is None:
        raise UserError(f"git cannot list the files of {name}")
    files = [PurePosixPath(file) for file in listed.decode().split("\0")]
    folders = sorted({str(file.parents[1]) for file in files if file.match("runs/*.parquet")})
    wanted = part.strip("/")
    if wanted:
        matching = [folder for folder in folders if folder in (wanted, f"{REFERENCE}/{wanted}")]
        if not matching:
            there = ", ".join(folders) or "none"
            raise UserError(f"{name}: {wanted} holds no runs in that revision; results there: {there}")
        chosen = matching[0]
    else:
        below = [folder for folder in folders if PurePosixPath(folder).is_relative_to(REFERENCE)]
        chosen = _one_of(below, name, ":")
    content = _git("archive", "--format=tar", commit, "--", chosen, folder=Path(top.decode().strip()))
    if content is None:
        raise UserError(f"git cannot read {chosen} of {name}")
    target = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-compare-")))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(target, filter="data")
    return target / chosen


def _git(*arguments: str, folder: Path | None = None) -> bytes | None:
    """Return what git prints; None if it fails or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def revisions_of(folder: str, most: int) -> list[str]:
    """Return the last ``most`` revisions of git in which a folder changed, the oldest first, as REV:FOLDER.

    Raises:
        UserError: git knows no such folder.
    """
    prefix = (_git("rev-parse", "--show-prefix") or b"").decode().strip()
    listed = _git("log", f"--max-count={most}", "--format=%h", "--", folder)
    if not listed or not listed.strip():
        raise UserError(f"--revisions: git knows no changes of {folder} here")
    path = posixpath.normpath(posixpath.join(prefix, folder))
    return [f"{revision}:{path}" for revision in reversed(listed.decode().split())]
