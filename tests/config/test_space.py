"""Spaces that a sweep searches: what a file may say, what is drawn."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.config.space import Range, Space, parse_space, read_space
from bench.errors import UserError
from bench.spec import Recipe

LR = Space(ranges={"lr": Range(low=1e-4, high=1e-1, log=True)})


def first(space: Space, count: int, seed: int = 0) -> list[dict[str, Any]]:
    return list(itertools.islice(space.draw(seed), count))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"lrr": [0.1]}, "unknown field 'lrr'; valid: augment, batch_size, beta2"),
        ({"lrr": [0.1]}, "did you mean 'lr'?"),
        ({"lr": {"low": 1, "high": 0.1}}, "lr: low 1 is above high 0.1"),
        ({"lr": {"low": 1, "high": 1}}, "lr: the range from 1 to 1 is empty"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "low 0 has no logarithm"),
        ({"lr": {"lowest": 0.1, "high": 1}}, "a range is {low: 0.0001, high: 0.1, log: true}"),
        ({"lr": {"low": -1, "high": 1}}, "lr: -1.0 is not allowed: input should be greater than 0"),
        ({"lr": {"low": 0.1, "high": float("inf")}}, "lr: high"),
        ({"batch_size": []}, "batch_size: the list is empty"),
        ({"batch_size": [32, 32]}, "32 is named twice"),
        ({"batch_size": [32, 0.5]}, "batch_size: 0.5 is not allowed"),
        ({"batch_size": [True]}, "it takes a value, not yes or no"),
        ({"optimizer": ["adam", "lion"]}, "optimizer: 'lion' is not allowed"),
        ({"optimizer": {"low": 0, "high": 1}}, "a range needs numbers; name values, as in [adam, adamw, sgd]"),
        ({"validation_size": [10, 20]}, "--validation-size sets it"),
        ({"lr": 0.1}, "nothing varies"),
    ],
)
def test_what_a_space_may_not_say(content: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_space(content, "--space: mine.yaml")
    assert str(caught.value).startswith("--space: mine.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr: [", "is not valid YAML"),
        ("- 1", "must hold training options"),
        ("", "must hold training options"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_holds_no_space(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "space.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=said):
        read_space(file)


def test_a_file_with_all_three_kinds(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("lr: {low: 1e-4, high: 1e-1, log: true}\nbatch-size: [32, 64]\noptimizer: sgd\n")
    space, fixed = read_space(file)
    assert fixed == {"optimizer": "sgd"}
    assert space.names == ["lr", "batch_size"]
    assert space.describe() == "lr 0.0001 to 0.1, log-uniform; batch_size 32, 64"
    for point in first(space, 20):
        Recipe.model_validate(point)


def test_the_same_seed_draws_the_same_and_more_trials_begin_alike() -> None:
    assert first(LR, 16)[:8] == first(LR, 8)
    assert first(LR, 8) != first(LR, 8, seed=1)


@given(st.integers(min_value=0, max_value=2**31 - 1))
@example(29280467)
@settings(max_examples=20)
def test_eight_draws_leave_no_eighth_of_the_range_out(seed: int) -> None:
    low, high = LR.ranges["lr"].low, LR.ranges["lr"].high
    places = sorted(math.log(point["lr"] / low) / math.log(high / low) for point in first(LR, 8, seed))
    rounding = 1e-4  # a value at the edge of its eighth may be rounded into the next
    assert all(abs(8 * place - eighth - 0.5) <= 0.5 + 8 * rounding for eighth, place in enumerate(places)), places


@given(
    st.floats(min_value=1e-6, max_value=1e3),
    st.floats(min_value=1.001, max_value=1e4),
    st.booleans(),
    st.integers(0, 9),
)
@settings(max_examples=50)
def test_what_is_drawn_is_in_the_range_and_never_twice(low: float, ratio: float, log: bool, seed: int) -> None:
    space = Space(ranges={"lr": Range(low=low, high=low * ratio, log=log)})
    drawn = [point["lr"] for point in first(space, 10, seed)]
    assert all(low <= value <= low * ratio for value in drawn)
    assert len(set(drawn)) == len(drawn)


def test_a_grid_is_tried_whole_and_each_point_once() -> None:
    space = Space(lists={"lr": (0.1, 0.01), "batch_size": (16, 32, 64)})
    points = first(space, 100)
    assert len(points) == space.size == 6
    assert len({tuple(point.items()) for point in points}) == 6


def test_a_small_range_of_whole_numbers_ends() -> None:
    space = Space(ranges={"batch_size": Range(low=32, high=35)})
    assert sorted(point["batch_size"] for point in first(space, 100)) == [32, 33, 34, 35]
