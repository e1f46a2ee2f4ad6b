"""A user's own models and data sets: ``mine.py:NAME`` or ``package.module:NAME``, read here and sent to the workers."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError, nearest

_NAMED = re.compile(r"(?P<place>.+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class UserCode:
    """The source of a user's file or module. A file travels as text, so a cluster's workers need no copy of it."""

    place: str
    """The file, or the dotted name of the module."""
    source: str

    @staticmethod
    def is_named_by(text: str) -> bool:
        """Return whether ``text`` has the form FILE.py:NAME or MODULE:NAME."""
        return _NAMED.fullmatch(text) is not None

    @staticmethod
    def read(text: str, option: str) -> UserCode:
        """Read and execute the file or module that ``text`` (FILE.py:NAME or MODULE:NAME) names.

        Raises:
            UserError: it cannot be read or raises an exception; the message begins with ``option``.
        """
        place, _ = split_name(text)
        try:
            if place.endswith(".py"):
                code = UserCode(place, Path(place).read_text(encoding="utf-8"))
            else:
                code = UserCode(place, _source_of_module(place))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{option}: cannot read {place}: {error}") from None
        except ImportError as error:
            raise UserError(f"{option}: there is no module {place} ({error})") from None
        code.load()
        return code

    @property
    def sha256(self) -> str:
        """Return the digest of the source, which is part of the id of the runs that use it."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def load(self) -> types.ModuleType:
        """Execute the file, or import the module, once per process; return the module.

        Raises:
            UserError: it raises an exception.
        """
        if not self.place.endswith(".py"):
            try:
                return importlib.import_module(self.place)
            except UserError:
                raise
            except (Exception, SystemExit) as error:
                raise UserError(f"{self.place} cannot be loaded: {type(error).__name__}: {error}") from error
        name = f"bench_user_code_{self.sha256[:16]}"
        modules = sys.modules  # importlib has no call that registers a module, and torch.export looks classes up there
        if name in modules:
            return modules[name]
        module = types.ModuleType(name)
        module.__file__ = self.place
        modules[name] = module
        try:
            exec(compile(self.source, self.place, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user named this file
        except UserError:
            del modules[name]
            raise
        except (Exception, SystemExit) as error:
            del modules[name]
            raise UserError(f"{self.place} cannot be loaded: {type(error).__name__}: {error}") from error
        return module

    def get(self, text: str, kind: str) -> Callable[..., Any]:
        """Return what ``text`` (FILE.py:NAME) names in the loaded module; ``kind`` is a word for messages.

        Raises:
            UserError: the module has no such name, or it cannot be called.
        """
        _, name = split_name(text)
        module = self.load()
        public = [key for key, value in vars(module).items() if not key.startswith("_") and callable(value)]
        defined = [key for key in public if getattr(vars(module)[key], "__module__", "") == module.__name__]
        if not hasattr(module, name):
            names = f"it defines {', '.join(sorted(defined))}" if defined else "it defines nothing that can be called"
            raise UserError(f"{self.place} has no {kind} {name!r}; {names}{nearest(name, defined)}")
        value: Callable[..., Any] = getattr(module, name)
        if not callable(value):
            raise UserError(f"{text} is {type(value).__name__}, not a function or class that makes a {kind}")
        return value


def split_name(text: str) -> tuple[str, str]:
    """Return (file or module, name in it) of FILE.py:NAME or MODULE:NAME."""
    match = _NAMED.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not FILE.py:NAME or MODULE:NAME")
    return match["place"], match["name"]


def call(function: Callable[..., Any], /, *positional: Any, **offered: Any) -> Any:
    """Call ``function`` with the positional arguments and those of ``offered`` that it has parameters for."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin has none to read
        return function(*positional)
    names = [name for name in offered if name in parameters]
    return function(*positional, **{name: offered[name] for name in names})


def _source_of_module(place: str) -> str:
    spec = importlib.util.find_spec(place)
    if spec is None or spec.origin is None:
        raise ImportError(f"No module named {place!r}")
    return Path(spec.origin).read_text(encoding="utf-8")
