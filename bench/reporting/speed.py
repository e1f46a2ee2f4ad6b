"""Timed samples as figures: images per second and latencies, and whether they were taken alone."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bench.reporting.formats import counted
from bench.reporting.groups import grouped
from bench.reporting.stats import percentiles
from bench.reporting.timing_stats import Session
from bench.spec import BEFORE_BACKENDS, Record, Timing

if TYPE_CHECKING:  # drawing plots does not need pyarrow
    from bench.reporting.store import Store

MOST_TIMED = 20
"""The most timed runs of one job that are read: the first ones by seed."""
EAGER = "eager"

Kind = Literal["training", "extraction", "head", "inference"]


@dataclass(frozen=True)
class Speed:
    """The timings of one job, of one kind, on one kind of device."""

    kind: Kind
    backend: str
    batch_size: int
    """The number of images at once."""
    device: str
    """'cpu' or the GPU's name."""
    cpu: str | None
    """The processor's name; None if it was not stored, as in earlier versions."""
    threads: int
    """The number of CPU threads that computed."""
    precision: str
    """fp32, bf16 or int8."""
    sessions: tuple[Session, ...]
    """Seconds of each sample, by block, by run; only of the blocks that were timed alone, if there are any."""
    references: tuple[NDArray[np.float64], ...] | None
    """Seconds of the reference step beside each block, by run, shape [blocks] each; None if it was not timed, as in
    earlier versions."""
    contended: bool
    """Whether other work ran beside every block: then the figures are not for ranking."""
    peak_memory_mb: float | None
    """The highest peak memory of all blocks, 10^6 bytes."""
    joules_per_image: float | None = None
    """The energy to answer one image, the mean over the runs; None if nothing counted it."""

    @property
    def machine(self) -> str:
        """Return the device and threads in words; two speeds are compared only if these are the same."""
        return f"{'CPU' if self.device == 'cpu' else self.device}, {counted(self.threads, 'thread')}"

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Return the seconds of all samples, shape [samples]."""
        return np.concatenate([block for session in self.sessions for block in session])

    @property
    def images_per_second(self) -> float:
        """Return the throughput from the median sample."""
        return self.batch_size / float(np.median(self.seconds))

    @property
    def latency(self) -> dict[str, float | None]:
        """Return 'p50', 'p95' and 'p99' in seconds; p99 is None below 100 samples."""
        return percentiles(self.seconds)

    @property
    def reference_seconds(self) -> float | None:
        """Return the median of the reference step over the blocks, in seconds; None if it was not timed."""
        return None if self.references is None else float(np.median(np.concatenate(self.references)))

    def in_reference_steps(self) -> list[Session] | None:
        """Return the sessions with the reference step beside each block as the unit; None if it was not timed."""
        if self.references is None:
            return None
        pairs = zip(self.sessions, self.references, strict=True)
        return [[block / unit for block, unit in zip(session, units, strict=True)] for session, units in pairs]


@dataclass(frozen=True)
class Answers:
    """The speed of one back end's inference; None if it was not timed."""

    single: Speed | None = None
    """The speed with one image at a time."""
    batches: Speed | None = None
    """The speed with the largest batch."""


@dataclass(frozen=True)
class Speeds:
    """The speeds of a job, of each kind; None if it was not timed."""

    training: Speed | None = None
    """The training as the recipe does it, in seconds for the images of a step: whole steps or, with a frozen backbone,
    extracting the features once and training the head on them in every epoch."""
    head: Speed | None = None
    """The steps of the head on features that are already extracted."""
    by_backend: Mapping[str, Answers] = field(default_factory=dict)
    """The inference of each back end, eager first."""
    elsewhere: Mapping[str, Speeds] = field(default_factory=dict)
    """The speeds on the other kinds of device that the job was timed on, by the device's name."""

    @property
    def answers(self) -> Answers:
        """Return the inference of eager or, if it was not timed, of the first back end that was."""
        return next(iter(self.by_backend.values()), Answers())

    @property
    def single(self) -> Speed | None:
        """Return the speed of inference with one image at a time."""
        return self.answers.single

    @property
    def batches(self) -> Speed | None:
        """Return the speed of inference with the largest batch."""
        return self.answers.batches

    def all(self) -> list[Speed]:
        """Return all speeds that were timed."""
        answers = [speed for backend in self.by_backend.values() for speed in (backend.single, backend.batches)]
        return [speed for speed in (self.training, self.head, *answers) if speed is not None]


def speeds_of(store: Store, records: Sequence[Record], timed: set[str]) -> Speeds:
    """Return the speeds of the runs of one job.

    Of timings on several devices, in several precisions, or with several numbers of threads, the latest counts.

    Args:
        store: the results folder.
        records: the finished runs of the job.
        timed: the result of :meth:`Store.timed`, read once for many jobs.
    """
    chosen = [record for record in records if record.run_id in timed][:MOST_TIMED]
    samples = [store.timings(record.run_id) for record in chosen]
    if not chosen:
        return Speeds()
    summary = functools.partial(
        summarise,
        epochs=fmean(record.epochs_done or record.epochs for record in chosen),
        features=chosen[0].features_cached is not None,
    )
    speeds = summary(samples)
    shown = {device_of(speed) for speed in speeds.all()}
    named = [sample for taken in samples for sample in taken if sample.device != "cpu" or sample.cpu is not None]
    others = grouped((sample for sample in named if device_of(sample) not in shown), device_of)
    elsewhere = {
        device: summary(grouped(taken, attrgetter("run_id")).values()) for device, taken in sorted(others.items())
    }
    return replace(speeds, elsewhere=elsewhere)


def device_of(timed: Timing | Speed) -> str:
    """Return the kind of device that a timing is of: the GPU's name, or the processor's."""
    return timed.device if timed.device != "cpu" or timed.cpu is None else timed.cpu


def summarise(runs: Iterable[Sequence[Timing]], *, epochs: float = 1, features: bool = False) -> Speeds:
    """Return the speeds of one job from the samples of its runs.

    Args:
        runs: the samples of each run.
        epochs: the number of epochs of the training; of runs that stopped early, the mean.
        features: whether the head was trained on a frozen backbone's features. If so, the steps that an earlier version
            timed as training are steps of the head.
    """

    def use_of(sample: Timing) -> tuple[Kind, str, int]:
        before = features and sample.backend == BEFORE_BACKENDS and sample.kind == "training"
        return "head" if before else sample.kind, sample.backend, sample.batch_size

    speeds: dict[tuple[str, str], dict[int, Speed]] = {}
    for (kind, backend, size), samples in grouped(itertools.chain.from_iterable(runs), use_of).items():
        machines = grouped(samples, attrgetter("device", "cpu", "threads", "precision")).values()
        latest = max(machines, key=lambda taken: max(sample.measured_at for sample in taken))
        sessions = grouped(latest, attrgetter("run_id")).values()
        speeds.setdefault((kind, backend), {})[size] = _speed(kind, list(sessions))
    by_kind = {kind: sizes[max(sizes)] for (kind, _), sizes in speeds.items() if kind != "inference"}
    extraction, head = by_kind.get("extraction"), by_kind.get("head")
    training = by_kind.get("training")
    if extraction is not None and head is not None:
        training = recipe_training(extraction, head, epochs)
    backends = sorted((name for kind, name in speeds if kind == "inference"), key=lambda name: (name != EAGER, name))
    answers = {name: _answers(speeds["inference", name]) for name in backends}
    return Speeds(training, head, answers)


def recipe_training(extraction: Speed, head: Speed, epochs: float) -> Speed | None:
    """Return the speed of training on a frozen backbone's features: the backbone runs once, the head in every epoch.

    A sample is the time for the images of one step in one round of timing: their share of the extraction, divided by
    the number of epochs, plus the step itself. None if the two were timed on different machines, in different
    precision, or never in the same round.

    Args:
        extraction: the speed of extracting the features of a batch.
        head: the speed of the head's steps.
        epochs: the number of epochs of the training, which may be a mean over runs.
    """
    if (extraction.machine, extraction.precision) != (head.machine, head.precision):
        return None
    share = head.batch_size / extraction.batch_size / epochs
    sessions, references = [], []
    for number, (first, second) in enumerate(zip(extraction.sessions, head.sessions, strict=False)):
        rounds = [
            (float(np.median(block)) * share, float(np.median(step)))
            for block, step in zip(first, second, strict=False)
        ]
        if not rounds:
            continue
        sessions.append([np.array([sum(parts)]) for parts in rounds])
        if extraction.references is not None and head.references is not None:
            # chosen so that the sum in this unit is the sum of both parts, each in its unit
            units = zip(extraction.references[number], head.references[number], strict=False)
            pairs = zip(rounds, units, strict=False)
            references.append(np.array([(a + b) / (a / unit + b / other) for (a, b), (unit, other) in pairs]))
    if not sessions:
        return None
    memory = [speed.peak_memory_mb for speed in (extraction, head) if speed.peak_memory_mb is not None]
    return replace(
        head,
        kind="training",
        sessions=tuple(sessions),
        references=tuple(references) if len(references) == len(sessions) else None,
        contended=extraction.contended or head.contended,
        peak_memory_mb=max(memory, default=None),
    )


def _answers(sizes: Mapping[int, Speed]) -> Answers:
    largest = max(sizes)
    return Answers(sizes.get(1), sizes[largest] if largest > 1 else None)


def _speed(kind: Kind, runs: Sequence[Sequence[Timing]]) -> Speed:
    contended = all(sample.contended for taken in runs for sample in taken)
    sessions, references = [], []
    for taken in runs:
        chosen = [sample for sample in taken if contended or not sample.contended]
        chosen.sort(key=lambda sample: (sample.measured_at, sample.sample))
        blocks = [list(block) for _, block in itertools.groupby(chosen, key=lambda sample: sample.measured_at)]
        if blocks:
            sessions.append([np.array([sample.seconds for sample in block]) for block in blocks])
            references.append(np.array([block[0].reference_seconds for block in blocks], np.float64))
    same = runs[0][0].model_dump(include={"backend", "batch_size", "device", "cpu", "threads", "precision"})
    memory = [sample.peak_memory_mb for taken in runs for sample in taken if sample.peak_memory_mb is not None]
    counted_by = {sample.run_id: sample.joules_per_image for taken in runs for sample in taken}
    joules = [value for value in counted_by.values() if value is not None]
    return Speed(
        kind=kind,
        **same,
        sessions=tuple(sessions),
        references=None if any(np.isnan(units).any() for units in references) else tuple(references),
        contended=contended,
        peak_memory_mb=max(memory, default=None),
        joules_per_image=fmean(joules) if joules else None,
    )
