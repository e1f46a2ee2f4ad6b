"""The phases of a command, one after the other: where its time went. Their seconds sum to the whole."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable

import psutil

from bench.spec import Record

OTHER = "handing over, saving, waiting for CPUs"
"""The phase for the rest of a run's time, in none of the phases that its record names."""


class Phases:
    """A clock with named phases. Each moment since the process began belongs to exactly one."""

    def __init__(self, first: str) -> None:
        """Begin with the phase ``first``, which began with the process."""
        self._began = self._since = psutil.Process().create_time()
        self._name = first
        self.spans: list[tuple[str, float, float]] = []
        """(phase, start, end) in seconds since the epoch, in order."""

    def enter(self, name: str) -> None:
        """End the current phase and begin this one."""
        now = time.time()
        self.spans.append((self._name, self._since, now))
        self._name, self._since = name, now

    @property
    def total(self) -> float:
        """Return the seconds from the start of the process to the last call of :meth:`enter`."""
        return self._since - self._began


def within_runs(records: Iterable[Record], start: float, end: float) -> dict[str, float]:
    """Return how the seconds from ``start`` to ``end`` (since the epoch) divide among the phases of the runs' records.

    Runs that go on at the same time share it equally, so that the sum is the interval's length; time without any run is
    'waiting for workers'.
    """
    spans = [
        (max(start, record.started_at.timestamp()), min(end, record.ended_at.timestamp()), _parts(record))
        for record in records
    ]
    spans = [span for span in spans if span[1] > span[0]]
    seconds: dict[str, float] = {}
    moments = sorted({start, end, *(moment for span in spans for moment in span[:2])})
    for begin, stop in itertools.pairwise(moments):
        active = [parts for first, last, parts in spans if first <= begin and stop <= last]
        if not active:
            seconds["waiting for workers"] = seconds.get("waiting for workers", 0.0) + stop - begin
        for parts in active:
            for name, share in parts.items():
                seconds[name] = seconds.get(name, 0.0) + (stop - begin) * share / len(active)
    return seconds


def _parts(record: Record) -> dict[str, float]:
    """Return the shares of a run's time by phase, 1 in all."""
    whole = (record.ended_at - record.started_at).total_seconds()
    features = record.feature_seconds or 0.0
    named = {
        "building the model": record.setup_seconds or 0.0,
        "features of the frozen backbone": features,
        "training": (record.train_seconds or 0.0) - features,
        "evaluating": (record.test_seconds or 0.0) + (record.validation_seconds or 0.0),
    }
    total = sum(named.values())
    scale = max(whole, total) or 1.0
    return {**{name: seconds / scale for name, seconds in named.items()}, OTHER: (scale - total) / scale}
