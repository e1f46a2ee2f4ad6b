"""Names of classes: which are matched with which, and which never."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.learning.data.class_names import class_numbers, relabelled

DEVANAGARI = "०१२३४५६७८९"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = tuple("0123456789")


def numbers(names: tuple[str, ...] | str, known: tuple[str, ...] | str) -> dict[str, int]:
    return class_numbers(names, tuple(known), "sub-folder", "this model")


@pytest.mark.parametrize(
    "known",
    [
        tuple(DEVANAGARI),
        WORDS,
        tuple("アイウエオ"),
        tuple("абвг"),
        ("+", "-", "÷", "×"),
        ("A", "a", "B", "b"),
        ("C", "C#", "C++", "D"),
        ("Cat", "cat", "sea lion", "sea_lion"),
        ("", " ", "_"),
    ],
    ids=" ".join,
)
def test_names_that_are_the_same_match_in_every_script(known: tuple[str, ...]) -> None:
    assert numbers(tuple(reversed(known)), known) == {name: place for place, name in enumerate(known)}


@pytest.mark.parametrize(
    ("name", "known", "place"),
    [
        ("t-shirt_top", ("Trouser", "T-shirt/top"), 1),
        ("SEA LION", ("cat", "sea_lion"), 1),
        ("привет", ("пока", "Привет"), 1),
        ("Cafe\u0301", ("tea", "caf\u00e9"), 1),  # as macOS writes it
        ("c#", ("C", "C#"), 1),
        ("zero", ("1 - one", "0 - zero"), 1),  # as torchvision's MNIST names its classes
        ("1", ("1 - one", "0 - zero"), 0),
        ("7 - Seven", DIGITS, 7),
        ("7 - Seven", WORDS, 7),
        ("1 - ONE", ("1 - one", "0 - zero"), 0),
    ],
)
def test_names_match_without_case_and_with_any_separator(name: str, known: tuple[str, ...], place: int) -> None:
    assert numbers((name,), known) == {name: place}


@pytest.mark.parametrize(
    ("names", "known", "strange"),
    [
        (WORDS, DIGITS, "'eight', 'five', 'four' and 7 more"),
        (tuple(DEVANAGARI), DIGITS, "'०', '१', '२' and 7 more"),
        (("train", "val"), ("0", "1"), "'train', 'val'"),
        (("cat", "dog"), ("dog", "wolf"), "'cat'"),
        (("a",), ("A", "a b", "B"), None),
        (("CAT",), ("Cat", "cat"), "'CAT'"),  # which of the two?
        (("cat", "CAT"), ("Cat", "dog"), "'CAT', 'cat'"),  # both?
        (("A", "a"), ("A", "b"), "'a'"),
        (("+",), ("÷", "-"), "'+'"),
        (("-",), ("_", "1"), "'-'"),
        (("C+",), ("C#", "C"), "'C+'"),
        (("00",), DIGITS, "'00'"),
        (("1.5",), ("15", "1"), "'1.5'"),
        (("1", "one"), ("0 - zero", "1 - one"), "'1', 'one'"),  # two folders for one class
        (("1",), ("1 - one", "1 - uno"), "'1'"),
        (("1 - two",), ("one", "two", "1"), "'1 - two'"),
        (("one",), ("one - 1", "two - 2"), "'one'"),
    ],
    ids=str,
)
def test_names_that_may_mean_something_else_are_refused(
    names: tuple[str, ...], known: tuple[str, ...], strange: str | None
) -> None:
    if strange is None:
        assert numbers(names, known) == {"a": 0}
        return
    with pytest.raises(UserError) as caught:
        numbers(names, known)
    assert strange in str(caught.value)
    assert "of this model; the classes are " in str(caught.value)


@given(st.lists(st.text(max_size=4), min_size=1, max_size=6, unique=True), st.data())
def test_two_names_never_share_a_class(known: list[str], data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([*known, *(each.swapcase() for each in known)]), unique=True))
    try:
        matched = class_numbers(names, known, "name", "these")
    except UserError:
        assert set(names) - set(known)  # names that are the same are never refused
    else:
        assert len(set(matched.values())) == len(names)
        assert all(known[place].casefold() == name.casefold() for name, place in matched.items() if name not in known)


def test_labels_keep_their_names_when_they_are_numbered_anew() -> None:
    labels = relabelled(np.array([0, 1, 1, 2]), ("dog", "Cat", "bird"), ("bird", "cat", "dog"), "class", "these")

    assert labels.tolist() == [2, 1, 1, 0]


def test_a_class_without_images_needs_no_match() -> None:
    assert relabelled(np.array([1, 1]), ("yak", "cat"), ("bird", "cat"), "class", "these").tolist() == [1, 1]


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_of_no_class_is_named(label: int) -> None:
    with pytest.raises(UserError, match=f"class {label} is a label, but the 2 classes are numbered 0 to 1"):
        relabelled(np.array([0, label]), ("a", "b"), ("a", "b"), "class", "these")
