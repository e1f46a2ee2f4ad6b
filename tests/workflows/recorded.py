"""Streams of events as a command would see them: of runs that were stored, or of made-up ones on a steady machine."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from factories import START

from bench.reporting.store import Store
from bench.spec import DatasetInfo, Job, ModelInput, Progress, Recipe, Record, Run, Status

STEPS = 10
"""How often a part of a run reports its progress."""


@dataclass(frozen=True)
class Event:
    """What a view is told, and when, in seconds since the command's runs began."""

    at: float
    run: Run
    what: Progress | Record | None
    """None if the run begins."""


def run_of(record: Record) -> Run:
    """The run of a stored record."""
    size, channels = record.input_size or 28, record.input_channels or 1
    form = {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    job = Job(
        model=record.model,
        dataset=DatasetInfo(
            **{name: getattr(record, name) for name in ("train_images", "test_images", "classes")},
            name=record.dataset,
            sha256=record.dataset_sha256,
        ),
        recipe=Recipe(**{name: getattr(record, name) for name in Recipe.model_fields}),
        input=ModelInput(image_size=size, channels=channels, **form),
        weights=record.weights,
        weights_sha256=record.weights_sha256,
        seeds=(record.seed,),
    )
    (run,) = job.runs()
    return run


def events_of(record: Record, epochs: Sequence[float], start: float) -> Iterator[Event]:
    """The events of a run that begins at ``start``; ``epochs`` are the seconds of each."""
    run = run_of(record)
    total = run.images_per_epoch * len(epochs)
    yield Event(start, run, None)
    features, tested = record.feature_seconds or 0.0, record.test_seconds or 0.0
    parts = features + sum(epochs) + tested
    now = start + max(0.1, (record.ended_at - record.started_at).total_seconds() - parts)

    def progress(epoch: int, done: float, **more: object) -> Progress:
        return Progress(
            run.id,
            epoch,
            len(epochs),
            round(done),
            total,
            loss=0.5,
            accuracy=0.9,
            images_per_second=run.images_per_epoch / epochs[0],
            **more,
        )

    for step in range(1, STEPS + 1) if features else ():
        yield Event(now + features * step / STEPS, run, progress(1, 0, phase="features", phase_share=step / STEPS))
    now += features
    for epoch, seconds in enumerate(epochs, start=1):
        for step in range(1, STEPS + 1):
            done = (epoch - 1 + step / STEPS) * run.images_per_epoch
            yield Event(now + seconds * step / STEPS, run, progress(epoch, done))
        now += seconds
    for step in range(1, STEPS + 1) if tested else ():
        share = step / STEPS
        yield Event(now + tested * share, run, progress(len(epochs), total, phase="testing", phase_share=share))
    yield Event(
        now + tested,
        run,
        record.model_copy(update={"run_id": run.id, "job_id": run.job_id, "input_size": run.input.image_size}),
    )


def as_it_was(folder: Path) -> list[Event]:
    """The events of the runs of a results folder, at the times at which they were stored."""
    store = Store(folder)
    records, _ = store.records()
    finished = [record for record in records if record.status is Status.OK and record.judged_on == "test"]
    first = min(record.started_at for record in finished)
    events = [
        event
        for record in finished
        for event in events_of(
            record,
            [epoch.seconds for epoch in store.epochs(record.run_id)],
            (record.started_at - first).total_seconds(),
        )
    ]
    return sorted(events, key=lambda event: event.at)


def scheduled(records: Sequence[Record], at_once: int, epochs: int = 5) -> list[Event]:
    """The events of runs that begin in this order, so many at a time, on a steady machine."""
    free = [0.0] * at_once
    events: list[Event] = []
    for record in records:
        training = (record.train_seconds or 0.0) - (record.feature_seconds or 0.0)
        own = list(events_of(record, [training / epochs] * epochs, heapq.heappop(free)))
        heapq.heappush(free, own[-1].at + 0.2)
        events += own
    return sorted(events, key=lambda event: event.at)


def lasting(record: Record, seconds: float) -> Record:
    """The record as if the run had begun at a fixed time and taken so long."""
    return record.model_copy(update={"started_at": START, "ended_at": START + timedelta(seconds=seconds)})
