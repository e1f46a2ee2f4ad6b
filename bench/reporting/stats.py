"""Intervals, tests and power: statsmodels and scipy, asked the questions that a benchmark has.

Differences are always second minus first. scipy and statsmodels take a second to import and are imported when first
needed, so that commands start fast.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from bench.spec import Predictions

CONFIDENCE = 0.95
"""The confidence level of every interval."""
ALPHA = 1 - CONFIDENCE
"""The p below which two things are called different."""
POWER = 0.8
"""The chance to see a difference of the observed size that :class:`Needed` is computed for."""
FEWEST_SEEDS = 3
"""The fewest seeds that say anything useful about a recipe's spread."""
CALIBRATION_BINS = 15
"""The number of bins, as in Guo et al., 2017."""
FEWEST_FOR_P99 = 100
"""The fewest samples of which the 99th percentile is given."""
SESSION_TO_SESSION = 0.1
"""The relative standard deviation of a timing from one session to the next that the samples within one session cannot
show; its causes are clock, memory layout, and above all neighbours on the same host."""
RELATIVE_SESSION_TO_SESSION = 0.02
"""The same for timings in units of the reference step beside them. Measured with experiments/speed/sessions.py: eleven
sessions of both built-in models on two cores of a shared host differed by 19 to 22 % in seconds and by 1.2 to 3.9 % in
reference steps; this is the part of it that the samples of one session do not show."""
FEWEST_BLOCKS = 3
"""The fewest blocks of a timing that are resampled whole; fewer are cut into parts."""
_PARTS = 10
"""The most parts of consecutive samples that a block is cut into."""
_RESAMPLES = 499
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
    """The seeds, images or sessions it takes to see a difference of the observed size four times out of five."""

    number: int
    of: What


@dataclass(frozen=True)
class Difference:
    """A difference, second minus first; of timings and memory, second over first minus one."""

    value: float
    interval: Interval | None
    """The 95 % interval; None where it cannot be known."""
    p: float | None
    """The two-sided p of no difference; None where it cannot be known."""
    method: str
    """The test, in words."""
    needed: Needed | None = None
    """What it takes to see the difference; None where it is zero or no number within reach is enough."""

    @property
    def distinguishable(self) -> bool:
        """Return whether the difference is more than chance."""
        return self.p is not None and self.p < ALPHA


# --- one model -----------------------------------------------------------------------------------------------------


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return Student's t-interval of the mean over seeds, in the values' unit; None below three values."""
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
    """Return Wilson's interval of a checkpoint's accuracy over the test images, in shares; NaN without images."""
    from statsmodels.stats.proportion import proportion_confint

    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = proportion_confint(np.int64(right), np.int64(images), alpha=ALPHA, method="wilson")
    return Interval(float(low), float(high))


def confusion(labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Count how often each class was taken for each: int64 [true class, predicted class]."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels.astype(np.int64), predicted.astype(np.int64)), 1)
    return table


def calibration_error(predictions: Predictions, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy, bins weighted by images.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3: bins of equal width, open below.
    """
    confidence = predictions.probability.astype(np.float64)
    right = predictions.labels == predictions.predicted
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(number, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(right))


def percentiles(seconds: Sequence[float] | NDArray[np.float64]) -> dict[str, float | None]:
    """Return 'p50', 'p95' and 'p99' of timed samples in their unit; all None without samples, p99 below 100."""
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

    The interval covers two others. The first is Student's, of the differences image by image. The second is that of
    Clopper and Pearson for the second checkpoint's share of the images that only one of the two classified right; it is
    the inverse of the exact test, so that the interval is clear of zero where p is below 0.05.
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
    """Return the images McNemar's test needs if ``apart`` of ``images`` decide, a ``share`` of them for the second."""
    from statsmodels.stats.power import NormalIndPower
    from statsmodels.stats.proportion import proportion_effectsize

    effect = abs(float(proportion_effectsize(share, 0.5)))
    wanted = _solved(NormalIndPower(), effect, ratio=0) if effect else math.inf
    return _needed(max(wanted, 6.0) * images / apart, images, "test images")  # fewer than 6 never give p < 0.05


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values: by chance, any of them is below 0.05 in at most 5 % of cases."""
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
    """Images classified right, shape [seeds, images], seeds in the order of ``accuracies``; None if not stored."""


def recipes_difference(first: Seeds, second: Seeds) -> Difference | None:
    """Return how much more accurate the second recipe is on average, as a share; None below three seeds of either.

    Seeds come first: paired where both recipes have the same ones, else by Welch's test. Images come second, where it
    is stored which were classified right, since other test images would have given another difference. Seeds and images
    are crossed random effects, so the variance of the mean difference is that of the seeds plus that of the images
    minus that of their interaction, which is part of both (Brennan, Generalizability Theory, 2001, section 4.2, for one
    facet). The degrees of freedom are those of Welch and Satterthwaite.
    """
    from scipy import stats

    counts = len(first.accuracies), len(second.accuracies)
    if min(counts) < FEWEST_SEEDS:
        return None
    paired = set(first.accuracies) == set(second.accuracies)
    order = list(first.accuracies)
    ones = np.array(list(first.accuracies.values()))
    others = np.array([second.accuracies[seed] for seed in order] if paired else list(second.accuracies.values()))
    value = float(others.mean() - ones.mean())
    spreads = [others - ones] if paired else [ones, others]
    # (variance of the mean, degrees of freedom) of each random effect
    parts = [(float(spread.var(ddof=1)) / len(spread), len(spread) - 1) for spread in spreads]
    over_seeds = sum(variance for variance, _ in parts)
    over_images = twice = 0.0
    images = 0
    method = "paired t-test over the seeds" if paired else "Welch's t-test over the seeds"
    if first.right is not None and second.right is not None and first.right.shape[1] == second.right.shape[1]:
        images = first.right.shape[1]
        if paired:
            rows = [list(second.accuracies).index(seed) for seed in order]
            answers = [second.right[rows].astype(np.float64) - first.right]
            per_image = answers[0].mean(axis=0)
        else:
            answers = [first.right.astype(np.float64), second.right.astype(np.float64)]
            per_image = answers[1].mean(axis=0) - answers[0].mean(axis=0)
        over_images = float(per_image.var(ddof=1)) / images
        twice = sum(_interaction(table) for table in answers)
        parts.append((over_images, images - 1))
        method += ", then over the test images"
    variance = max(over_seeds + over_images - twice, over_seeds, over_images)
    if variance < 1e-18:  # every seed gave the same
        return Difference(value, Interval(value, value), 1.0 if abs(value) < 1e-12 else 0.0, method)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    spread = stats.t(df=max(freedom, min(degrees for _, degrees in parts)), scale=math.sqrt(variance))
    reach = float(spread.ppf(1 - ALPHA / 2))
    p = float(2 * spread.sf(abs(value)))
    needed = _for_recipes(value, spreads, max(over_images - twice, 0.0), images)
    return Difference(value, Interval(value - reach, value + reach), p, method, needed)


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
    """Return the seeds that would be enough or, where no number of seeds is, the images."""
    from scipy import stats
    from statsmodels.stats.power import TTestIndPower, TTestPower

    if value == 0:
        return None
    together = float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER))
    remaining = value**2 - together**2 * over_images
    if remaining <= 0:
        wanted = 2 * images * together**2 * over_images / value**2  # half of the variance is for the seeds
        return _needed(wanted, images, "test images")
    deviation = math.sqrt(float(np.mean([spread.var(ddof=1) for spread in spreads])))
    if deviation == 0:
        return None
    power = TTestPower() if len(spreads) == 1 else TTestIndPower()
    have = min(map(len, spreads))
    return _needed(_solved(power, math.sqrt(remaining) / deviation), max(have, FEWEST_SEEDS - 1), "seeds of each")


def means_difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Return how much larger the second's geometric mean is, relative to the first's (Welch); None below three values.

    Args:
        first: figures above 0, one for each run.
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


# --- timings -------------------------------------------------------------------------------------------------------

Session = Sequence[NDArray[np.float64]]
"""Blocks of samples of one timing: samples of a block follow each other, other work may be done between blocks."""


def timings_difference(
    first: Sequence[Session],
    second: Sequence[Session],
    *,
    percentile: float = 50,
    session_to_session: float = SESSION_TO_SESSION,
) -> Difference | None:
    """Return the relative increase from the first's median (or other percentile) to the second's; None without samples.

    Samples that follow each other are alike, and one session as a whole is faster or slower than the next, so the
    number of samples does not decide. With at least three sessions of each, the sessions' percentiles are compared by
    Welch's test, on a logarithmic scale. With fewer, whole blocks are resampled (:func:`scipy.stats.bootstrap`, always
    with the same random numbers). Both add the variance of ``session_to_session``, which no session shows by itself.

    Args:
        first: sessions, in any unit above 0: seconds, or images per second.
        second: the same for the second.
        percentile: 50 for the median.
        session_to_session: relative standard deviation from one session to the next.
    """
    from scipy import stats

    sides = [[kept for session in side if (kept := [b for b in session if len(b)])] for side in (first, second)]
    if not all(sides):
        return None
    pooled = [np.concatenate([block for session in side for block in session]) for side in sides]
    middles = [float(np.percentile(samples, percentile)) for samples in pooled]
    if min(middles) <= 0:
        return None
    value = math.log(middles[1] / middles[0])
    if min(map(len, sides)) >= FEWEST_SEEDS:
        each = [np.log([np.percentile(np.concatenate(session), percentile) for session in side]) for side in sides]
        parts = [(float(logs.var(ddof=1)) / len(logs), len(logs) - 1) for logs in each]
        method = f"Welch's t-test over {len(sides[0])} and {len(sides[1])} timed sessions"
    else:
        parts = [block_variance(side, percentile) for side in sides]
        method = "bootstrap over blocks of samples"
    variance = sum(part for part, _ in parts) + sum(session_to_session**2 / len(side) for side in sides)
    by_freedom = sum(part**2 / degrees for part, degrees in parts)
    spread = stats.t(df=variance**2 / max(by_freedom, variance**2 / 1e6), scale=math.sqrt(variance))
    reach = float(spread.ppf(1 - ALPHA / 2))
    interval = Interval(math.expm1(value - reach), math.expm1(value + reach))
    needed = None
    if value:
        from statsmodels.stats.power import TTestIndPower

        deviation = math.sqrt(variance / (1 / len(sides[0]) + 1 / len(sides[1])))
        have = max(*map(len, sides), FEWEST_SEEDS - 1)
        needed = _needed(_solved(TTestIndPower(), abs(value) / deviation), have, "timed sessions of each")
    return Difference(math.expm1(value), interval, float(2 * spread.sf(abs(value))), method, needed)


def block_variance(sessions: Sequence[Session], percentile: float) -> tuple[float, int]:
    """Return (variance of the logarithm of the percentile, degrees of freedom), from resampling blocks of samples."""
    from scipy import stats

    blocks = [block for session in sessions for block in session]
    if len(blocks) < FEWEST_BLOCKS:
        blocks = [part for block in blocks for part in np.array_split(block, min(_PARTS, len(block)))]
    length = min(map(len, blocks))
    table = np.stack([block[:length] for block in blocks])
    if len(table) < 2 or np.ptp(table) == 0:
        return 0.0, 1

    def statistic(chosen: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        samples = table[chosen].reshape(*chosen.shape[:-1], -1)
        return cast(NDArray[np.float64], np.log(np.percentile(samples, percentile, axis=axis)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        resampled = stats.bootstrap(
            (np.arange(len(table)),),
            statistic,
            n_resamples=_RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(0),
        )
    small = len(table) / (len(table) - 1)  # a bootstrap of few blocks underestimates the variance by this factor
    return float(resampled.standard_error) ** 2 * small, len(table) - 1


# --- power ---------------------------------------------------------------------------------------------------------


def _solved(power: Any, effect: float, **further: float) -> float:
    """Return the sample size from a power class of statsmodels: 0 for an effect above 4, infinite below 0.001."""
    if effect > 4:  # statsmodels finds no root below its smallest size
        return 0.0
    if effect < 1e-3:
        return math.inf
    return float(np.squeeze(power.solve_power(effect_size=effect, alpha=ALPHA, power=POWER, **further)))


def _needed(
    number: float, have: int, of: Literal["seeds of each", "test images", "timed sessions of each"]
) -> Needed | None:
    return Needed(math.ceil(max(number, have + 1)), of) if number <= _MOST_NEEDED else None
