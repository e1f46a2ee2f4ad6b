"""Phases: every moment counts once, so the parts sum to the whole."""

from __future__ import annotations

from datetime import timedelta

import pytest
from factories import START, record_of
from hypothesis import given
from hypothesis import strategies as st

from bench.workflows.phases import Phases, within_runs

moments = st.floats(0, 100)


@given(st.lists(st.tuples(moments, moments), max_size=8), moments, moments)
def test_what_runs_did_sums_to_the_interval(spans: list[tuple[float, float]], one: float, other: float) -> None:
    start, end = sorted((one, other))
    records = [
        record_of(seed=seed, train_seconds=3.0, feature_seconds=1.0).model_copy(
            update={
                "started_at": START + timedelta(seconds=min(span)),
                "ended_at": START + timedelta(seconds=max(span)),
            }
        )
        for seed, span in enumerate(spans)
    ]
    origin = START.timestamp()

    found = within_runs(records, origin + start, origin + end)

    assert sum(found.values()) == pytest.approx(end - start, abs=1e-3)
    assert all(seconds >= -1e-9 for seconds in found.values())


def test_two_runs_side_by_side_share_the_moment() -> None:
    ten = START + timedelta(seconds=10)
    figures = {"setup_seconds": 0.0, "feature_seconds": None, "test_seconds": 0.0}
    training = record_of(seed=0, train_seconds=10.0, **figures).model_copy(update={"ended_at": ten})
    idle = record_of(seed=1, train_seconds=0.0, **figures).model_copy(update={"ended_at": ten})
    origin = START.timestamp()

    found = within_runs([training, idle], origin, origin + 12)

    assert found["training"] == pytest.approx(5)
    assert found["handing over, saving, waiting for CPUs"] == pytest.approx(5)
    assert found["waiting for workers"] == pytest.approx(2)


def test_phases_sum_to_the_time_on_the_clock() -> None:
    phases = Phases("first")
    phases.enter("second")
    phases.enter("first")
    phases.enter("end")

    assert [name for name, _, _ in phases.spans] == ["first", "second", "first"]
    assert sum(end - start for _, start, end in phases.spans) == pytest.approx(phases.total)
