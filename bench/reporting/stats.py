"""Confidence intervals, significance tests and power for a benchmark's questions, by scipy and statsmodels.

Differences are always second minus first. scipy and statsmodels take a second to import and are imported when first
needed, so that commands start fast.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""The confidence level of every interval."""
ALPHA = 1 - CONFIDENCE
"""The significance level: two things are called different if p is below it."""
POWER = 0.8
"""The statistical power that :class:`Needed` is computed for: the chance to see a difference of the observed size."""
FEWEST_SEEDS = 3
"""The fewest seeds from which a recipe's spread is estimated."""
FEWEST_FOR_P99 = 100
"""The fewest samples of which the 99th percentile is given."""
_MOST_NEEDED = 10_000_000
"""The largest number that :class:`Needed` gives."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


What = Literal["seeds of each", "test images", "timed sessions of each"]


@dataclass(frozen=True)
class Needed:
    """The number of seeds, images or sessions with which a difference of the observed size is seen in 80 % of cases."""

    number: int
    of: What


@dataclass(frozen=True)
class Difference:
    """A difference, second minus first; of timings and memory, second over first minus one."""

    value: float
    interval: Interval | None
    """The 95 % interval; None if the values were counted, not measured."""
    p: float | None
    """The two-sided p value, under the hypothesis of no difference; None if the values were counted, not measured."""
    method: str
    """The name of the test."""
    needed: Needed | None = None
    """How much data would show the difference; None if it is zero, or too small for ten million of anything."""

    @property
    def distinguishable(self) -> bool:
        """Return whether the difference is significant: p below 0.05."""
        return self.p is not None and self.p < ALPHA


# --- one model -----------------------------------------------------------------------------------------------------


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return Student's 95 % t-interval of the mean over seeds, in the values' unit; None below three values."""
    return _students(tuple(values)) if len(values) >= FEWEST_SEEDS else None


@functools.lru_cache(maxsize=4096)  # page and terminal show the same means
def _students(values: tuple[float, ...]) -> Interval:
    from scipy.special import stdtrit  # the core of scipy.stats.t, without the second that scipy.stats takes to import

    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 1 - ALPHA / 2)) * error
    return Interval(mean - reach, mean + reach)


@functools.lru_cache(maxsize=4096)
def wilson(right: int, images: int) -> Interval:
    """Return Wilson's 95 % interval of a checkpoint's accuracy over the test images, in shares; NaN without images."""
    from statsmodels.stats.proportion import proportion_confint

    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = proportion_confint(np.int64(right), np.int64(images), alpha=ALPHA, method="wilson")
    return Interval(float(low), float(high))


def percentiles(seconds: Sequence[float] | NDArray[np.float64]) -> dict[str, float | None]:
    """Return 'p50', 'p95' and 'p99' of timed samples in their unit; all None without samples, p99 None below 100."""
    if not len(seconds):
        return {"p50": None, "p95": None, "p99": None}
    p50, p95, p99 = (float(value) for value in np.percentile(seconds, [50, 95, 99]))
    return {"p50": p50, "p95": p95, "p99": p99 if len(seconds) >= FEWEST_FOR_P99 else None}


# --- these two checkpoints -----------------------------------------------------------------------------------------


def discordant(labels: NDArray[np.integer], first: NDArray[np.integer], second: NDArray[np.integer]) -> tuple[int, int]:
    """Return how many images only the first, and how many only the second, classified right.

    Args:
        labels: shape [images]: the true classes.
        first: shape [images]: the first model's answers.
        second: shape [images]: the second model's answers.
    """
    first_right, second_right = labels == first, labels == second
    return int(np.sum(first_right & ~second_right)), int(np.sum(second_right & ~first_right))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test, from the images that only one of two models classified right."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    return float(test([[0, only_first], [only_second, 0]], exact=True).pvalue)


def checkpoints_difference(only_first: int, only_second: int, images: int) -> Difference:
    """Return how much more of the test images the second checkpoint classifies right, as a share.

    The interval is the smallest that contains two others: Student's, of the differences image by image, and Clopper and
    Pearson's, of the second checkpoint's share of the images that only one of the two classified right. The latter is
    the inverse of the exact McNemar test, so that the interval contains zero unless p is below 0.05.

    Args:
        only_first: the number of images that only the first classified right.
        only_second: the number of images that only the second classified right.
        images: the number of test images.
    """
    from statsmodels.stats.proportion import proportion_confint
    from statsmodels.stats.weightstats import DescrStatsW

    apart = only_first + only_second
    if apart:
        shares = proportion_confint(only_second, apart, alpha=ALPHA, method="beta")
        exact = [(2 * float(share) - 1) * apart / images for share in shares]
        counts = [only_first, images - apart, only_second]
        students = DescrStatsW([-1.0, 0.0, 1.0], weights=counts).tconfint_mean(ALPHA) if images > 1 else exact
        low, high = min(exact[0], float(students[0])), max(exact[1], float(students[1]))
    else:
        high = float(proportion_confint(0, images, alpha=ALPHA, method="beta")[1])
        low = -high
    value = (only_second - only_first) / images
    needed = _images_for(only_second / apart, apart, images) if apart else None
    p = mcnemar(only_first, only_second)
    return Difference(value, Interval(low, high), p, "exact McNemar test", needed)


def _images_for(share: float, apart: int, images: int) -> Needed | None:
    """Return the images that McNemar's test needs to see a difference of the observed size.

    Args:
        share: the share of the discordant images that only the second model classified right.
        apart: the number of discordant images: those that only one of the two models classified right.
        images: the number of test images.
    """
    from statsmodels.stats.power import NormalIndPower
    from statsmodels.stats.proportion import proportion_effectsize

    effect = abs(float(proportion_effectsize(share, 0.5)))
    wanted = sample_size(NormalIndPower(), effect, ratio=0) if effect else math.inf
    return needed_of(max(wanted, 6.0) * images / apart, images, "test images")  # fewer than 6 never give p < 0.05


def holm(p: Sequence[float]) -> list[float]:
    """Return the p values adjusted by Holm's method: by chance, any of them is below 0.05 in at most 5 % of cases."""
    if len(p) < 2:
        return list(p)
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(p, alpha=ALPHA, method="holm")[1]]


# --- these two recipes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seeds:
    """The results of the seeds of one recipe."""

    accuracies: Mapping[int, float]
    """The share of test images classified right, by seed."""
    right: NDArray[np.bool_] | None = None
    """Which images were classified right, [seeds, images], seeds in the order of ``accuracies``; None if not stored."""


def recipes_difference(first: Seeds, second: Seeds) -> Difference | None:
    """Return how much more accurate the second recipe is on average, as a share; None below three seeds of either.

    The test over the seeds is paired if both recipes have the same seeds, else Welch's. Other test images would have
    given another difference; where it is stored which images were classified right, their variance is added. Seeds and
    images are crossed random effects, so the variance of the mean difference is that of the seeds plus that of the
    images minus that of their interaction, which is part of both (Brennan, Generalizability Theory, 2001, section 4.2,
    for one facet). The degrees of freedom are those of Welch and Satterthwaite.
    """
    if min(len(first.accuracies), len(second.accuracies)) < FEWEST_SEEDS:
        return None
    paired = set(first.accuracies) == set(second.accuracies)
    seeds = list(second.accuracies)
    rows = [seeds.index(seed) for seed in (first.accuracies if paired else seeds)]  # paired: in the order of the first
    before = np.array(list(first.accuracies.values()))
    after = np.array(list(second.accuracies.values()))[rows]
    value = float(after.mean() - before.mean())
    spreads = [after - before] if paired else [before, after]
    # (variance of the mean, degrees of freedom) of each random effect
    parts = [(float(spread.var(ddof=1)) / len(spread), len(spread) - 1) for spread in spreads]
    over_seeds = sum(variance for variance, _ in parts)
    over_images = interaction = 0.0
    images = 0
    method = "paired t-test over the seeds" if paired else "Welch's t-test over the seeds"
    if first.right is not None and second.right is not None and first.right.shape[1] == second.right.shape[1]:
        images = first.right.shape[1]
        answers = [first.right.astype(np.float64), second.right[rows].astype(np.float64)]
        if paired:
            answers = [answers[1] - answers[0]]
        per_image = answers[-1].mean(axis=0) - (0.0 if paired else answers[0].mean(axis=0))
        over_images = float(per_image.var(ddof=1)) / images
        interaction = sum(_interaction(table) for table in answers)
        parts.append((over_images, images - 1))
        method += ", then over the test images"
    variance = max(over_seeds + over_images - interaction, over_seeds, over_images)
    if variance < 1e-18:  # every seed gave the same
        return Difference(value, Interval(value, value), 1.0 if abs(value) < 1e-12 else 0.0, method)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    interval, p = by_t(value, variance, max(freedom, min(degrees for _, degrees in parts)))
    needed = _for_recipes(value, spreads, max(over_images - interaction, 0.0), images)
    return Difference(value, interval, p, method, needed)


def by_t(value: float, variance: float, freedom: float) -> tuple[Interval, float]:
    """Return (95 % interval, two-sided p) of a difference by Student's t with ``freedom`` degrees of freedom."""
    from scipy import stats

    spread = stats.t(df=freedom, scale=math.sqrt(variance))
    reach = float(spread.ppf(1 - ALPHA / 2))
    return Interval(value - reach, value + reach), float(2 * spread.sf(abs(value)))


def _interaction(table: NDArray[np.float64]) -> float:
    """Return the variance that the interaction of seeds and images adds to the mean of ``table`` [seeds, images]."""
    seeds, images = len(table), len(table[0])
    squares = (
        float(np.sum(table**2))
        - images * float(np.sum(table.mean(axis=1) ** 2))
        - seeds * float(np.sum(table.mean(axis=0) ** 2))
        + table.size * float(table.mean()) ** 2
    )
    return max(squares, 0.0) / ((seeds - 1) * (images - 1) * table.size)


def _for_recipes(
    value: float, spreads: Sequence[NDArray[np.float64]], over_images: float, images: int
) -> Needed | None:
    """Return the seeds that would show the difference or, where no number of seeds would, the images.

    Args:
        value: the difference.
        spreads: the differences of the seeds if they are paired, else the accuracies of each recipe's seeds.
        over_images: the variance that the images add to the difference, without that of their interaction with seeds.
        images: the number of test images; 0 if it is not stored which were classified right.
    """
    from scipy import stats
    from statsmodels.stats.power import TTestIndPower, TTestPower

    if value == 0:
        return None
    together = float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER))
    remaining = value**2 - together**2 * over_images
    if remaining <= 0:
        wanted = 2 * images * together**2 * over_images / value**2  # half of the variance is for the seeds
        return needed_of(wanted, images, "test images")
    deviation = math.sqrt(float(np.mean([spread.var(ddof=1) for spread in spreads])))
    if deviation == 0:
        return None
    power = TTestPower() if len(spreads) == 1 else TTestIndPower()
    have = min(map(len, spreads))
    return needed_of(sample_size(power, math.sqrt(remaining) / deviation), max(have, FEWEST_SEEDS - 1), "seeds of each")


def means_difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Return how much larger the second's geometric mean is, relative to the first's; None below three values.

    The test is Welch's, of the logarithms.

    Args:
        first: figures above 0, in any unit, one for each run.
        second: the same for the second.
    """
    from scipy import stats

    if min(len(first), len(second)) < FEWEST_SEEDS:
        return None
    logs = np.log(first), np.log(second)
    value = float(logs[1].mean() - logs[0].mean())
    method = "Welch's t-test over the seeds"
    if all(np.ptp(side) == 0 for side in logs):
        same = Interval(math.expm1(value), math.expm1(value))
        return Difference(math.expm1(value), same, 1.0 if value == 0 else 0.0, method)
    test = stats.ttest_ind(logs[1], logs[0], equal_var=False)
    ends = test.confidence_interval(CONFIDENCE)
    interval = Interval(math.expm1(float(ends.low)), math.expm1(float(ends.high)))
    return Difference(math.expm1(value), interval, float(test.pvalue), method)


# --- power ---------------------------------------------------------------------------------------------------------


def sample_size(power: Any, effect: float, **further: float) -> float:
    """Return the sample size by a power class of statsmodels: 0 for an effect size above 4, infinite below 0.001."""
    if effect > 4:  # statsmodels finds no root below its smallest size
        return 0.0
    if effect < 1e-3:
        return math.inf
    return float(np.squeeze(power.solve_power(effect_size=effect, alpha=ALPHA, power=POWER, **further)))


def needed_of(number: float, have: int, of: What) -> Needed | None:
    """Return the number, at least one more than there are; None where it is above ten million."""
    return Needed(math.ceil(max(number, have + 1)), of) if number <= _MOST_NEEDED else None


# --- several costs -------------------------------------------------------------------------------------------------


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, gain) that no other one equals or betters in both and exceeds in one, by cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front
