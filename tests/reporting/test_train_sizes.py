"""Curves over the number of training images, and where they cross."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from factories import record_of as make_record
from hypothesis import given
from hypothesis import strategies as st

from bench.reporting.entries import comparisons
from bench.reporting.train_sizes import crossing, crossing_sentences
from bench.spec import Recipe, Record

SIZES = (100, 1000, 10_000)


def curve(*accuracies: float, spread: float = 0.0, seeds: int = 3) -> dict[int, dict[int, float]]:
    """Three sizes, each with the accuracy plus a spread for each seed."""
    return {
        size: {seed: accuracy + spread * (seed - 1) for seed in range(seeds)}
        for size, accuracy in zip(SIZES, accuracies, strict=True)
    }


def test_lines_cross_where_the_interpolated_difference_is_zero() -> None:
    found = crossing(curve(0.6, 0.7, 0.8), curve(0.5, 0.68, 0.86))

    # the difference is 0.02 at 1,000 and -0.06 at 10,000: a quarter of the way on the logarithmic axis
    assert found is not None
    assert found.at == pytest.approx(1000 * 10**0.25)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((found.at, found.at))


def test_the_interval_is_students_t_of_the_logarithms_of_each_seeds_crossing() -> None:
    # seeds cross 1/4, 1/2 and 3/4 of the way from 1,000 to 10,000 images
    first = {1000: {0: 0.1, 1: 0.2, 2: 0.3}, 10_000: {0: 0.0, 1: 0.0, 2: 0.0}}
    second = {1000: {0: 0.0, 1: 0.0, 2: 0.0}, 10_000: {0: 0.3, 1: 0.2, 2: 0.1}}

    found = crossing(first, second)

    assert found is not None
    assert found.interval is not None
    assert found.at == pytest.approx(1000 * 10**0.5)
    reach = 4.302653 * 0.25 / math.sqrt(3)  # t of 2 degrees of freedom, at 97.5 %
    assert math.log10(found.interval.high / 1000) == pytest.approx(0.5 + reach, abs=1e-6)
    assert math.log10(found.interval.low / 1000) == pytest.approx(0.5 - reach, abs=1e-6)


def test_a_seed_that_does_not_cross_leaves_no_interval() -> None:
    first, second = curve(0.6, 0.6, 0.6), curve(0.5, 0.5, 0.7)
    first[10_000][2] = 0.75

    found = crossing(first, second)

    assert found is not None
    assert found.at is not None
    assert found.interval is None


@pytest.mark.parametrize("first", [{}, {100: {0: 0.5}}, {100: {7: 0.5}, 1000: {7: 0.5}}])
def test_without_two_shared_sizes_or_a_shared_seed_nothing_is_said(first: dict[int, dict[int, float]]) -> None:
    assert crossing(first, curve(0.1, 0.2, 0.3)) is None


@given(st.lists(st.floats(-0.5, 0.5).map(lambda value: round(value, 3)), min_size=2, max_size=8))
def test_a_crossing_lies_between_two_sizes_whose_differences_have_unlike_signs(differences: list[float]) -> None:
    sizes = [100 * 3**number for number in range(len(differences))]
    first = {size: {0: 0.5 + difference} for size, difference in zip(sizes, differences, strict=True)}
    second = {size: {0: 0.5} for size in sizes}

    found = crossing(first, second)
    mirrored = crossing(second, first)

    assert found is not None
    assert mirrored is not None
    signs = [difference for difference in found.differences if difference != 0]
    assert found.changes == sum(a * b < 0 for a, b in pairwise(signs))
    assert (found.at is None) == (found.changes != 1)
    assert mirrored.changes == found.changes
    if found.at is not None:
        assert mirrored.at == pytest.approx(found.at)
        below = [d for size, d in zip(sizes, found.differences, strict=True) if size < found.at * (1 - 1e-9)]
        above = [d for size, d in zip(sizes, found.differences, strict=True) if size > found.at * (1 + 1e-9)]
        assert all(a * b <= 0 for a in below for b in above)


def runs(model: str, accuracies: tuple[float, ...], seeds: int = 3) -> list[Record]:
    return [
        make_record(
            model=model,
            seed=seed,
            recipe=Recipe(train_size=size, epochs=10_000 // size),
            images_per_epoch=size,
            test_accuracy=accuracy + seed / 1000,
        )
        for size, accuracy in zip(SIZES, accuracies, strict=True)
        for seed in range(seeds)
    ]


def said(*records: list[Record]) -> list[str]:
    (comparison,) = comparisons([record for each in records for record in each])
    return crossing_sentences(comparison)


def test_where_curves_cross_is_one_sentence() -> None:
    assert said(runs("cnn", (0.3, 0.5, 0.9)), runs("mobilenet", (0.6, 0.65, 0.7))) == [
        "With few training images mobilenet is better, with many cnn: they cross at about 2,700 images (95 % interval "
        "2,700 to 2,700; 3 seeds each, from 100 to 10,000 training images)."
    ]


def test_that_curves_do_not_cross_is_said_with_the_span_that_was_tried() -> None:
    assert said(runs("cnn", (0.8, 0.9, 0.95)), runs("mobilenet", (0.6, 0.65, 0.7))) == [
        "cnn is better than mobilenet at every size tried, from 100 to 10,000 training images: no crossing "
        "(3 seeds each)."
    ]


def test_one_seed_gives_a_crossing_without_an_interval() -> None:
    (sentence,) = said(runs("cnn", (0.3, 0.5, 0.9), seeds=1), runs("mobilenet", (0.6, 0.65, 0.7), seeds=1))

    assert "too few seeds for an interval; 1 seed each" in sentence


def test_jobs_of_one_size_say_nothing_of_curves() -> None:
    assert said([make_record(seed=seed, model=model) for seed in range(3) for model in ("cnn", "mobilenet")]) == []
