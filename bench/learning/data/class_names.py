"""Match names of classes with the classes that are known: one rule for training data and for evaluation."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError

TRAIN = ("train", "training", "trn")
TEST = ("test", "testing", "tst")
VALIDATION = ("val", "valid", "validation", "eval", "evaluation", "dev")

_SEPARATORS = re.compile(r"[\s\-_.,:;'\"()\[\]/\\&!?]+")
_NUMBERED = re.compile(r"(\d+) - (.+)")
"""A name that says a number and a word for one class, as torchvision's MNIST does: '0 - zero'."""
_MOST_NAMED = 3
"""The most names without a match that an error names."""
_MOST_LISTED = 12
"""The most known names that an error lists."""


def class_numbers(names: Iterable[str], known: Sequence[str], what: str, whose: str) -> dict[str, int]:
    """Return the number of each named class: that of the known class of the same name.

    Names that do not match exactly are compared without case, and with punctuation and spaces as underscores; of a name
    like '0 - zero', also the number alone and the word alone. Such a form counts only if no other name on either side
    has it. Signs that tell classes apart (``+``, ``#``, ``%``) are kept, and names are never translated or counted:
    'one' is not 1, and the order of names means nothing.

    Args:
        names: the names to be matched.
        known: the names of the known classes, in the order of their numbers.
        what: what the names are names of, for the error: 'sub-folder'.
        whose: whose the known classes are, for the error: 'this model'.

    Raises:
        UserError: a name matches no known class, or may be meant for several.
    """
    given = sorted(set(names))
    places: dict[str, set[int]] = {}
    for place, name in enumerate(known):
        for form in _forms(name):
            places.setdefault(form, set()).add(place)
    exact = {name: place for place, name in enumerate(known)}
    meant = {name: set().union(*(places.get(form, ()) for form in _forms(name))) for name in given}
    times = Counter(place for each in meant.values() for place in each)
    numbers, strange = {}, []
    for name, same in meant.items():
        if name in exact:
            numbers[name] = exact[name]
        elif len(same) == 1 and times[min(same)] == 1 and any(map(str.isalnum, name)):
            numbers[name] = min(same)
        else:
            strange.append(name)
    if strange:
        raise UserError(f"{_named(what, strange)} of {whose}; the classes are {listed(known)}")
    return numbers


def listed(names: Sequence[str]) -> str:
    """Return the names of classes for a sentence, the first ones if they are many."""
    return ", ".join(names[:_MOST_LISTED]) + (", ..." if len(names) > _MOST_LISTED else "")


def _named(what: str, names: Sequence[str]) -> str:
    """Return the subject and verb of a sentence on names that are no classes."""
    few = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    if len(names) == 1:
        return f"{what} {few} is no class"
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{plural} {few}{more} are no classes"


def _forms(name: str) -> set[str]:
    """Return the simplified forms under which a name is looked for."""
    numbered = _NUMBERED.fullmatch(name)
    return {_simple(each) for each in (name, *(numbered.groups() if numbered else ()))}


def _simple(name: str) -> str:
    return _SEPARATORS.sub("_", unicodedata.normalize("NFC", name).casefold())


def relabelled(
    labels: NDArray[np.int64], names: Sequence[str], known: Sequence[str], what: str, whose: str
) -> NDArray[np.int64]:
    """Return labels, int64 [images], that number the classes ``names``, as numbers of the classes ``known``.

    Raises:
        UserError: a label numbers no class, or a class that has images matches no known class; see
            :func:`class_numbers`.
    """
    used = np.unique(labels)
    if used.size and not 0 <= used[0] <= used[-1] < len(names):
        strange = used[0] if used[0] < 0 else used[-1]
        raise UserError(f"{what} {strange} is a label, but the {len(names)} classes are numbered 0 to {len(names) - 1}")
    if tuple(names) == tuple(known):
        return labels
    numbers = class_numbers((names[label] for label in used), known, what, whose)
    table = np.zeros(len(names), dtype=np.int64)
    table[used] = [numbers[names[label]] for label in used]
    return table[labels]
