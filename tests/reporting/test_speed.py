"""Training throughput means the recipe: a frozen backbone's extraction counts, once for all epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.reporting.speed import Speed, speeds_of, summarise
from bench.reporting.store import Store
from bench.spec import Record, Timing

START = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = st.floats(1e-4, 10)


def rounds(extraction: Sequence[float], head: Sequence[Sequence[float]], reference: Sequence[float]) -> list[Timing]:
    """One session: a block of each kind in every round."""
    rows = []
    for number, (first, steps, unit) in enumerate(zip(extraction, head, reference, strict=True)):
        moment = START + timedelta(seconds=number)
        shared = {"run_id": "a", "backend": "eager", "contended": False, "device": "cpu", "threads": 2}
        shared |= {"precision": "fp32", "reference_seconds": unit, "measured_at": moment}
        rows.append(Timing(**shared, kind="extraction", batch_size=250, sample=number, seconds=first))
        rows += [Timing(**shared, kind="head", batch_size=50, sample=number, seconds=step) for step in steps]
    return rows


def training(rows: Sequence[Timing], epochs: int) -> Speed:
    speed = summarise([rows], epochs=epochs).training
    assert speed is not None
    return speed


@given(SECONDS, SECONDS, st.integers(1, 50))
def test_it_is_images_times_epochs_by_extraction_and_head(extraction: float, step: float, epochs: int) -> None:
    speed = training(rounds([extraction] * 4, [[step] * 3] * 4, [0.01] * 4), epochs)

    images = 100_000
    seconds = images / 250 * extraction + epochs * images / 50 * step
    assert speed.kind == "training"
    assert speed.images_per_second == pytest.approx(images * epochs / seconds)


@given(SECONDS, SECONDS, st.lists(st.floats(0.1, 10), min_size=1, max_size=6))
def test_a_machine_whose_pace_changes_makes_no_difference_in_reference_steps(
    extraction: float, step: float, pace: list[float]
) -> None:
    rows = rounds([extraction * one for one in pace], [[step * one] for one in pace], [0.01 * one for one in pace])

    relative = training(rows, 5).in_reference_steps()

    assert relative is not None
    assert np.concatenate(relative[0]) == pytest.approx((extraction / 25 + step) / 0.01)


@given(st.integers(1, 49))
def test_more_epochs_share_one_extraction(epochs: int) -> None:
    rows = rounds([0.1], [[0.002]], [0.01])

    few, more = (training(rows, number).images_per_second for number in (epochs, epochs + 1))

    assert few < more < 50 / 0.002


def test_runs_that_stopped_early_share_their_extractions_over_the_epochs_done(
    tmp_path: Path, make_record: Callable[..., Record]
) -> None:
    store = Store(tmp_path)
    store.prepare()
    records = [make_record(seed=seed, epochs_done=done) for seed, done in enumerate((4, 8))]
    for record in records:
        rows = rounds([0.1] * 3, [[0.002]] * 3, [0.01] * 3)
        store.write_timings(record.run_id, [row.model_copy(update={"run_id": record.run_id}) for row in rows])

    speeds = speeds_of(store, records, {record.run_id for record in records})

    images = 100_000
    seconds = 2 * images / 250 * 0.1 + (4 + 8) * images / 50 * 0.002
    assert speeds.training is not None
    assert speeds.training.images_per_second == pytest.approx(images * (4 + 8) / seconds)


def test_a_whole_model_is_timed_as_its_steps() -> None:
    rows = [row.model_copy(update={"kind": "training"}) for row in rounds([1.0], [[0.5, 0.25, 0.5]], [1.0])[1:]]

    speeds = summarise([rows])

    assert speeds.head is None
    assert speeds.training is not None
    assert speeds.training.images_per_second == 100


def test_one_back_end_beside_another() -> None:
    rows = [
        row.model_copy(update={"kind": "inference", "backend": backend, "batch_size": size, "seconds": seconds})
        for backend, seconds in (("openvino", 0.1), ("eager", 0.2))
        for size in (1, 250)
        for row in rounds([1.0], [[]], [1.0])
    ]

    speeds = summarise([rows])

    assert list(speeds.by_backend) == ["eager", "openvino"]
    assert speeds.batches is not None
    assert speeds.batches.images_per_second == 1250
    assert speeds.by_backend["openvino"].batches is not None
    assert speeds.by_backend["openvino"].batches.images_per_second == 2500
    assert speeds.training is None
