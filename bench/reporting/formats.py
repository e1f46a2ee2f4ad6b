"""Figures as text, with their units."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from bench.reporting.stats import Interval

_MOST_LISTED = 10
"""The most seeds that are listed one by one."""

MISSING = "-"
"""The text of a cell whose value is not known."""


def percent(share: float) -> str:
    """Return 0.98764 as '98.76 %'."""
    return f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Return seconds as '12.3 s', '4 min 05 s' or '1 h 02 min'."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: float) -> str:
    """Return a number without decimals, its thousands separated: '1,079'."""
    return f"{number:,.0f}"


def megabytes(number: float) -> str:
    """Return a number of 10^6 bytes as '1,079 MB'."""
    return f"{number:,.0f} MB"


def file_size(size: float) -> str:
    """Return bytes as '0.91 MB', '19.3 MB' or '345 MB'."""
    number = size / 1e6
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2}f} MB"


def per_second(number: float) -> str:
    """Return a throughput as '1,600 images/s'."""
    return f"{number:,.0f} images/s"


def joules(number: float) -> str:
    """Return an energy with at least three digits: '0.123 J', '12.3 J', '1,234 J'."""
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3}f} J"


def milliseconds(seconds: float) -> str:
    """Return seconds as milliseconds with at least three digits: '0.512 ms', '12.3 ms', '1,234 ms'."""
    number = 1000 * seconds
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3}f} ms"


def counted(number: int, what: str) -> str:
    """Return a number with its noun: '1 trial', '2 trials'."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def seed_list(seeds: Sequence[int]) -> str:
    """Return seeds in words: '0 1 7'; of many only the number, the first and the last: '3,407, from 0 to 3406'."""
    few = " ".join(map(str, seeds))
    return few if len(seeds) <= _MOST_LISTED else f"{len(seeds):,}, from {seeds[0]} to {seeds[-1]}"


def part_of(sizes: Iterable[int], whole: int) -> str:
    """Return how many of ``whole`` images are used: '4,000', or '500 of 4,000', or '300 to 1,000 of 4,000'."""
    used = sorted({*sizes} or {whole})
    if used == [whole]:
        return f"{whole:,}"
    return f"{used[0]:,}{f' to {used[-1]:,}' if len(used) > 1 else ''} of {whole:,}"


def points(share: float) -> str:
    """Return a difference of shares in percentage points: '+0.12 points'."""
    return f"{100 * share:+.2f} points"


def p_value(p: float) -> str:
    """Return 'p = 0.0569' or 'p < 0.0001'."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"


def brackets(interval: Interval) -> str:
    """Return an interval of a share as '[97.26, 99.74]', in percent."""
    # an interval that is symmetric about the mean may reach below 0 or above 1
    return f"[{100 * max(interval.low, 0):.2f}, {100 * min(interval.high, 1):.2f}]"


def mean_and_range(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Return '12.3 s (11.9 s to 12.8 s)'; without the range where all values look alike."""
    mean = show(sum(values) / len(values))
    if len(values) == 1 or show(min(values)) == show(max(values)):
        return mean
    return f"{mean} ({show(min(values))} to {show(max(values))})"


def without_html(page: str) -> str:
    """Return a page of Markdown whose names and reasons cannot hold HTML: Markdown passes tags on as they are."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", page)


def one_line(text: str) -> str:
    """Return the text with line breaks and runs of blanks as single blanks, so that it stays in its cell or item."""
    return " ".join(text.split())
