"""Registries: dicts from name to entry that refuse duplicates, and whose errors name the valid entries."""

from __future__ import annotations

from typing import Generic, TypeVar

from bench.errors import UserError, unknown

T = TypeVar("T")


class Registry(dict[str, T], Generic[T]):
    """A dict whose look-up errors list the valid names and the nearest."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def add(self, name: str, entry: T) -> None:
        """Register ``entry``.

        Raises:
            UserError: ``name`` is taken, or cannot be typed as one word: it is empty, or has a space, an invisible
                character or a =, which separates it from the value in MODEL=VALUE.
        """
        if not name or not name.isprintable() or any(character.isspace() or character == "=" for character in name):
            raise UserError(f"{name!r} cannot be the name of a {self.kind}; use letters, digits and - _ . / :")
        if name in self:
            raise UserError(f"{self.kind} {name!r} is registered twice; choose another name")
        self[name] = entry

    def find(self, name: str) -> T:
        """Return the entry called ``name``.

        Raises:
            UserError: there is no such entry; the message lists the valid names.
        """
        if name not in self:
            raise unknown(self.kind, name, self)
        return self[name]
