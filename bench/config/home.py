"""The user's home folder: ``~`` in what the user gives, and a folder for a user who has none."""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from bench.errors import UserError

_TILDE = re.compile(r"(^|[=:])(~[^/=:\s]*)(?=/|$)")
"""A home folder where a path begins, also behind the = of MODEL=FILE and the : of folder:DIR."""


def expanded_path(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` expanded; where there is no such home, as it is."""
    return Path(expanded(str(path)))


def expanded(value: Any) -> Any:
    """Return a value with ``~`` and ``~user`` expanded in each string and path in it.

    A shell expands them only at the beginning of a word, so not in ``--results=~/runs``, a preset or a variable.
    """
    if isinstance(value, str):
        return _TILDE.sub(lambda match: match[1] + os.path.expanduser(match[2]), value)  # noqa: PTH111 - raises nothing
    if isinstance(value, Path):
        return expanded_path(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(expanded, value))
    if isinstance(value, dict):
        return {key: expanded(each) for key, each in value.items()}
    return value


def ensure_home() -> None:
    """Give this process, and those it starts, a home folder and a user name if they have none.

    In a container a user may be a number only, without an entry in the list of users. PyTorch, Ray and MLflow ask for
    the two where they keep files.

    Raises:
        UserError: no folder can stand in for the home folder.
    """
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - Path.home() would raise
        os.environ["HOME"] = os.path.abspath(os.environ.get("BENCH_CACHE") or _temporary_home())  # noqa: PTH100
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def _temporary_home() -> str:
    folder = Path(tempfile.gettempdir(), f"image-classifier-bench-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        own = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    except OSError:
        own = False
    if not own:
        raise UserError(f"there is no home folder, and {folder} cannot be used; set HOME to a folder of yours")
    return str(folder)
