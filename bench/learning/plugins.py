"""Plugins: a Python file with a user's models and data sets, named on the command line and sent to the workers."""

from __future__ import annotations

import hashlib
import sys
import types
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError


@dataclass(frozen=True)
class Plugin:
    """The source of a user's file. It travels as text, so a cluster's workers need no copy of the file."""

    path: str
    source: str

    @property
    def sha256(self) -> str:
        """Return the digest of the source, which is part of the id of the runs that use it."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def load(self) -> None:
        """Execute the file, once per process, to register the models and data sets that it defines.

        Raises:
            UserError: the file raises an exception.
        """
        name = f"bench_plugin_{self.sha256[:16]}"
        modules = sys.modules  # importlib has no call that registers a module, and torch.export looks classes up there
        if name in modules:
            return
        module = types.ModuleType(name)
        module.__file__ = self.path
        modules[name] = module
        try:
            exec(compile(self.source, self.path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user named this file
        except UserError:
            del modules[name]
            raise
        except (Exception, SystemExit) as error:
            del modules[name]
            raise UserError(f"--plugin {self.path} cannot be loaded: {type(error).__name__}: {error}") from error


def read(path: Path) -> Plugin:
    """Read and load a plugin file.

    Raises:
        UserError: the file cannot be read or raises an exception.
    """
    try:
        plugin = Plugin(str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--plugin: cannot read {path}: {error}") from None
    plugin.load()
    return plugin
