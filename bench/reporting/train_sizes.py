"""Accuracy against the number of training images: a curve for each model, and where two curves cross."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.reporting.entries import Comparison, Entry, comparisons, trained_on
from bench.reporting.formats import count
from bench.reporting.groups import grouped
from bench.reporting.stats import FEWEST_SEEDS, Interval, mean_interval
from bench.spec import Recipe, Record

MOST_PAIRS = 6
"""The most pairs of curves that are told about."""

Curve = Mapping[int, Mapping[int, float]]
"""Test accuracy (a share) by number of training images, then by seed."""


def curves(entries: Sequence[Entry]) -> list[Entry]:
    """Return a curve for each group of jobs on one data set that differ in the number of training images.

    A curve has the finished runs of all sizes. Epochs and batch size may differ along it if all runs of one size have
    the same; nothing else of the recipe does.
    """
    records = [record for entry in entries for record in entry.records]
    if len({record.train_size for record in records}) < 2:
        return []
    groups: dict[str, list[Record]] = {}
    for group_id, group in _by(records, other_than=("train_size", "epochs", "batch_size")).items():
        jobs = {(trained_on(record), record.job_id) for record in group}
        if len(jobs) == len({size for size, _ in jobs}):
            groups[group_id] = group
        else:
            groups |= _by(group, other_than=("train_size",))
    runs = []
    for group_id, group in groups.items():
        if len({trained_on(record) for record in group}) > 1:  # without a size, so that no label names it
            runs += [record.model_copy(update={"job_id": group_id, "train_size": None}) for record in group]
    return [entry for comparison in comparisons(runs) for entry in comparison.entries]


def _by(records: Sequence[Record], *, other_than: Sequence[str]) -> dict[str, list[Record]]:
    """Return groups of records that agree in all that makes a job except these fields, by a digest of the rest."""
    same = [name for name in Recipe.model_fields if name not in other_than]
    same += ["model", "workers", "weights_sha256", "plugin_sha256"]

    def key(record: Record) -> str:
        about = repr([getattr(record, name) for name in same])
        return hashlib.sha256(about.encode()).hexdigest()[:8]

    return grouped(records, key)


@dataclass(frozen=True)
class Crossing:
    """How two curves lie to each other, over the sizes and seeds that both have."""

    sizes: tuple[int, ...]
    seeds: int
    differences: tuple[float, ...]
    """Mean accuracy of the first less that of the second at each size, a share."""
    apart: bool
    """Whether the interval of the difference excludes zero at every size."""
    at: float | None
    """The number of images at which the curves of the means cross; None if they do not, or several times."""
    interval: Interval | None
    """The 95 % interval of that number; None with fewer than three seeds, or if a seed's curves do not cross once."""

    @property
    def changes(self) -> int:
        """Return how often the better curve changes."""
        signs = [difference > 0 for difference in self.differences if difference != 0]
        return sum(first != second for first, second in itertools.pairwise(signs))


def crossing(first: Curve, second: Curve) -> Crossing | None:
    """Return how two curves lie to each other; None if they share fewer than two sizes, or no seed.

    Between two sizes, accuracy is taken to be linear in the logarithm of the number of images. Each seed, whose models
    were trained on the same images, has a crossing of its own; the interval is Student's t of their logarithms.
    """
    sizes = tuple(sorted(first.keys() & second.keys()))
    seeds = (
        sorted(set.intersection(*(set(curve[size]) for size in sizes for curve in (first, second)))) if sizes else []
    )
    if len(sizes) < 2 or not seeds:
        return None
    differences = {size: [first[size][seed] - second[size][seed] for seed in seeds] for size in sizes}
    means = [fmean(differences[size]) for size in sizes]
    intervals = [mean_interval(differences[size]) for size in sizes]
    apart = all(interval is not None and (interval.low > 0 or interval.high < 0) for interval in intervals)
    logs = [_zeros(sizes, [differences[size][number] for size in sizes]) for number in range(len(seeds))]
    interval = mean_interval([zeros[0] for zeros in logs]) if all(len(zeros) == 1 for zeros in logs) else None
    zeros = _zeros(sizes, means)
    return Crossing(
        sizes=sizes,
        seeds=len(seeds),
        differences=tuple(means),
        apart=apart,
        at=math.exp(zeros[0]) if len(zeros) == 1 else None,
        interval=None if interval is None else Interval(math.exp(interval.low), math.exp(interval.high)),
    )


def _zeros(sizes: Sequence[int], differences: Sequence[float]) -> list[float]:
    """Return the logarithms of the sizes at which the differences, interpolated, change their sign."""
    points = [(math.log(size), value) for size, value in zip(sizes, differences, strict=True) if value != 0]
    return [x + (y - x) * a / (a - b) for (x, a), (y, b) in itertools.pairwise(points) if (a > 0) != (b > 0)]


def crossing_sentences(comparison: Comparison) -> list[str]:
    """Return a sentence for each pair of curves: which is better, or where they cross."""
    lines = curves(comparison.entries)
    pairs = itertools.islice(itertools.combinations(lines, 2), MOST_PAIRS)
    return [sentence for first, second in pairs for sentence in _sentence(first, second)]


def _sentence(first: Entry, second: Entry) -> Iterator[str]:
    found = crossing(_curve(first), _curve(second))
    if found is None:
        return
    few, many = (first, second) if found.differences[0] > 0 else (second, first)
    span = f"from {count(found.sizes[0])} to {count(found.sizes[-1])} training images"
    of = f"{found.seeds} {'seed' if found.seeds == 1 else 'seeds'} each"
    if found.changes == 0:
        sure = "" if found.apart else ", though not distinguishably at each of them"
        yield f"{few.label} is better than {many.label} at every size tried, {span}{sure}: no crossing ({of})."
    elif found.at is None:
        yield f"{first.label} and {second.label} cross {found.changes} times {span} ({of})."
    else:
        reach = "too few seeds for an interval" if found.seeds < FEWEST_SEEDS else "not every seed's curves cross once"
        if found.interval is not None:
            low, high = (_rounded(bound) for bound in (found.interval.low, found.interval.high))
            reach = f"95 % interval {low} to {high}"
        yield (
            f"With few training images {few.label} is better, with many {many.label}: they cross at about "
            f"{_rounded(found.at)} images ({reach}; {of}, {span})."
        )


def _rounded(images: float) -> str:
    """Return a number of images with two significant digits."""
    digits = max(0, math.floor(math.log10(max(images, 1))) - 1)
    return count(round(images / 10**digits) * 10**digits)


def _curve(entry: Entry) -> Curve:
    sizes = grouped(entry.records, trained_on)
    return {
        size: {record.seed: record.test_accuracy for record in records if record.test_accuracy is not None}
        for size, records in sizes.items()
    }
