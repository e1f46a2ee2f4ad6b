"""Intervals cover, tests reject what they should and not more, and "what it would take" is enough."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import lfilter

from bench.reporting.stats import (
    ALPHA,
    Difference,
    Seeds,
    checkpoints_difference,
    discordant,
    holm,
    mcnemar,
    mean_interval,
    pareto_front,
    percentiles,
    recipes_difference,
    wilson,
)
from bench.reporting.timing_stats import timings_difference

shares = st.floats(0, 1)


# --- one model ----------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_students() -> None:
    interval = mean_interval([0.98, 0.99, 0.985])

    assert interval is not None
    half = 4.302653 * 0.005 / math.sqrt(3)  # t of 2 degrees of freedom, from a printed table
    assert (interval.low, interval.high) == pytest.approx((0.985 - half, 0.985 + half), abs=1e-8)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.6]])
def test_below_three_seeds_there_is_no_interval(values: list[float]) -> None:
    assert mean_interval(values) is None


def test_seeds_that_all_gave_the_same_have_an_interval_of_no_width() -> None:
    interval = mean_interval([0.5] * 4)

    assert interval is not None
    assert (interval.low, interval.high) == (0.5, 0.5)


@given(values=st.lists(shares, min_size=3, max_size=20))
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    interval = mean_interval(values)

    assert interval is not None
    assert interval.low - 1e-9 <= np.mean(values) <= interval.high + 1e-9


def test_the_interval_of_9920_right_answers_of_10000_is_wilsons() -> None:
    interval = wilson(9920, 10_000)

    assert (round(100 * interval.low, 2), round(100 * interval.high, 2)) == (99.01, 99.36)
    assert (wilson(0, 10).low, wilson(10, 10).high) == pytest.approx((0, 1))


def test_the_99th_percentile_needs_100_samples() -> None:
    assert percentiles([float(i) for i in range(101)]) == {"p50": 50, "p95": 95, "p99": 99}
    assert percentiles([1.0] * 100)["p99"] == 1
    assert percentiles([1.0] * 99) == {"p50": 1, "p95": 1, "p99": None}
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}


# --- these two checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only_first", "only_second", "p", "different"),
    [(60, 40, 0.0569, False), (40, 60, 0.0569, False), (40, 20, 0.0135, True), (0, 0, 1, False), (0, 6, 0.03125, True)],
)
def test_exact_mcnemar(only_first: int, only_second: int, p: float, different: bool) -> None:
    found = checkpoints_difference(only_first, only_second, 10_000)

    assert found.p == pytest.approx(p, abs=5e-5)
    assert found.p == mcnemar(only_first, only_second)
    assert found.distinguishable == different
    assert found.value == (only_second - only_first) / 10_000


def test_mcnemar_rejects_no_more_than_it_should() -> None:
    random = np.random.default_rng(0)
    rejected = 0
    for _ in range(1000):
        labels = random.integers(10, size=1000)
        answers = [np.where(random.random(1000) < 0.95, labels, 10) for _ in range(2)]
        rejected += mcnemar(*discordant(labels, *answers)) < ALPHA

    assert rejected <= 64


def test_images_that_only_one_got_right() -> None:
    labels, first, second = np.array([[1, 2, 3, 4, 5], [1, 2, 0, 4, 0], [1, 0, 0, 0, 5]])

    assert discordant(labels, first, second) == (2, 1)


@given(only_first=st.integers(0, 300), only_second=st.integers(0, 300))
def test_the_interval_is_clear_of_zero_where_p_says_so(only_first: int, only_second: int) -> None:
    found = checkpoints_difference(only_first, only_second, 1000)

    assert found.interval is not None
    assert found.interval.low <= found.value <= found.interval.high
    assert found.distinguishable == (found.interval.low > 0 or found.interval.high < 0)


def test_as_many_images_as_it_takes_show_the_difference() -> None:
    random = np.random.default_rng(0)
    found = checkpoints_difference(60, 40, 10_000)

    assert found.needed is not None
    assert found.needed.of == "test images"
    seen = 0
    for _ in range(300):
        only_first, only_second, _ = random.multinomial(found.needed.number, [0.006, 0.004, 0.99])
        seen += mcnemar(only_first, only_second) < ALPHA
    assert 0.7 <= seen / 300 <= 0.9


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


# --- these two recipes --------------------------------------------------------------------------------------------


def recipe(accuracies: list[float], first_seed: int = 0) -> Seeds:
    return Seeds(dict(enumerate(accuracies, first_seed)))


def test_the_same_seeds_are_paired_and_others_are_not() -> None:
    low, high = [0.90, 0.92, 0.94, 0.96], [0.911, 0.930, 0.951, 0.970]

    paired = recipes_difference(recipe(low), recipe(high))
    welch = recipes_difference(recipe(low), recipe(high, first_seed=10))

    assert paired is not None
    assert welch is not None
    assert paired.method.startswith("paired t-test")
    assert welch.method.startswith("Welch's t-test")
    assert paired.value == welch.value == pytest.approx(0.0105)
    assert paired.distinguishable
    assert not welch.distinguishable
    assert paired.p == pytest.approx(4.57e-5, rel=0.01)  # t = 36.4 with 3 degrees of freedom
    assert welch.needed is not None
    assert welch.needed.of == "seeds of each"
    assert welch.needed.number > 4


def test_the_order_of_seeds_does_not_matter() -> None:
    seeds = [0.90, 0.92, 0.94]
    one, other = recipe(seeds), recipe([0.91, 0.93, 0.95])
    turned = Seeds(dict(reversed(other.accuracies.items())))

    assert recipes_difference(one, turned) == recipes_difference(one, other)


@pytest.mark.parametrize("counts", [(2, 5), (5, 2), (1, 1)])
def test_below_three_seeds_recipes_are_not_compared(counts: tuple[int, int]) -> None:
    first, second = (recipe([0.9 + i / 100 for i in range(count)]) for count in counts)

    assert recipes_difference(first, second) is None


def test_seeds_that_all_gave_the_same() -> None:
    alike, same, other = recipe([0.5] * 3), recipe([0.5] * 3), recipe([0.75] * 3)

    assert recipes_difference(alike, same) == Difference(
        0.0,
        recipes_difference(alike, same).interval,  # type: ignore[union-attr]
        1.0,
        "paired t-test over the seeds",
    )
    found = recipes_difference(alike, other)
    assert found is not None
    assert (found.value, found.p) == (0.25, 0)


def answers(
    random: np.random.Generator, seeds: int, ease: NDArray[np.float64], spread: float, first_seed: int = 0
) -> Seeds:
    """Seeds on images of different ease: an image is right where ease, luck of the seed and of the image add up."""
    right = ease + random.normal(0, spread, (seeds, 1)) + random.normal(0, 1, (seeds, len(ease))) > 0
    return Seeds(dict(enumerate(right.mean(axis=1), first_seed)), right)


@pytest.mark.parametrize("first_seed", [0, 100], ids=["paired", "welch"])
@pytest.mark.parametrize("harder", [0.1, 3.0], ids=["images alike", "images apart"])
@pytest.mark.parametrize("spread", [0.0, 0.1], ids=["seeds alike", "seeds apart"])
def test_equal_recipes_are_seldom_called_different(first_seed: int, harder: float, spread: float) -> None:
    random = np.random.default_rng(0)
    rejected = 0
    for _ in range(200):
        ease = 2 + random.normal(0, harder, 500)  # new images each time
        one, other = (
            answers(random, 4, ease + random.normal(0, harder / 2, 500), spread, seed) for seed in (0, first_seed)
        )
        found = recipes_difference(one, other)
        assert found is not None
        rejected += found.distinguishable

    assert rejected <= 19  # 5 % of 200, and three standard deviations


def test_images_make_the_interval_wider() -> None:
    random = np.random.default_rng(0)
    ease = random.normal(1, 3, 500)
    one, other = (answers(random, 5, ease + random.normal(0, 3, 500), 0.0) for _ in range(2))

    seeds = recipes_difference(Seeds(one.accuracies), Seeds(other.accuracies))
    images = recipes_difference(one, other)

    assert seeds is not None
    assert images is not None
    assert seeds.interval is not None
    assert images.interval is not None
    assert seeds.value == images.value
    assert images.interval.high - images.interval.low > seeds.interval.high - seeds.interval.low
    assert images.method.endswith("then over the test images")
    assert images.needed is not None
    assert images.needed.of == "test images"  # more seeds would not help


# --- timings ------------------------------------------------------------------------------------------------------


def session(random: np.random.Generator, samples: int = 100, *, slower: float = 1.0) -> NDArray[np.float64]:
    """Timed samples as machines give them: alike when they follow each other, now and then one far too slow, and
    the session as a whole faster or slower than the next."""
    noise = random.normal(0, 1, samples + 50)
    drift = lfilter([math.sqrt(1 - 0.8**2)], [1, -0.8], noise)[50:]
    seconds = 0.01 * slower * np.exp(0.03 * drift + random.normal(0, 0.02))
    return np.asarray(
        np.where(random.random(samples) < 0.05, seconds * (1 + random.exponential(0.5, samples)), seconds)
    )


def compared(random: np.random.Generator, sessions: int, slower: float, blocks: int = 1) -> Difference:
    found = timings_difference(
        *([np.array_split(session(random, slower=how), blocks) for _ in range(sessions)] for how in (1.0, slower)),
        session_to_session=0.02,
    )
    assert found is not None
    return found


@pytest.mark.parametrize("blocks", [1, 5])
@pytest.mark.parametrize("sessions", [1, 2, 3, 5])
def test_equal_speeds_are_seldom_called_different(sessions: int, blocks: int) -> None:
    random = np.random.default_rng(0)

    assert sum(compared(random, sessions, 1.0, blocks).distinguishable for _ in range(100)) <= 11


@pytest.mark.parametrize(("sessions", "found"), [(1, 80), (5, 95)])
def test_a_tenth_slower_is_found(sessions: int, found: int) -> None:
    random = np.random.default_rng(0)
    differences = [compared(random, sessions, 1 / 0.9) for _ in range(100)]

    assert sum(difference.distinguishable and difference.value > 0.05 for difference in differences) >= found
    assert np.mean([difference.value for difference in differences]) == pytest.approx(1 / 9, abs=0.01)


def test_the_same_samples_give_the_same_answer() -> None:
    first, second = compared(np.random.default_rng(0), 1, 1.1), compared(np.random.default_rng(0), 1, 1.1)

    assert first == second


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_few_samples_are_no_reason_to_be_sure(samples: int) -> None:
    first, second = np.full(samples, 0.01), np.full(samples, 0.0101)

    found = timings_difference([[first]], [[second]])

    assert found is not None
    assert found.value == pytest.approx(0.01)
    assert not found.distinguishable
    assert found.interval is not None
    assert found.interval.high - found.interval.low > 0.06


def test_by_how_much_sessions_differ_is_part_of_the_interval() -> None:
    one, other = ([[np.full(50, seconds)] * 5] for seconds in (0.01, 0.012))
    wide, narrow = timings_difference(one, other), timings_difference(one, other, session_to_session=0.02)

    assert wide is not None
    assert narrow is not None
    assert (wide.distinguishable, narrow.distinguishable) == (False, True)


def test_without_samples_nothing_is_said() -> None:
    assert timings_difference([], [[np.ones(3)]]) is None
    assert timings_difference([[np.ones(0)]], [[np.ones(3)]]) is None
    assert timings_difference([[]], [[np.ones(3)]]) is None


@given(factor=st.floats(0.01, 100))
def test_the_unit_of_timings_does_not_matter(factor: float) -> None:
    random = np.random.default_rng(0)
    first, second = ([[session(random, 20)] for _ in range(3)] for _ in range(2))

    one = timings_difference(first, second)
    other = timings_difference(*([[factor * times for times in one] for one in side] for side in (first, second)))

    assert one is not None
    assert other is not None
    assert other.value == pytest.approx(one.value)
    assert other.p == pytest.approx(one.p)
    assert (one.p or 0) > ALPHA or one.distinguishable


# --- answers of one checkpoint --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("correct", "images"), [(0, 10), (10, 10), (9915, 10_000), (1, 1), (37, 100)])
def test_the_interval_of_an_accuracy_follows_wilsons_formula(correct: int, images: int) -> None:
    z, share = 1.959964, correct / images
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    found = wilson(correct, images)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_without_images_an_accuracy_has_no_interval() -> None:
    assert math.isnan(wilson(0, 0).low)
    assert math.isnan(wilson(0, 0).high)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    def beaten(point: tuple[int, int]) -> bool:
        return any(other != point and other[0] <= point[0] and other[1] >= point[1] for other in points)

    assert pareto_front(points) == sorted({point for point in points if not beaten(point)})
