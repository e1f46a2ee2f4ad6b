"""Load models and data sets that a user defines: ``mine.py:NAME`` or ``package.module:NAME``."""

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
    """The source code of a user's file or module.

    Ray sends a file's source to the workers, so they need no copy of the file. A module is imported by name instead, so
    it has to be installed on every node.
    """

    place: str
    """The path of the file (ending in .py), or the dotted name of the module."""
    source: str
    """The text of the file or of the module's file, without what it imports."""

    @staticmethod
    def is_named_by(text: str) -> bool:
        """Return whether ``text`` has the form FILE.py:NAME or MODULE:NAME."""
        return _NAMED.fullmatch(text) is not None

    @staticmethod
    def read(text: str, option: str) -> UserCode:
        """Read the file or module in ``text`` (FILE.py:NAME or MODULE:NAME), and load it once to check that it runs.

        Args:
            text: the user's input; it must have one of the two forms (:meth:`is_named_by`).
            option: the option it was given with, such as '--models', for messages.

        Raises:
            UserError: the file or module cannot be read, or raises an exception when it is executed.
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
        except Exception as error:  # looking a module up imports the packages around it
            raise UserError(f"{option}: {place} cannot be imported: {type(error).__name__}: {error}") from None
        code.load()
        return code

    @property
    def sha256(self) -> str:
        """Return the SHA-256 digest of the source, in hex; it is part of the id of each run that uses the code."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def load(self) -> types.ModuleType:
        """Return the user's module; execute the file or import the module first if this process has not done so yet.

        Raises:
            UserError: the user's code raises an exception.
        """
        if not self.place.endswith(".py"):
            try:
                return importlib.import_module(self.place)
            except UserError:
                raise
            except (Exception, SystemExit) as error:
                raise UserError(f"{self.place} cannot be loaded: {type(error).__name__}: {error}") from error
        name = f"bench_user_code_{self.sha256[:16]}"
        modules = sys.modules  # torch.export looks up classes in sys.modules, and importlib cannot register a module
        if name in modules:
            return modules[name]
        module = types.ModuleType(name)
        module.__file__ = self.place
        modules[name] = module
        try:
            exec(compile(self.source, self.place, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user asked for this file
        except UserError:
            del modules[name]
            raise
        except (Exception, SystemExit) as error:
            del modules[name]
            raise UserError(f"{self.place} cannot be loaded: {type(error).__name__}: {error}") from error
        return module

    def get(self, text: str, kind: str) -> Callable[..., Any]:
        """Return the function or class that ``text`` (FILE.py:NAME or MODULE:NAME) names.

        Args:
            text: the user's input.
            kind: what the function makes, such as 'model', for messages.

        Raises:
            UserError: the code cannot be loaded, the name is not defined in it, or the value is not callable.
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
    """Split FILE.py:NAME or MODULE:NAME into (file or module, name).

    Raises:
        ValueError: ``text`` has neither form.
    """
    match = _NAMED.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not FILE.py:NAME or MODULE:NAME")
    return match["place"], match["name"]


def call(function: Callable[..., Any], /, *positional: Any, **offered: Any) -> Any:
    """Call ``function`` with ``positional`` and the keyword arguments of ``offered`` that it has parameters for.

    A ``**kwargs`` parameter receives none of them. Neither does a function without a readable signature.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have no readable signature
        return function(*positional)
    names = [name for name in offered if name in parameters]
    return function(*positional, **{name: offered[name] for name in names})


def _source_of_module(place: str) -> str:
    spec = importlib.util.find_spec(place)
    if spec is None or spec.origin is None:
        raise ImportError(f"No module named {place!r}")
    return Path(spec.origin).read_text(encoding="utf-8")
