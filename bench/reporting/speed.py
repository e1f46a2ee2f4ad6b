"""Timed samples as figures: images per second, latencies, which of them were taken alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bench.reporting.stats import Session, percentiles
from bench.spec import Record, Timing

if TYPE_CHECKING:  # who draws plots needs no pyarrow
    from bench.reporting.store import Store

MOST_TIMED = 20
"""So many runs of one job, the first timed ones by seed, are looked at."""


@dataclass(frozen=True)
class Speed:
    """What one job took, in one way of using it, on one kind of device."""

    kind: Literal["training", "inference"]
    batch_size: int
    """Images at once."""
    device: str
    """'cpu' or the GPU's name."""
    threads: int
    """CPU threads computed with."""
    precision: str
    """fp32 or bf16."""
    sessions: tuple[Session, ...]
    """Seconds of each sample, by block, by run. Where some blocks were taken alone, only those."""
    yardsticks: tuple[NDArray[np.float64], ...] | None
    """Seconds of the yardstick beside each block of each session; None where it was not timed, in earlier versions."""
    contended: bool
    """No block was taken alone: the figures are not for ranking."""
    peak_memory_mb: float | None
    """The highest of all blocks, 10^6 bytes."""

    @property
    def machine(self) -> str:
        """What computed, in words: two speeds are only compared where this is the same."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"{'CPU' if self.device == 'cpu' else self.device}, {threads}"

    @property
    def seconds(self) -> NDArray[np.float64]:
        """All samples."""
        return np.concatenate([block for session in self.sessions for block in session])

    @property
    def images_per_second(self) -> float:
        """From the median sample."""
        return self.batch_size / float(np.median(self.seconds))

    @property
    def latency(self) -> dict[str, float | None]:
        """'p50', 'p95' and 'p99' in seconds; p99 is None below 100 samples."""
        return percentiles(self.seconds)

    @property
    def yardstick_seconds(self) -> float | None:
        """Median over the blocks."""
        return None if self.yardsticks is None else float(np.median(np.concatenate(self.yardsticks)))

    def in_yardsticks(self) -> list[Session] | None:
        """The sessions with the yardstick beside each block as the unit of time; None where it was not timed."""
        if self.yardsticks is None:
            return None
        pairs = zip(self.sessions, self.yardsticks, strict=True)
        return [[block / unit for block, unit in zip(session, units, strict=True)] for session, units in pairs]


@dataclass(frozen=True)
class Speeds:
    """The three ways in which a job is timed; None where it was not."""

    training: Speed | None = None
    """Training steps."""
    single: Speed | None = None
    """Answers to one image."""
    batches: Speed | None = None
    """Answers to the largest batch."""

    def all(self) -> list[Speed]:
        """Those that were timed."""
        return [speed for speed in (self.training, self.single, self.batches) if speed is not None]

    @property
    def contended(self) -> bool:
        """Whether any of them is not for ranking."""
        return any(speed.contended for speed in self.all())

    @property
    def known(self) -> bool:
        """Whether any of them was timed."""
        return bool(self.all())


def speeds_of(store: Store, records: Sequence[Record], timed: set[str]) -> Speeds:
    """How fast the runs of one job are.

    Where they were timed on several devices, or with several numbers of threads, it is the last of these that counts.

    Args:
        store: the results folder.
        records: the finished runs of the job.
        timed: what :meth:`Store.timed` says, asked once for many jobs.
    """
    runs = [record.run_id for record in records if record.run_id in timed][:MOST_TIMED]
    return summarise([store.timings(run_id) for run_id in runs])


def summarise(runs: Iterable[Sequence[Timing]]) -> Speeds:
    """The samples of each run of one job as figures."""
    taken: dict[tuple[str, int], dict[tuple[str, int, str], dict[str, list[Timing]]]] = {}
    for sample in itertools.chain.from_iterable(runs):
        machines = taken.setdefault((sample.kind, sample.batch_size), {})
        sessions = machines.setdefault((sample.device, sample.threads, sample.precision), {})
        sessions.setdefault(sample.run_id, []).append(sample)
    found = {}
    for way, machines in taken.items():
        last = max(machines.values(), key=_last_moment)
        found[way] = _speed(list(last.values()))
    training = [speed for (kind, _), speed in sorted(found.items()) if kind == "training"]
    batches = [speed for (kind, size), speed in sorted(found.items()) if kind == "inference" and size > 1]
    return Speeds(
        training=training[-1] if training else None,
        single=found.get(("inference", 1)),
        batches=batches[-1] if batches else None,
    )


def _last_moment(sessions: dict[str, list[Timing]]) -> datetime:
    return max(sample.measured_at for taken in sessions.values() for sample in taken)


def _speed(runs: Sequence[Sequence[Timing]]) -> Speed:
    contended = all(sample.contended for taken in runs for sample in taken)
    sessions, yardsticks = [], []
    for taken in runs:
        chosen = [sample for sample in taken if contended or not sample.contended]
        chosen.sort(key=lambda sample: (sample.measured_at, sample.sample))
        blocks = [list(block) for _, block in itertools.groupby(chosen, key=lambda sample: sample.measured_at)]
        if blocks:
            sessions.append([np.array([sample.seconds for sample in block]) for block in blocks])
            yardsticks.append(np.array([block[0].yardstick_seconds for block in blocks], np.float64))
    first = runs[0][0]
    memory = [sample.peak_memory_mb for taken in runs for sample in taken if sample.peak_memory_mb is not None]
    return Speed(
        kind=first.kind,
        batch_size=first.batch_size,
        device=first.device,
        threads=first.threads,
        precision=first.precision,
        sessions=tuple(sessions),
        yardsticks=None if any(np.isnan(units).any() for units in yardsticks) else tuple(yardsticks),
        contended=contended,
        peak_memory_mb=max(memory, default=None),
    )
