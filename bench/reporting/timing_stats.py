"""The comparison of two timings, whose samples are not independent of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.reporting.stats import FEWEST_SEEDS, Difference, Interval, by_t, needed_of, sample_size

SESSION_TO_SESSION = 0.1
"""The relative standard deviation of a timing from one session to the next, beyond what the samples of one session
show. Its causes are the clock rate, the memory layout, and above all other work on the same host."""
RELATIVE_SESSION_TO_SESSION = 0.02
"""The same for timings in units of the reference step beside them. Measured with experiments/speed/sessions.py: eleven
sessions of both built-in models on two cores of a shared host differed by 19 to 22 % in seconds and by 1.2 to 3.9 % in
reference steps; this is the part that the samples of one session do not show."""
FEWEST_BLOCKS = 3
"""The fewest blocks of a timing that are resampled whole; fewer are cut into parts."""
_PARTS = 10
"""The most parts of consecutive samples that a block is cut into."""
_RESAMPLES = 499
"""The number of bootstrap samples."""
Session = Sequence[NDArray[np.float64]]
"""The blocks of samples of one timing: the samples of a block directly follow each other, the blocks need not."""


def timings_difference(
    first: Sequence[Session],
    second: Sequence[Session],
    *,
    percentile: float = 50,
    session_to_session: float = SESSION_TO_SESSION,
) -> Difference | None:
    """Return the relative increase from the first's median (or other percentile) to the second's; None without samples.

    Samples that follow each other are alike, and one session as a whole is faster or slower than the next, so the
    number of samples says little. With at least three sessions of each, the sessions' percentiles are compared by
    Welch's test, on a logarithmic scale. With fewer, whole blocks are resampled (bootstrap). Both add the variance of
    ``session_to_session``, which the samples of one session do not show.

    Args:
        first: sessions, in any unit above 0: seconds, or images per second.
        second: the same for the second.
        percentile: 50 for the median.
        session_to_session: relative standard deviation from one session to the next.
    """
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
    logs_interval, p = by_t(value, variance, variance**2 / max(by_freedom, variance**2 / 1e6))
    interval = Interval(math.expm1(logs_interval.low), math.expm1(logs_interval.high))
    needed = None
    if value:
        from statsmodels.stats.power import TTestIndPower

        deviation = math.sqrt(variance / (1 / len(sides[0]) + 1 / len(sides[1])))
        have = max(*map(len, sides), FEWEST_SEEDS - 1)
        needed = needed_of(sample_size(TTestIndPower(), abs(value) / deviation), have, "timed sessions of each")
    return Difference(math.expm1(value), interval, p, method, needed)


def block_variance(sessions: Sequence[Session], percentile: float) -> tuple[float, int]:
    """Return (variance of the logarithm of the percentile, degrees of freedom), by the bootstrap over blocks.

    The random numbers are always the same. Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 6.
    """
    blocks = [block for session in sessions for block in session]
    if len(blocks) < FEWEST_BLOCKS:
        blocks = [part for block in blocks for part in np.array_split(block, min(_PARTS, len(block)))]
    length = min(map(len, blocks))
    table = np.stack([block[:length] for block in blocks])
    if len(table) < 2 or np.ptp(table) == 0:
        return 0.0, 1
    chosen = np.random.default_rng(0).integers(0, len(table), (_RESAMPLES, len(table)))
    resampled = np.log(np.percentile(table[chosen].reshape(_RESAMPLES, -1), percentile, axis=1))
    small = len(table) / (len(table) - 1)  # a bootstrap of few blocks underestimates the variance by this factor
    return float(resampled.std(ddof=1)) ** 2 * small, len(table) - 1
