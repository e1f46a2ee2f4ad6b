"""Several versions of the results: what changed by more than noise is found, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from factories import record_of, result_of, stored_in

from bench.history import main
from bench.reporting import stats, timing_stats
from bench.reporting.entries import Entry
from bench.reporting.history import History, Point, Version, as_page, findings, histories, judged
from bench.reporting.speed import Speeds, summarise
from bench.reporting.store import Store
from bench.reporting.verdicts import INFERENCE, LATENCY_P50, RECIPES, TRAINING, Word
from bench.spec import Timing

NOWHERE = Store(Path("nowhere"))
SEEDS = 5
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def no_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much more data it would take is not asked here, and takes as long as all else."""
    for module in (stats, timing_stats):
        monkeypatch.setattr(module, "sample_size", lambda *_, **__: 3.0)


def timed(random: np.random.Generator, slower: float, pace: float = 1.0) -> Speeds:
    """Speeds of SEEDS sessions that differ by 1.5 % beside the reference step, on a machine of this pace."""
    sessions = []
    for seed in range(SEEDS):
        shared = {"run_id": str(seed), "contended": False, "device": "cpu", "threads": 2, "precision": "fp32"}
        shared |= {"measured_at": MOMENT, "reference_seconds": 0.01 * pace, "backend": "eager"}
        session = random.normal(1, 0.015)
        sessions.append(
            [
                Timing(
                    **shared,
                    kind=kind,
                    batch_size=size,
                    sample=sample,
                    seconds=size * 1e-4 * pace * slower * session * random.normal(1, 0.005),
                )
                for kind, size in (("training", 64), ("inference", 1), ("inference", 250))
                for sample in range(6)
            ]
        )
    return summarise(sessions)


def history(random: np.random.Generator, accuracies: list[float], slower: list[float], **record: object) -> History:
    points = []
    for number, (accuracy, factor) in enumerate(zip(accuracies, slower, strict=True)):
        records = [
            record_of("cnn", seed=seed, test_accuracy=accuracy + random.normal(0, 0.0005), **record)  # type: ignore[arg-type]
            for seed in range(SEEDS)
        ]
        pace = random.uniform(0.7, 1.4)  # each version was timed on a machine of its own
        points.append(
            Point(Version(f"v{number}", NOWHERE, records), Entry("cnn", records, timed(random, factor, pace)))
        )
    return History("cnn", points)


def test_of_ten_versions_the_slowdown_and_the_loss_are_found_and_nothing_else(no_power: None) -> None:
    right = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        accuracies = [0.991] * 6 + [0.986] * 4
        slower = [1.0] * 3 + [1.08] * 7

        (found,) = judged([history(random, accuracies, slower)])

        flagged = {(change.metric.key, change.second, change.word) for change in found.flagged}
        expected = {(RECIPES.key, "v6", Word.WORSE)}
        expected |= {(metric.key, "v3", Word.WORSE) for metric in (TRAINING, INFERENCE, LATENCY_P50)}
        right += flagged == expected
    assert right >= 18


def test_without_a_change_nothing_is_flagged(no_power: None) -> None:
    alarms = 0
    for seed in range(20):
        (found,) = judged([history(np.random.default_rng(seed), [0.99] * 6, [1.0] * 6)])
        alarms += bool(found.flagged)

    assert alarms <= 2
    assert findings(found) == ["cnn: no change beyond noise over 6 versions."]


def test_a_slow_drift_is_seen_from_first_to_last(no_power: None) -> None:
    slower = [1.02**number for number in range(8)]

    (found,) = judged([history(np.random.default_rng(0), [0.99] * 8, slower)])

    assert {(change.metric, change.first, change.second) for change in found.flagged} == {
        (metric, "v0", "v7") for metric in (TRAINING, INFERENCE, LATENCY_P50)
    }
    assert "(little by little)" in findings(found)[0]


def test_speeds_of_different_devices_are_never_compared() -> None:
    first = history(np.random.default_rng(0), [0.99] * 2, [1.0, 3.0])
    gpu = summarise(
        [
            [
                Timing(
                    run_id="0", kind="inference", backend="eager", batch_size=250, sample=sample, seconds=0.001,
                    reference_seconds=0.01, contended=False, device="A GPU", threads=2, precision="fp32",
                    measured_at=MOMENT,
                )
                for sample in range(9)
            ]
        ]
    )  # fmt: skip
    points = [first.points[0], Point(first.points[1].version, Entry("cnn", first.points[1].entry.records, gpu))]

    (found,) = judged([History("cnn", points)])

    (change,) = (each for each in found.changes if each.metric is INFERENCE)
    assert change.difference is None
    assert "different conditions" in change.why_unknown


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = []
    for number, accuracy in enumerate((0.99, 0.99, 0.9)):
        store = Store(tmp_path / f"v{number}")
        store.prepare()
        for seed in range(3):
            record = record_of("a<b>", seed=seed, test_accuracy=accuracy + seed / 10_000)
            stored_in(store, result_of(record))
        made.append(store.root)
    return made


def test_the_command_prints_what_changed_and_writes_a_page(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"

    assert main([*map(str, folders), "--page", str(page)]) == 0

    printed = capsys.readouterr().out
    assert f"accuracy became worse from {folders[1]} to {folders[2]}: -9.00 points" in printed
    html = page.read_text()
    assert "a&lt;b&gt;" in html
    assert "<svg" in html
    assert "became worse" in html


def test_one_version_is_no_history(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folders[0])]) == 2
    assert "two versions or more" in capsys.readouterr().err


def test_the_page_of_nothing_in_common_says_so(folders: list[Path]) -> None:
    other = record_of("other", seed=0)
    versions = [
        Version("old", Store(folders[0]), Store(folders[0]).records()[0]),
        Version("new", NOWHERE, [other]),
    ]

    assert histories(versions) == {}
    assert "<h1>" in as_page({})
