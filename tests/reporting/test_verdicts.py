"""Verdicts answer the question they name, and say nothing where nothing can be said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.reporting.backends import fastest_backend
from bench.reporting.entries import Comparison, Entry, comparisons
from bench.reporting.footnotes import backend_notes
from bench.reporting.speed import Speeds, summarise
from bench.reporting.stats import Difference, Interval, Needed
from bench.reporting.store import Store
from bench.reporting.tables import backends_table
from bench.reporting.verdicts import (
    CHECKPOINTS,
    INFERENCE,
    LATENCY_P50,
    LATENCY_P95,
    MEMORY,
    PARAMETERS,
    RECIPES,
    TRAINING,
    Metric,
    Side,
    Verdict,
    Word,
    checkpoints,
    compare,
    findings,
    recipes,
    sentences,
    with_holm,
)
from bench.spec import DatasetInfo, Deployment, Predictions, Record, Result, Timing

IMAGES = 2000
DATA = DatasetInfo(name="data", sha256="a" * 64, train_images=100, test_images=IMAGES, classes=10)
LABELS = (np.arange(IMAGES) % 10).astype(np.int16)

Make = Callable[..., Record]


def said(wrong: NDArray[np.bool_]) -> Predictions:
    """Answers that are wrong where that is asked for."""
    predicted = np.where(wrong, (LABELS + 1) % 10, LABELS).astype(np.int16)
    return Predictions(LABELS, predicted, np.full(IMAGES, 0.5, dtype=np.float32))


def wrong(*ranges: tuple[int, int]) -> NDArray[np.bool_]:
    found = np.zeros(IMAGES, dtype=np.bool_)
    for first, last in ranges:
        found[first:last] = True
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path)
    found.prepare()
    return found


@pytest.fixture
def side(store: Store, make_record: Make) -> Callable[..., Side]:
    """A job of which each seed got the given images wrong; None is a seed of which nothing more is stored."""

    def make(
        model: str, answers: dict[int, NDArray[np.bool_] | None], speeds: Speeds | None = None, **fields: Any
    ) -> Side:
        records = []
        for seed, missed in answers.items():
            accuracy = 0.9 if missed is None else float(1 - missed.mean())
            record = make_record(model, seed=seed, dataset=DATA, test_accuracy=accuracy, **fields)
            store.write(Result(record, predictions=None if missed is None else said(missed)))
            records.append(record)
        return Side(model, Entry(model, records, speeds or Speeds()), store)

    return make


# --- these two checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only_first", "only_second", "word"),
    [(60, 40, Word.NOT_DISTINGUISHABLE), (40, 20, Word.WORSE), (20, 40, Word.BETTER), (0, 0, Word.NOT_DISTINGUISHABLE)],
)
def test_checkpoints_are_compared_on_the_same_images(
    only_first: int, only_second: int, word: Word, side: Callable[..., Side]
) -> None:
    first = side("one", {0: wrong((100, 100 + only_second))})
    second = side("other", {0: wrong((500, 500 + only_first))})

    found = checkpoints(first, second)

    assert found.word is word
    assert found.difference is not None
    assert found.difference.value == pytest.approx((only_second - only_first) / IMAGES)
    assert found.sentence.startswith("one seed 0 vs other seed 0 (checkpoint): ")
    different = word is not Word.NOT_DISTINGUISHABLE
    assert ("different, other seed 0 is " + str(word) in found.sentence) == different
    assert ("not distinguishable" in found.sentence) == (not different)
    if only_first == 60:
        assert "p = 0.0569, exact McNemar test" in found.sentence
        assert "test images would tell a difference of this size" in found.sentence


def test_checkpoints_of_the_first_common_seed_are_compared(side: Callable[..., Side]) -> None:
    nothing = wrong()
    first = side("one", {1: wrong((0, 500)), 2: nothing, 3: nothing})
    second = side("other", {2: nothing, 3: nothing, 4: nothing})

    found = checkpoints(first, second)

    assert (found.first, found.second, found.first_value) == ("one seed 2", "other seed 2", 1.0)


def test_without_predictions_checkpoints_are_not_compared(side: Callable[..., Side]) -> None:
    found = checkpoints(side("one", {0: wrong()}), side("other", {0: None}))

    assert found.word is Word.UNKNOWN
    assert "not stored" in found.sentence


# --- these two recipes ----------------------------------------------------------------------------------------------


def test_recipes_are_compared_over_seeds_and_images(side: Callable[..., Side]) -> None:
    first = side("one", {seed: wrong((0, 400 + seed)) for seed in range(3)})
    second = side("other", {seed: wrong((0, 100 + 2 * seed)) for seed in range(3)})

    found = recipes(first, second)

    assert found.word is Word.BETTER
    assert found.sentence.startswith("one vs other (recipe): different, other is better, +14.95 points [")
    assert "then over the test images" in found.sentence


def test_a_lucky_seed_is_no_better_recipe(side: Callable[..., Side]) -> None:
    """The checkpoints differ and the recipes do not: two questions."""
    first = side("one", {0: wrong((0, 200)), 1: wrong((0, 100)), 2: wrong((0, 150))})
    second = side("other", {0: wrong((0, 100)), 1: wrong((0, 200)), 2: wrong((0, 149))})

    assert checkpoints(first, second).word is Word.BETTER
    assert recipes(first, second).word is Word.NOT_DISTINGUISHABLE


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_say_nothing_about_a_recipe(seeds: int, side: Callable[..., Side]) -> None:
    first, second = (side(name, {seed: wrong() for seed in range(seeds)}) for name in ("one", "other"))

    found = recipes(first, second)

    assert found.word is Word.UNKNOWN
    assert f"run at least 3 seeds of each (--seeds 3), there {'is' if seeds == 1 else 'are'} {seeds} of each." in (
        found.sentence
    )


def test_recipes_with_different_numbers_of_seeds_are_told_how_many_each_has(side: Callable[..., Side]) -> None:
    first, second, third = (
        side(name, {seed: wrong() for seed in range(seeds)}) for name, seeds in (("one", 1), ("two", 2), ("four", 4))
    )

    assert recipes(first, third).sentence.endswith("(--seeds 3), there are 1 and 4.")
    pairs = [recipes(first, third), recipes(second, third)]
    assert sentences(pairs) == [
        "all pairs (recipe): not enough data to decide; run at least 3 seeds of each (--seeds 3)."
    ]
    pairs = [recipes(first, third), recipes(first, third)]
    assert sentences(pairs)[0].endswith("(--seeds 3), there are 1 and 4.")


def test_without_predictions_recipes_are_compared_over_the_seeds_alone(side: Callable[..., Side]) -> None:
    first, second = side("one", dict.fromkeys(range(3))), side("other", {seed: wrong((0, 9)) for seed in range(3)})

    found = recipes(first, second)

    assert found.word is Word.BETTER
    assert "images" not in found.sentence


# --- speed ----------------------------------------------------------------------------------------------------------


def speeds(seconds: float, samples: int = 30, **fields: Any) -> Speeds:
    random = np.random.default_rng(0)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    shared = {"run_id": "a", "contended": False, "device": "cpu", "threads": 2, "precision": "fp32"}
    shared |= {"measured_at": moment, "reference_seconds": 0.01, "backend": "eager", **fields}
    return summarise(
        [
            [
                Timing(**shared, kind=kind, batch_size=size, sample=number, seconds=size * seconds * noise)
                for number, noise in enumerate(random.normal(1, 0.001, samples))
            ]
            for kind, size in (("training", 64), ("inference", 1), ("inference", 250))
        ]
    )


def by_metric(verdicts: Sequence[Verdict]) -> dict[Metric, Verdict]:
    return {verdict.metric: verdict for verdict in verdicts}


def test_a_machine_that_was_slower_as_a_whole_makes_no_difference(side: Callable[..., Side]) -> None:
    first = side("old", {0: None}, speeds(0.01))
    second = side("new", {0: None}, speeds(0.013, reference_seconds=0.013))

    found = by_metric(compare(first, second))[INFERENCE]

    assert found.word is Word.NOT_DISTINGUISHABLE
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0, abs=0.001)
    assert "normalised by a reference step of 10.0 ms and 13.0 ms" in found.sentence


def test_reference_steps_of_different_versions_of_torch_are_not_compared(store: Store, make_record: Make) -> None:
    sides = [
        Side(version, Entry("cnn", [make_record("cnn", torch_version=version)], speeds(seconds)), store)
        for version, seconds in (("2.10", 0.01), ("2.11", 0.0111))
    ]

    found = by_metric(compare(*sides))[INFERENCE]

    assert found.word is Word.NOT_DISTINGUISHABLE  # sessions differ by as much
    assert found.difference is not None
    assert "reference step" not in found.difference.method


def test_less_time_is_better_whatever_the_metric(side: Callable[..., Side]) -> None:
    first, second = side("one", {0: None}, speeds(0.01)), side("other", {0: None}, speeds(0.005))

    found = by_metric(compare(first, second))

    assert [found[metric].word for metric in (TRAINING, INFERENCE, LATENCY_P50, LATENCY_P95)] == [Word.BETTER] * 4
    assert found[TRAINING].first_value == pytest.approx(100, rel=0.01)
    assert found[TRAINING].change == "+100.0 %"
    assert found[LATENCY_P50].change == "-50.0 %"
    assert found[LATENCY_P50].second_value == pytest.approx(0.005, rel=0.01)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (speeds(0.01), speeds(0.005, contended=True), "not for ranking"),
        (speeds(0.01), speeds(0.005, threads=4), "different machines"),
        (speeds(0.01), speeds(0.005, device="A GPU"), "different machines"),
        (speeds(0.01), None, "other was not timed"),
        (None, None, "one and other were not timed"),
    ],
)
def test_what_does_not_compare_is_not_compared(
    first: Speeds | None, second: Speeds | None, why: str, side: Callable[..., Side]
) -> None:
    found = by_metric(compare(side("one", {0: None}, first), side("other", {0: None}, second)))

    for metric in (TRAINING, INFERENCE, LATENCY_P50, LATENCY_P95):
        assert found[metric].word is Word.UNKNOWN
        assert why in found[metric].sentence


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"backend": "openvino"}, "timed with different back ends (eager; openvino)"),
        ({"precision": "bf16"}, "timed in different precision (fp32; bf16)"),
    ],
)
def test_like_is_compared_with_like(fields: dict[str, str], why: str, side: Callable[..., Side]) -> None:
    sides = side("one", {0: None}, speeds(0.01)), side("other", {0: None}, speeds(0.005, **fields))

    found = by_metric(compare(*sides))[INFERENCE]

    assert found.word is Word.UNKNOWN
    assert why in found.sentence


def with_backends(make_record: Make, rival: float, lost: int, gained: int, **fields: Any) -> Entry:
    """A job timed with eager, 0.01 s an image, and with OpenVINO."""
    by_backend = {"eager": speeds(0.01).answers, "openvino": speeds(rival, backend="openvino", **fields).answers}
    shared = {"run_id": "a", "status": "ok", "images": 2000, "prepared_at": datetime(2026, 1, 1, tzinfo=UTC)}
    rows = [
        Deployment(**shared, backend="eager", correct=1900, accuracy=0.95, deployed_bytes=901_024),
        Deployment(
            **shared,
            backend="openvino",
            correct=1900 - lost + gained,
            accuracy=0.95 + (gained - lost) / 2000,
            only_eager_right=lost,
            only_this_right=gained,
            deployed_bytes=240_000,
        ),
    ]
    return Entry("cnn", [make_record("cnn")], Speeds(by_backend=by_backend), {row.backend: row for row in rows})


@pytest.mark.parametrize(
    ("rival", "lost", "gained", "sentence"),
    [
        (
            0.005,
            0,
            0,
            "Back ends of cnn: openvino is the fastest in batches, 2.00 times eager (200 against 100 images/s; "
            "p < 0.0001); its accuracy is the same, 95.00 %; 0.24 MB are deployed, 0.90 MB with eager.",
        ),
        (
            0.005,
            40,
            2,
            "Back ends of cnn: openvino is the fastest in batches, 2.00 times eager (200 against 100 images/s; "
            "p < 0.0001); its accuracy is lower (-1.90 points, p < 0.0001, exact McNemar test); "
            "0.24 MB are deployed, 0.90 MB with eager.",
        ),
        (
            0.005,
            4,
            3,
            "Back ends of cnn: openvino is the fastest in batches, 2.00 times eager (200 against 100 images/s; "
            "p < 0.0001); its accuracy is not distinguishable from that of eager (-0.05 points, p = 1.0000, exact "
            "McNemar test); 0.24 MB are deployed, 0.90 MB with eager.",
        ),
        (0.01, 4, 3, "Back ends of cnn: openvino is not distinguishably faster than eager in batches."),
        (0.02, 4, 3, "Back ends of cnn: eager is the fastest in batches; next is openvino."),
    ],
)
def test_the_fastest_back_end_and_what_it_costs(
    rival: float, lost: int, gained: int, sentence: str, make_record: Make
) -> None:
    assert fastest_backend(with_backends(make_record, rival, lost, gained)) == sentence


def test_back_ends_on_two_machines_are_not_compared(make_record: Make) -> None:
    assert fastest_backend(with_backends(make_record, 0.005, 0, 0, device="A GPU")) is None
    assert fastest_backend(Entry("cnn", [make_record("cnn")], speeds(0.01))) is None


def test_the_table_of_back_ends(make_record: Make) -> None:
    entry = with_backends(make_record, 0.005, 40, 2)
    failed = Deployment(
        run_id="a",
        backend="compile",
        status="failed",
        reason="no compiler",
        prepared_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    comparison = Comparison("data", [replace(entry, deployments={**entry.deployments, "compile": failed})])

    table = backends_table(comparison)

    assert table is not None
    assert table.headers[1:4] == ["Back end", "Test accuracy", "Agreement with eager"]
    rows = [[cell.text for cell in row[1:3]] for row in table.rows]
    assert rows == [["eager", "95.00 %"], ["compile", "failed"], ["openvino", "93.10 %"]]
    assert "cnn by compile failed: no compiler." in backend_notes(comparison)
    assert backends_table(Comparison("data", [Entry("cnn", [make_record("cnn")])])) is None


def test_another_processor_is_another_machine(side: Callable[..., Side]) -> None:
    first = side("one", {0: None}, speeds(0.01))
    second = side("other", {0: None}, speeds(0.005), cpu="Another Processor")

    assert by_metric(compare(first, second))[TRAINING].word is Word.UNKNOWN


def test_a_95th_percentile_needs_samples(side: Callable[..., Side]) -> None:
    first, second = (side(name, {0: None}, speeds(0.01, samples=19)) for name in ("one", "other"))

    found = by_metric(compare(first, second))

    assert found[LATENCY_P50].word is Word.NOT_DISTINGUISHABLE
    assert "20 samples" in found[LATENCY_P95].sentence


# --- what is counted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "word", "words"),
    [
        (1000, 10_700, Word.MORE, "other has 10.7 times as many"),
        (1000, 1100, Word.MORE, "other has 10.0 % more"),
        (1000, 900, Word.FEWER, "other has 10.0 % fewer"),
        (1000, 1000, Word.SAME, "the same"),
        (None, 1000, Word.UNKNOWN, "not enough data to decide"),
    ],
)
def test_parameters_are_counted(one: int | None, other: int, word: Word, words: str, side: Callable[..., Side]) -> None:
    first, second = (
        side(name, {0: None}, total_parameters=number) for name, number in (("one", one), ("other", other))
    )

    found = by_metric(compare(first, second))[PARAMETERS]

    assert (found.word, found.p) == (word, "")
    assert words in found.sentence


def test_memory_is_compared_over_seeds(side: Callable[..., Side]) -> None:
    first, second = side("one", dict.fromkeys(range(3))), side("other", dict.fromkeys(range(3)), peak_memory_mb=1024.5)
    once = side("once", {0: None})

    assert by_metric(compare(first, second))[MEMORY].word is Word.WORSE
    assert by_metric(compare(first, second))[MEMORY].change == "+100.0 %"
    assert by_metric(compare(first, first))[MEMORY].word is Word.NOT_DISTINGUISHABLE
    assert by_metric(compare(first, once))[MEMORY].word is Word.UNKNOWN


# --- several --------------------------------------------------------------------------------------------------------


def verdict(p: float | None, metric: Metric = RECIPES, second: str = "b", why: str = "") -> Verdict:
    found = (
        None if p is None else Difference(-0.002, Interval(-0.004, 0.0001), p, "a test", Needed(19_359, "test images"))
    )
    return Verdict(metric, "a", second, 0.5, 0.498, found, why)


def test_holm_makes_several_comparisons_one_family() -> None:
    adjusted = with_holm([verdict(0.01), verdict(None), verdict(0.04), verdict(0.03)])

    assert [one.difference and one.difference.p for one in adjusted] == pytest.approx([0.03, None, 0.06, 0.06])
    assert [one.word for one in adjusted] == [Word.WORSE, Word.UNKNOWN, *[Word.NOT_DISTINGUISHABLE] * 2]
    assert "Holm for 3 comparisons" in adjusted[0].sentence
    assert with_holm([verdict(0.04), verdict(None)]) == [verdict(0.04), verdict(None)]


def test_a_sentence_says_it_all() -> None:
    assert verdict(0.0569).sentence == (
        "a vs b (recipe): not distinguishable, -0.20 points [-0.40, +0.01] (p = 0.0569, a test); "
        "about 19,359 test images would tell a difference of this size."
    )
    assert verdict(0.00001).sentence == (
        "a vs b (recipe): different, b is worse, -0.20 points [-0.40, +0.01] (p < 0.0001, a test)."
    )


def test_the_same_reason_is_said_once() -> None:
    several = [verdict(None, why="no seeds"), verdict(None, second="c", why="no seeds"), verdict(0.5)]
    metrics = [verdict(None, TRAINING, why="not timed"), verdict(None, INFERENCE, why="not timed")]

    assert sentences(several) == ["all pairs (recipe): not enough data to decide; no seeds.", several[2].sentence]
    assert sentences(metrics) == [
        "a vs b (training throughput, inference throughput): not enough data to decide; not timed."
    ]


def test_a_summary_compares_the_best_with_the_others(store: Store, make_record: Make) -> None:
    errors = {"a": 300, "b": 100, "c": 200, "d": 1000}
    for model, missed in errors.items():
        for seed in range(3):
            answers = said(wrong((0, missed + seed)))
            accuracy = 1 - (missed + seed) / IMAGES
            record = make_record(model, seed=seed, dataset=DATA, test_accuracy=accuracy)
            store.write(Result(record, predictions=answers))
    (comparison,) = comparisons(store.records()[0], store)

    found = findings(store, comparison)

    assert [(one.metric, one.first, one.second) for one in found[:3]] == [(RECIPES, other, "b") for other in "cad"]
    assert [one.metric for one in found[3:]] == [CHECKPOINTS] * 3
    assert {one.word for one in found} == {Word.BETTER}
    assert {one.family for one in found} == {3}


def test_a_summary_ranks_only_what_was_timed_alone_on_one_machine(store: Store, make_record: Make) -> None:
    records = [make_record(model, dataset=DATA) for model in "abcde"]
    how = [speeds(0.01), speeds(0.008), speeds(0.001, contended=True), speeds(0.002, threads=9), Speeds()]
    (comparison,) = comparisons(records)
    entries = [Entry(old.label, old.records, speed) for old, speed in zip(comparison.entries, how, strict=True)]

    found = [one for one in findings(store, type(comparison)("", entries)) if one.metric in (TRAINING, LATENCY_P50)]

    assert [(one.metric, one.first, one.second, one.word) for one in found] == [
        (TRAINING, "a", "b", Word.BETTER),
        (LATENCY_P50, "a", "b", Word.BETTER),
    ]


def test_of_one_job_there_is_nothing_to_say(store: Store, make_record: Make) -> None:
    (comparison,) = comparisons([make_record(seed=seed) for seed in range(3)])

    assert findings(store, comparison) == []
