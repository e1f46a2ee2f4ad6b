"""The answer: which candidate to use, read in the pages of five results folders as a new user would read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from factories import record_of
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.reporting.answer import Answer, Candidate, Choice, _dominated, answer_of, parse_budget
from bench.reporting.store import Store
from bench.reporting.summary import Overview, look, render, write_answers
from bench.spec import DatasetInfo, Predictions, Recipe, Record, Result, Status, Timing

IMAGES = 10_000
DATA = DatasetInfo(name="photos", sha256="d" * 64, train_images=50_000, test_images=IMAGES, classes=10)

Folder = Callable[..., Overview]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A function that stores models with these accuracies, rates and sizes, and looks at the folder."""
    store = Store(tmp_path)
    store.prepare()

    def make(*models: tuple[str, Sequence[float], float | None, int], failed: dict[str, str] | None = None) -> Overview:
        for name, accuracies, rate, parameters in models:
            for seed, accuracy in enumerate(accuracies):
                add(store, name, seed, accuracy, rate, parameters)
        for name, reason in (failed or {}).items():
            record = record_of(name, dataset=DATA, status=Status.OOM, reason=reason)
            store.write(Result(record))
        return look(store)

    return make


def add(store: Store, name: str, seed: int, accuracy: float, rate: float | None, parameters: int) -> None:
    record = record_of(
        name, seed=seed, dataset=DATA, test_accuracy=accuracy, total_parameters=parameters, minutes=2 * seed
    )
    record = record.model_copy(update={"ended_at": record.started_at + timedelta(minutes=1)})
    random = np.random.default_rng([seed, len(name), ord(name[0])])
    labels = np.zeros(IMAGES, dtype=np.int16)
    predicted = labels.copy()
    predicted[random.permutation(IMAGES)[: round((1 - accuracy) * IMAGES)]] = 1
    store.write(Result(record, predictions=Predictions(labels, predicted, np.full(IMAGES, 0.9, dtype=np.float32))))
    if rate is not None:
        shared = {"run_id": record.run_id, "kind": "inference", "backend": "eager", "contended": False}
        shared |= {"device": "cpu", "threads": 2, "precision": "fp32", "measured_at": record.ended_at}
        rows = [
            Timing(**shared, batch_size=size, sample=sample, seconds=size / rate, reference_seconds=0.01)
            for size in (1, 250)
            for sample in range(20)
        ]
        store.write_timings(record.run_id, rows)


def said(overview: Overview) -> str:
    (answer,) = overview.answers
    return " ".join(answer.sentences)


def used(overview: Overview) -> str | None:
    (answer,) = overview.answers
    return answer.use


# --- five folders ----------------------------------------------------------------------------------------------------


def test_a_clear_winner_is_named_with_its_reasons(folder: Folder) -> None:
    seen = folder(
        ("cnn", (0.991, 0.9915, 0.9912), 10_000, 225_034), ("mobilenet", (0.811, 0.812, 0.8105), 2_500, 2_389_130)
    )

    assert (
        said(seen)
        == "Use cnn: 99.1 % right against 81.1 % with mobilenet, 4 times as many images/s and a tenth of the size."
    )


def test_a_trade_off_says_what_each_is_good_for(folder: Folder) -> None:
    seen = folder(
        ("resnet", (0.952, 0.9525, 0.9515), 1_000, 11_000_000), ("cnn", (0.94, 0.9405, 0.9395), 3_000, 200_000)
    )

    assert said(seen) == (
        "Use resnet (95.2 % right against 94.0 %) unless you need more than 1,000 images/s on such a machine: cnn has "
        "3 times as many images/s and 2 % of the size."
    )


def test_of_a_tie_the_cheaper_one_is_chosen(folder: Folder) -> None:
    seen = folder(("cnn", (0.9903, 0.9914, 0.9908), 1_000, 225_000), ("slim", (0.9907, 0.9905, 0.9911), 2_000, 160_000))

    assert used(seen) == "slim"
    assert said(seen).startswith(
        "Use slim: as good as cnn as far as can be told (99.08 % and 99.08 % right), 2 times as many images/s and 71 % "
        "of the size."
    )


def test_one_seed_each_is_undecided_and_says_what_would_decide(folder: Folder) -> None:
    seen = folder(("cnn", (0.991,), 1_000, 225_000), ("slim", (0.9905,), 1_000, 225_000))

    assert said(seen) == (
        "cnn or slim, there is no difference to see: 99.10 % and 99.05 % right, equally fast and large. One seed each: "
        "run again with --seeds 5 to be sure that it is the model and not the luck of one training (about 4 minutes)."
    )


def test_a_candidate_that_failed_is_named_with_its_reason(folder: Folder) -> None:
    seen = folder(("cnn", (0.99, 0.991, 0.992), 1_000, 225_000), failed={"huge": "memory ran out"})

    assert said(seen) == (
        "cnn is the only one to choose: 99.1 % right, 1.00 ms for one image, 225,000 parameters. "
        "huge did not finish (oom: memory ran out), so it is left out."
    )


# --- rules ---------------------------------------------------------------------------------------------------------


def test_with_one_seed_and_a_large_difference_the_better_is_used_so_far(folder: Folder) -> None:
    seen = folder(("cnn", (0.991,), None, 225_034), ("mobilenet", (0.812,), None, 2_389_130))

    assert said(seen) == (
        "Use cnn: 99.1 % right against 81.2 % with mobilenet and a tenth of the size. One seed each: run again with "
        "--seeds 5 to be sure that it is the model and not the luck of one training (about 4 minutes)."
    )


def test_what_is_better_in_no_respect_is_said_once(folder: Folder) -> None:
    seen = folder(
        ("best", (0.95,) * 3, 1_000, 1_000_000),
        ("slow", (0.93,) * 3, 500, 2_000_000),
        ("large", (0.92,) * 3, 900, 3_000_000),
    )

    (answer,) = seen.answers
    assert answer.front == ["best"]
    assert answer.dominated == {"slow": "best", "large": "best"}
    assert "No reason to choose slow and large: another is at least as accurate, fast and small." in answer.sentences


def test_a_preference_or_a_budget_chooses_among_the_front(folder: Folder, tmp_path: Path) -> None:
    folder(
        ("resnet", (0.95,) * 3, 1_000, 11_000_000),
        ("fast", (0.92,) * 3, 4_000, 8_000_000),
        ("tiny", (0.90,) * 3, 2_000, 100_000),
    )
    store = Store(tmp_path)

    def choice(prefer: str = "accuracy", budget: str = "") -> Answer:
        (answer,) = look(store, None, Choice(prefer, parse_budget(budget))).answers  # type: ignore[arg-type]
        return answer

    assert choice().use == "resnet"
    assert choice("latency").use == "fast"
    assert choice("size").use == "tiny"
    assert choice(budget="latency<0.6ms").use == "fast"
    assert choice(budget="size<5MB").use == "tiny"
    assert choice(budget="throughput>1500, accuracy>91%").use == "fast"
    nothing = choice(budget="accuracy>99%")
    assert (nothing.use, nothing.sentences) == (None, ["No candidate keeps accuracy>99%."])
    assert "Left out, as beyond size<5MB: fast and resnet." in choice(budget="size<5MB").sentences


@pytest.mark.parametrize("text", ["latency", "latency<2", "speed<2ms", "size<5ms", "latency<2ms size<5MB", "size<x MB"])
def test_a_budget_that_is_no_limit_is_refused_with_what_is_possible(text: str) -> None:
    with pytest.raises(UserError, match="latency<2ms") as caught:
        parse_budget(text)

    assert "parameters" in str(caught.value)


def test_only_the_jobs_with_the_most_training_images_are_candidates(tmp_path: Path) -> None:
    store = Store(tmp_path)
    records = [
        record_of(model, seed=seed, dataset=DATA, recipe=Recipe(train_size=size), test_accuracy=accuracy)
        for model, size, accuracy in (("cnn", 100, 0.99), ("cnn", 1000, 0.6), ("mobilenet", 1000, 0.7))
        for seed in range(3)
    ]

    (answer,) = look(store, records).answers

    assert answer.use == "mobilenet"
    assert [candidate.label for candidate in answer.candidates] == ["cnn", "mobilenet"]


sizes = st.one_of(st.none(), st.floats(1, 1e6))
candidates = st.lists(
    st.builds(
        Candidate,
        label=st.uuids().map(str),
        accuracy=st.floats(0, 1),
        seeds=st.just(3),
        images_per_second=sizes,
        latency=st.none(),
        parameters=st.one_of(st.none(), st.integers(1, 10**9)),
    ),
    min_size=1,
    max_size=8,
)


@given(candidates)
def test_the_most_accurate_is_dominated_only_by_its_equals_and_the_front_is_never_empty(
    drawn: list[Candidate],
) -> None:
    ranked = sorted(drawn, key=lambda each: -each.accuracy)
    dominated = _dominated(ranked, {ranked[0].label})

    front = [each for each in ranked if each.label not in dominated]
    assert front
    if ranked[0].accuracy > max((each.accuracy for each in ranked[1:]), default=-1):
        assert ranked[0] in front


# --- pages ---------------------------------------------------------------------------------------------------------


def test_the_answer_is_the_first_thing_in_the_summary_and_a_file_for_programs(folder: Folder, tmp_path: Path) -> None:
    seen = folder(("cnn", (0.99,), None, 1000), ("mobilenet", (0.8,), None, 2000))

    first = render(seen).split("\n\n")[2]
    (written,) = json.loads(write_answers(Store(tmp_path), seen).read_text())

    assert first.startswith(
        "**Use cnn: 99.0 % right against 80.0 % with mobilenet and half of the size.** One seed each"
    )
    assert written["use"] == "cnn"
    assert written["data"].startswith("photos")
    assert [candidate["label"] for candidate in written["candidates"]] == ["cnn", "mobilenet"]


def test_the_answer_needs_no_words_of_the_trade(folder: Folder) -> None:
    texts = [
        said(folder(("a", (0.9, 0.91, 0.92), 10, 1000), ("b", (0.5, 0.51, 0.52), 30, 100))),
        said(folder(("c", (0.9, 0.91, 0.92), 10, 1000))),
    ]

    for text in texts:
        assert not {"recipe", "checkpoint", "interval", "p", "hyperparameter", "Pareto"} & set(text.split())


def test_records_without_an_accuracy_have_no_answer() -> None:
    unscored: Record = record_of(dataset=DATA, test_accuracy=None)
    (comparison,) = look(Store(Path("nowhere")), [unscored]).comparisons

    assert answer_of(Store(Path("nowhere")), comparison).sentences == []
