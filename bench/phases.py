"""Where the time of a command goes: one phase after the other, so that together they are the whole."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from datetime import datetime

import psutil

from bench.spec import Record

OTHER = "handing over, saving, waiting for CPUs"
"""What of a run is none of the phases that its record names."""


class Phases:
    """A clock with named phases. Each moment since the process began belongs to exactly one."""

    def __init__(self, first: str) -> None:
        """The phase ``first`` has been going on since the process began."""
        self._began = self._since = psutil.Process().create_time()
        self._name = first
        self.spans: list[tuple[str, float, float]] = []
        """(phase, start, end) in seconds since the epoch, in order."""

    def enter(self, name: str) -> None:
        """The phase before ends, this one begins."""
        now = time.time()
        self.spans.append((self._name, self._since, now))
        self._name, self._since = name, now

    @property
    def total(self) -> float:
        """Seconds from the start of the process to the last call of :meth:`enter`."""
        return self._since - self._began


def within_runs(records: Iterable[Record], start: float, end: float) -> dict[str, float]:
    """How the seconds from ``start`` to ``end`` (since the epoch) divide among what the runs' records name.

    Where several runs go on at the same time each counts for its part of the moment, so that the sum is the interval's
    length; moments without any run are 'waiting for workers'.
    """
    spans = [
        (max(start, _seconds(record.started_at)), min(end, _seconds(record.ended_at)), _parts(record))
        for record in records
    ]
    spans = [span for span in spans if span[1] > span[0]]
    found: dict[str, float] = {}
    moments = sorted({start, end, *(moment for span in spans for moment in span[:2])})
    for left, right in itertools.pairwise(moments):
        active = [parts for first, last, parts in spans if first <= left and right <= last]
        if not active:
            found["waiting for workers"] = found.get("waiting for workers", 0.0) + right - left
        for parts in active:
            for name, share in parts.items():
                found[name] = found.get(name, 0.0) + (right - left) * share / len(active)
    return found


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def _parts(record: Record) -> dict[str, float]:
    """Shares of a run's time, 1 in all."""
    whole = (record.ended_at - record.started_at).total_seconds()
    features = record.feature_seconds or 0.0
    named = {
        "building the model": record.setup_seconds or 0.0,
        "features of the frozen backbone": features,
        "training": (record.train_seconds or 0.0) - features,
        "evaluating": (record.test_seconds or 0.0) + (record.validation_seconds or 0.0),
    }
    known = sum(named.values())
    scale = max(whole, known) or 1.0
    return {**{name: seconds / scale for name, seconds in named.items()}, OTHER: (scale - known) / scale}
