"""Jobs timed on several kinds of device: a row for each kind, and no comparison across them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.reporting.devices import by_device_notes, by_device_table
from bench.reporting.entries import Comparison, Entry
from bench.reporting.speed import speeds_of
from bench.reporting.store import Store
from bench.reporting.verdicts import INFERENCE, LATENCY_P50, Side, speed
from bench.spec import Record, Result, Timing

START = datetime(2026, 1, 1, tzinfo=UTC)
GPU, SLOW_CPU, FAST_CPU = ("Some GPU", "A"), ("cpu", "Slow Processor"), ("cpu", "Fast Processor")


def session(run_id: str, hour: int, seconds: float, where: tuple[str, str | None]) -> list[Timing]:
    """40 samples of one image and of a batch, on one (device, processor)."""
    rows = []
    for size in (1, 250):
        for number in range(40):
            rows.append(
                Timing(
                    run_id=run_id,
                    kind="inference",
                    backend="eager",
                    batch_size=size,
                    sample=number,
                    seconds=size * seconds * (1 + number % 3 / 100),
                    contended=False,
                    device=where[0],
                    cpu=where[1],
                    threads=4,
                    precision="fp32",
                    measured_at=START + timedelta(hours=hour, seconds=number // 10),
                )
            )
    return rows


def entry(folder: Path, record: Record, result: Result, *sessions: list[Timing]) -> Entry:
    store = Store(folder)
    store.prepare()
    store.write(result)
    store.write_timings(record.run_id, [row for rows in sessions for row in rows])
    return Entry(record.model, [record], speeds_of(store, [record], store.timed()))


def test_each_kind_of_device_has_its_rows_and_what_was_timed_last_is_compared(
    tmp_path: Path, make_record: Callable[..., Record], make_result: Callable[[Record], Result]
) -> None:
    record = make_record()
    timed = (session(record.run_id, 1, 0.02, SLOW_CPU), session(record.run_id, 2, 0.001, GPU))
    job = entry(tmp_path, record, make_result(record), *timed)
    table = by_device_table(Comparison("data", [job]))

    assert table is not None
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["Slow Processor", record.model, "-", "50 images/s", "20.2 ms"],
        ["Some GPU", record.model, "-", "990 images/s", "1.01 ms"],
    ]
    assert by_device_notes(Comparison("data", [job]))
    assert job.speeds.single is not None
    assert job.machine_of(job.speeds.single) == "Some GPU, 4 threads"


def test_one_kind_needs_no_table_also_beside_timings_of_a_version_that_stored_no_processor(
    tmp_path: Path, make_record: Callable[..., Record], make_result: Callable[[Record], Result]
) -> None:
    record = make_record()
    timed = (session(record.run_id, 1, 0.02, ("cpu", None)), session(record.run_id, 2, 0.02, SLOW_CPU))
    job = entry(tmp_path, record, make_result(record), *timed)

    assert by_device_table(Comparison("data", [job])) is None


def test_speeds_on_two_processors_are_not_compared(
    tmp_path: Path, make_record: Callable[..., Record], make_result: Callable[[Record], Result]
) -> None:
    sides = []
    for name, where in (("cnn", SLOW_CPU), ("mobilenet", FAST_CPU)):
        record = make_record(model=name, run_id=name)
        job = entry(tmp_path / name, record, make_result(record), session(name, 1, 0.02, where))
        sides.append(Side(name, job, Store(tmp_path / name)))
    for metric in (LATENCY_P50, INFERENCE):
        verdict = speed(metric, *sides)
        assert verdict.difference is None
        assert "timed on different machines" in verdict.why_unknown
        assert "Slow Processor" in verdict.why_unknown
        assert "Fast Processor" in verdict.why_unknown
