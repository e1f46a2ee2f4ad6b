"""The time left, worked out from streams of events: recorded ones, and made-up ones on a steady machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from factories import record_of
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from recorded import Event, as_it_was, lasting, run_of, scheduled

from bench.learning import timing
from bench.learning.data import preprocessing
from bench.reporting.store import Store
from bench.spec import Progress, Record, Run, Status, TimingProgress
from bench.workflows import timing_seconds as seconds_of
from bench.workflows.forecast import PAGES_SECONDS, START_SECONDS, Forecast
from bench.workflows.paces import Part
from bench.workflows.timing_seconds import TimingSeconds

REFERENCE = Path(__file__).parents[2] / "results/reference"
THIRD = 0.34


def replay(events: Sequence[Event], at_once: int) -> list[tuple[float, float | None, float]]:
    """(share of the way, seconds left as forecast, seconds left in truth) at ten moments from a third of the way on."""
    forecast = Forecast()
    forecast.plan([[run] for run in {event.run.id: event.run for event in events}.values()], at_once, -START_SECONDS)
    end = events[-1].at
    moments = [end * (THIRD + (0.95 - THIRD) * step / 9) for step in range(10)]
    found = []
    for event in events:
        while moments and event.at >= moments[0]:
            found.append((moments[0] / end, forecast.runs_left(moments[0]), end - moments[0]))
            del moments[0]
        tell(forecast, event)
    assert forecast.runs_left(end) == 0
    assert forecast.left(end) == PAGES_SECONDS
    return found


def tell(forecast: Forecast, event: Event) -> None:
    if event.what is None:
        forecast.begun(event.run.id, event.at)
    elif isinstance(event.what, Progress):
        forecast.update(event.what, event.at)
    else:
        forecast.ended(event.what)


def finished(folder: str) -> list[Record]:
    """The runs of a folder in the order in which a command begins them: jobs take turns."""
    records, _ = Store(REFERENCE / folder).records()
    tested = [record for record in records if record.status is Status.OK and record.judged_on == "test"]
    return sorted(tested, key=lambda record: (record.seed, record.model))


def test_the_time_left_of_a_recorded_command_is_right_within_a_quarter() -> None:
    for share, left, truth in replay(as_it_was(REFERENCE / "mnist-cpu2"), 2):
        assert left == pytest.approx(truth, rel=0.25), share


@pytest.mark.parametrize(
    ("folder", "at_once"),
    [("mnist-cpu2", 2), ("five-seeds-cpu2", 2), ("precision-cpu2", 2), ("fast-cpu2", 1)],
)
def test_the_time_left_of_recorded_runs_on_a_steady_machine_is_right_within_a_quarter(
    folder: str, at_once: int
) -> None:
    events = scheduled(finished(folder), at_once)

    for share, left, truth in replay(events, at_once):
        assert left == pytest.approx(truth, rel=0.25), share


@given(
    st.lists(st.floats(2, 500), min_size=1, max_size=4),
    st.integers(3, 8),
    st.integers(1, 4),
)
def test_on_a_steady_machine_it_is_right_within_a_quarter_whatever_the_models(
    lengths: list[float], seeds: int, at_once: int
) -> None:
    records = [
        lasting(
            record_of(
                f"model-{number}",
                seed=seed,
                train_seconds=0.9 * length,
                feature_seconds=None,
                features_cached=None,
                test_seconds=0.015 * length,
                input_size=28,
                input_channels=1,
                images_per_epoch=4000,
                epochs_done=5,
            ),
            length,
        )
        for seed in range(seeds)
        for number, length in enumerate(lengths)
    ]

    for share, left, truth in replay(scheduled(records, at_once), at_once):
        assert left == pytest.approx(truth, rel=0.25, abs=1.0), share


def test_nothing_is_forecast_before_any_run_is_seen_unless_an_earlier_command_trained_its_model() -> None:
    (record, *_) = finished("mnist-cpu2")
    run = run_of(record)
    known = record.model_copy(update={"input_size": run.input.image_size})

    for earlier, expected in (([], False), ([known], True)):
        forecast = Forecast(earlier=earlier)
        forecast.plan([[run]], 1, -START_SECONDS)
        assert (forecast.left(0) is not None) is expected

    assert forecast.left(0) == pytest.approx((known.train_seconds or 0) + (known.test_seconds or 0), abs=15)


def test_a_run_that_another_one_extracts_features_for_waits_for_them_and_then_has_them() -> None:
    run = next(run_of(record) for record in finished("mnist-cpu2") if record.model == "mobilenet")
    first, second = (run.model_copy(update={"seed": seed}) for seed in (0, 1))
    forecast = Forecast()
    forecast.plan([[first], [second]], 2, -START_SECONDS)
    for each in (first, second):
        forecast.begun(each.id, 0)
    for at, share in ((1, 0.1), (2, 0.2), (3, 0.3)):
        forecast.update(_extracting(first, share), at)

    assert forecast.part_of(second.id) == ("begin", True)
    left = [forecast.run_left(each.id, 3) for each in (first, second)]
    assert left[0] == pytest.approx(left[1], abs=1)  # type: ignore[arg-type]
    assert left[0] is not None
    assert left[0] > 7  # seconds of features alone

    forecast.update(Progress(first.id, 1, 5, images_done=1000, images_total=300_000), 10)
    assert forecast.part_of(second.id) == ("begin", False)


def _extracting(run: Run, share: float) -> Progress:
    return Progress(run.id, 1, 5, images_done=0, images_total=300_000, phase="features", phase_share=share)


def test_runs_that_early_stopping_ends_are_expected_to_end_as_their_siblings_did() -> None:
    records = [
        record_of(
            seed=seed,
            input_size=28,
            images_per_epoch=4000,
            epochs_done=2,
            feature_seconds=None,
            features_cached=None,
            train_seconds=20.0,
            test_seconds=1.0,
        )
        for seed in (0, 1)
    ]
    runs = [run_of(record) for record in records]
    forecast = Forecast()
    forecast.plan([[run] for run in runs], 1, -START_SECONDS)
    forecast.begun(runs[0].id, 0)
    forecast.ended(lasting(records[0].model_copy(update={"run_id": runs[0].id, "job_id": runs[0].job_id}), 21))

    assert forecast.runs_left(21) == pytest.approx(21, abs=1)  # of five epochs it would be 51


@pytest.mark.parametrize(
    ("folder", "backends", "took"),
    [
        # from the start of the first model's preparation to the last sample, and the start of the process
        ("mnist-cpu2", ["eager", "compile", "onnxruntime", "onnxruntime-int8", "openvino"], 109 + 4),
        ("fast-cpu2", ["eager"], 5.5 + 4),
    ],
)
def test_the_length_of_recorded_timings_is_right_within_a_quarter(
    folder: str, backends: list[str], took: float
) -> None:
    jobs = {record.model: record for record in finished(folder)}
    forecast = Forecast()

    def pace(run: Run, part: Part) -> float | None:
        record = jobs[run.model]
        seconds = (record.test_seconds or 0) / record.test_images
        return seconds if part == "testing" else 3 * seconds

    seconds = seconds_of.timing_seconds([run_of(record) for record in jobs.values()], backends, pace)

    assert seconds.total == pytest.approx(took, rel=0.25)
    assert len(seconds.prepare) == len(jobs) * len(backends)
    forecast = Forecast(timing=lambda pace: seconds)
    forecast.timing_begun(100.0)
    assert forecast.left(100.0 + seconds.total / 2) == pytest.approx(seconds.total / 2 + seconds.pages + PAGES_SECONDS)


def test_models_are_expected_to_be_prepared_in_the_order_of_the_back_ends() -> None:
    seconds = seconds_of.timing_seconds([run_of(record_of())], ["eager", "compile"], lambda run, part: 0.0)
    assert seconds.prepare == (
        seconds_of.START_SECONDS + seconds_of.PREPARE_SECONDS["eager"],
        seconds_of.PREPARE_SECONDS["compile"],
    )


def test_a_timing_under_way_tells_how_long_it_takes() -> None:
    forecast = Forecast(timing=lambda pace: TimingSeconds(prepare=(20.0, 4.0, 6.0), rounds=20.0, pages=2.0))
    pages = 2.0 + PAGES_SECONDS
    forecast.timing_begun(100.0)
    # the first took twice as long as expected, so the next are expected to take longer, but not twice as long
    forecast.timing_update(TimingProgress(1), 140.0)
    assert forecast.left(141.0) == pytest.approx(1.4 * 4.0 - 1.0 + 1.4 * 6.0 + 20.0 + pages)
    assert forecast.left(220.0) == pytest.approx(0.25 * 80 + 1.4 * 6.0 + 20.0 + pages)
    forecast.timing_update(TimingProgress(3), 230.0)
    assert forecast.left(238.0) == pytest.approx(20.0 + pages)
    forecast.timing_update(TimingProgress(3, rounds_left=33.0), 240.0)
    assert forecast.left(243.0) == pytest.approx(30.0 + pages)
    assert forecast.left(274.0) == pytest.approx(pages - 1.0)  # the pages are being written
    assert forecast.left(300.0) == pytest.approx(1.0)


@pytest.mark.parametrize(("started_after", "factor"), [(5.0, 1.0), (7.5, 1.5), (0.1, 0.5), (600.0, 2.0)])
def test_a_machine_that_starts_workers_slowly_writes_pages_slowly(started_after: float, factor: float) -> None:
    run = run_of(record_of())
    forecast = Forecast(timing=lambda pace: TimingSeconds(prepare=(4.0, 6.0), rounds=20.0, pages=2.0))
    forecast.plan([[run]], 1, 100.0)
    forecast.begun(run.id, 100.0 + started_after)
    forecast.ended(record_of().model_copy(update={"run_id": run.id, "job_id": run.job_id}))

    assert forecast.left(800.0) == pytest.approx(20.0 + factor * (4.0 + 6.0 + 2.0 + PAGES_SECONDS))
    forecast.timing_begun(800.0)
    assert forecast.left(800.0) == pytest.approx(20.0 + factor * (4.0 + 6.0 + 2.0 + PAGES_SECONDS))


def test_the_rules_of_the_timing_are_those_that_its_length_follows_from() -> None:
    for name in ("ROUNDS", "FEWEST_ROUNDS", "LONGEST_SECONDS", "BLOCK_SECONDS", "WARM_UP_SECONDS"):
        assert getattr(seconds_of, name) == getattr(timing, name)
    assert seconds_of.BATCH == preprocessing.LARGEST_BATCH
    assert preprocessing.MOST_PIXELS["cpu"] == seconds_of.PIXELS
