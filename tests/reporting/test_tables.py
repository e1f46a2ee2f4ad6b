"""Tables say what the records say: nothing is mixed up, hidden, or in an order of its own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.reporting import tables as tables_module
from bench.reporting.entries import Comparison, comparisons, labels_of
from bench.reporting.footnotes import footnotes
from bench.reporting.formats import count, duration, percent
from bench.reporting.speed import summarise
from bench.reporting.store import Store
from bench.reporting.table import Table
from bench.reporting.tables import (
    accuracy,
    comparison_to_read,
    environment_table,
    runs_table,
)
from bench.spec import DatasetInfo, Recipe, Record, Status, Timing

MNIST = DatasetInfo(name="mnist", sha256="c" * 64, train_images=60000, test_images=10000, classes=10)

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

CHOICES = {"model": "cnn", "workers": 1, "weights": "none", "weights_sha256": None, "plugin_sha256": None}

Make = Callable[..., Record]


def cells(table: Table) -> dict[str, list[str]]:
    """The rows of a table and its headers, by their first cell."""
    rows = [list(table.headers), *([cell.text for cell in row] for row in table.rows)]
    return {row[0]: row[1:] for row in rows}


def only(records: list[Record]) -> Comparison:
    found = comparisons(records)
    assert len(found) == 1
    return found[0]


def labels(records: list[Record]) -> list[str]:
    return [entry.label for entry in only(records).entries]


# --- what is compared ---------------------------------------------------------------------------------------------


def test_only_runs_on_the_same_data_are_compared(make_record: Make) -> None:
    other_split = MNIST.model_copy(update={"sha256": "b" * 64})
    records = [make_record(dataset=MNIST), make_record("mobilenet"), make_record(), make_record(dataset=other_split)]

    found = comparisons(records)

    assert [comparison.title for comparison in found] == [
        "mnist: 60,000 training and 10,000 test images",
        "mnist: 60,000 training and 10,000 test images",
        "mnist-5k: 4,000 training and 1,000 test images",
    ]
    assert [len(comparison.entries) for comparison in found] == [1, 1, 2]


def test_runs_that_did_not_finish_are_not_compared(make_record: Make) -> None:
    statuses = [status for status in Status if status is not Status.OK]

    assert comparisons([make_record(status=status, seed=seed) for seed, status in enumerate(statuses)]) == []


def test_the_seeds_of_a_job_are_one_column(make_record: Make) -> None:
    entries = only([make_record(seed=2), make_record("mobilenet"), make_record(seed=0)]).entries

    assert [(entry.label, [run.seed for run in entry.records]) for entry in entries] == [
        ("cnn", [0, 2]),
        ("mobilenet", [0]),
    ]


def test_sizes_of_images_and_training_sets_are_said_in_labels(make_record: Make) -> None:
    sizes = [
        Recipe(train_size=images, image_size=pixels) for images, pixels in itertools.product((None, 1000), (None, 9))
    ]

    assert labels([make_record(recipe=recipe) for recipe in sizes]) == [
        "cnn (9 px, 1,000 images)",
        "cnn (9 px, all images)",
        "cnn (own size, 1,000 images)",
        "cnn (own size, all images)",
    ]


def test_trials_of_sweeps_are_not_compared(make_record: Make) -> None:
    assert labels([make_record(), make_record(recipe=Recipe(lr=0.5), judged_on="validation")]) == ["cnn"]


def test_jobs_of_one_model_are_told_apart_by_what_differs(make_record: Make) -> None:
    records = [
        make_record(recipe=Recipe(lr=0.001)),
        make_record(recipe=Recipe(lr=0.01)),
        make_record("mobilenet", recipe=Recipe(lr=0.01)),
    ]

    assert labels(records) == ["cnn (lr 0.001)", "cnn (lr 0.01)", "mobilenet"]


def test_a_label_names_no_more_than_tells_jobs_apart_and_a_note_has_the_rest(make_record: Make) -> None:
    frozen = [make_record(recipe=Recipe(image_size=pixels)) for pixels in (32, 64)]
    whole = make_record(recipe=Recipe(image_size=32, trainable="all", epochs=2, batch_size=128, schedule="one-cycle"))
    comparison = only([*frozen, whole])

    assert [entry.label for entry in comparison.entries] == [
        "cnn (trainable all, 32 px)",
        "cnn (trainable head, 32 px)",
        "cnn (trainable head, 64 px)",
    ]
    assert footnotes(comparison)[:2] == [
        "cnn (trainable all, 32 px): epochs 2, batch size 128, schedule one-cycle.",
        "cnn (trainable head, 32 px), cnn (trainable head, 64 px): epochs 5, batch size 64, schedule constant.",
    ]


RECIPES = st.builds(
    Recipe,
    epochs=st.sampled_from([1, 2]),
    lr=st.sampled_from([0.1, 0.2]),
    schedule=st.sampled_from(["constant", "cosine"]),
    trainable=st.sampled_from(["head", "all"]),
    image_size=st.sampled_from([None, 32, 64]),
    train_size=st.sampled_from([None, 100]),
)


@given(recipes=st.sets(RECIPES, min_size=2, max_size=8))
def test_labels_tell_jobs_apart_and_none_of_their_choices_can_go(recipes: set[Recipe]) -> None:
    jobs = {str(number): {**CHOICES, **vars(recipe)} for number, recipe in enumerate(recipes)}
    found = labels_of(jobs)

    assert len(set(found.values())) == len(jobs)
    assert not any("[" in label for label in found.values())
    choices = [label.removeprefix("cnn (").removesuffix(")").split(", ") for label in found.values()]
    assert len({len(named) for named in choices}) == 1
    for number in range(len(choices[0])):
        without = {tuple(named[:number] + named[number + 1 :]) for named in choices}
        assert len(without) < len(jobs), "a choice that could go"


OTHER_RECIPES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"optimizer": "sgd"}),
    ({}, {"weight_decay": 0.1}),
    ({}, {"momentum": 0.5}),
    ({}, {"beta2": 0.5}),
    ({}, {"schedule": "cosine"}),
    ({}, {"label_smoothing": 0.1}),
    ({}, {"precision": "bf16"}),
    ({}, {"trainable": "all"}),
    ({"image_size": 32}, {"image_size": 64}),
    ({}, {"image_size": 64}),
    ({}, {"train_size": 100}),
    ({}, {"validation_size": 100}),
    ({"validation_size": 9}, {"validation_size": 9, "target_accuracy": 0.9}),
]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"recipe": Recipe(epochs=3)}, {"recipe": Recipe(epochs=4)}),
        ({"recipe": Recipe(batch_size=32)}, {"recipe": Recipe(batch_size=64)}),
        ({"recipe": Recipe(lr=0.1)}, {"recipe": Recipe(lr=0.10000001)}),
        ({"recipe": Recipe(bn_mode="eval")}, {"recipe": Recipe(bn_mode="train")}),
        *[({"recipe": Recipe(**one)}, {"recipe": Recipe(**other)}) for one, other in OTHER_RECIPES],
        ({"workers": 1}, {"workers": 2}),
        ({"weights": "file a.pth", "weights_sha256": "1" * 64}, {}),
        ({"weights": "file a.pth", "weights_sha256": "1" * 64}, {"weights": "file a.pth", "weights_sha256": "2" * 64}),
        ({"plugin_sha256": "1" * 64}, {"plugin_sha256": "2" * 64}),
        ({"plugin_sha256": "1" * 64}, {}),
    ],
    ids=str,
)
def test_two_jobs_of_one_model_never_have_the_same_label(
    one: dict[str, Any], other: dict[str, Any], make_record: Make
) -> None:
    records = [make_record(**one), make_record(**other)]
    assert records[0].job_id != records[1].job_id

    found = labels(records)

    assert len(set(found)) == 2
    assert all(label.startswith("cnn (") for label in found)


# --- the order of records does not matter ---------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000))
def test_the_order_of_records_does_not_matter(seed: int, make_record: Make) -> None:
    records = [
        *[make_record(seed=seed, minutes=seed, test_accuracy=0.9 + seed / 100) for seed in range(3)],
        make_record(recipe=Recipe(lr=0.01), contended=True),
        make_record("mobilenet", weights="ImageNet", weights_sha256="1" * 64, memory_gb=99.0),
        make_record("mobilenet", weights="ImageNet", weights_sha256="1" * 64, seed=1, status=Status.FAILED),
        make_record(dataset=MNIST),
    ]
    shuffled = records.copy()
    random.Random(seed).shuffle(shuffled)  # noqa: S311

    assert comparisons(shuffled) == comparisons(records)
    assert [comparison_to_read(one) for one in comparisons(shuffled)] == [
        comparison_to_read(one) for one in comparisons(records)
    ]


# --- cells --------------------------------------------------------------------------------------------------------


def test_metrics_are_rows_and_models_are_columns(make_record: Make) -> None:
    records = [
        make_record(test_accuracy=0.98764, train_seconds=245.2, peak_memory_mb=1079.4),
        make_record("mobilenet", trainable_parameters=165_258, total_parameters=2_389_130, weights="ImageNet"),
    ]

    rows = cells(comparison_to_read(only(records)))

    assert rows["Metric"] == ["cnn", "mobilenet"]
    assert rows["Test accuracy"] == ["98.76 %", "98.76 %"]
    assert rows["Trainable parameters"] == ["225,034", "165,258"]
    assert rows["Total parameters"] == ["225,034", "2,389,130"]
    assert rows["Training time"] == ["4 min 05 s", "12.5 s"]
    assert rows["Training throughput"] == ["1,600 images/s", "1,600 images/s"]
    assert rows["Test throughput"] == ["2,000 images/s", "2,000 images/s"]
    assert rows["Peak memory of a worker"][0] == "1,079 MB"
    assert rows["MACs per image"][0] == "2,631,040"
    assert rows["Initial weights"] == ["random", "ImageNet"]
    assert (rows["Seeds"], rows["Epochs"]) == (["1", "1"], ["5", "5"])


def test_epochs_are_those_trained_and_the_one_kept(make_record: Make) -> None:
    early = {"recipe": Recipe(epochs=30, early_stopping=3, validation_size=100)}
    records = [make_record(seed=seed, epochs_done=9 + seed, best_epoch=6 + seed, **early) for seed in (0, 1, 2)]

    assert cells(comparison_to_read(only(records[:1])))["Epochs"] == ["9, kept 6"]
    assert cells(comparison_to_read(only(records)))["Epochs"] == ["10 (9 to 11), kept 7 (6 to 8)"]
    table = runs_table(records)
    assert [row[list(table.headers).index("Epochs")].text for row in table.rows] == ["9", "10", "11"]


def test_several_seeds_show_their_mean_with_its_interval_and_other_figures_their_range(make_record: Make) -> None:
    records = [
        make_record(seed=seed, test_accuracy=value, train_seconds=10 + seed)
        for seed, value in enumerate([0.98, 0.99, 0.985])
    ]

    rows = cells(comparison_to_read(only(records)))

    assert rows["Test accuracy"] == ["98.50 % [97.26, 99.74], n = 3"]
    assert rows["Training time"] == ["11.0 s (10.0 s to 12.0 s)"]
    assert rows["Total parameters"] == ["225,034"]  # nothing to range over
    assert rows["Seeds"] == ["3"]
    assert cells(comparison_to_read(only(records[:2])))["Test accuracy"] == ["98.50 %"]  # two are too few for one


def test_an_interval_does_not_leave_what_an_accuracy_can_be() -> None:
    assert accuracy([0.99, 1.0, 1.0]) == "99.67 % [98.23, 100.00], n = 3"


def test_a_checkpoints_accuracy_has_wilsons_interval(make_record: Make) -> None:
    record = make_record(dataset=MNIST, test_accuracy=0.992, test_correct=9920)

    assert cells(runs_table([record]))[record.run_id][1] == "99.20 % [99.01, 99.36]"
    failed = make_record(status=Status.FAILED)
    assert cells(runs_table([failed]))[failed.run_id][1] == "-"


def test_the_time_to_a_target_is_shown_with_how_many_reached_it(make_record: Make) -> None:
    recipe = Recipe(target_accuracy=0.99, validation_size=100)
    records = [
        make_record(recipe=recipe, seed=0, target_seconds=4.0),
        make_record(recipe=recipe, seed=1, target_seconds=6.0),
        make_record(recipe=recipe, seed=2),
        make_record("mobilenet", recipe=recipe),
        make_record("mlp"),
    ]

    rows = cells(comparison_to_read(only(records)))

    assert rows["Training until 99 % on validation"] == ["5.0 s (4.0 s to 6.0 s), 2 of 3 seeds", "-", "not reached"]


def test_with_many_jobs_the_jobs_are_rows(make_record: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [make_record(recipe=Recipe(epochs=epochs), test_accuracy=0.9 + epochs / 100) for epochs in range(1, 9)]
    comparison = only(records)

    rows = cells(comparison_to_read(comparison))

    assert [label for label in rows if label.startswith("cnn")] == [f"cnn (epochs {epochs})" for epochs in range(1, 9)]
    assert rows["Model"][0] == "Test accuracy"
    assert [row[0] for label, row in rows.items() if label.startswith("cnn")][:2] == ["91.00 %", "92.00 %"]

    monkeypatch.setattr(tables_module, "MOST_JOBS", 7)
    assert "cnn (epochs 1)" not in cells(comparison_to_read(comparison))
    assert "The 7 most accurate of 8 jobs." in footnotes(comparison)


# --- scores of the predictions ---------------------------------------------------------------------------------------


SCORES = {
    "test_top5_accuracy": 0.999,
    "test_balanced_accuracy": 0.75,
    "test_macro_f1": 0.7,
    "test_calibration_error": 0.0123,
}


def test_balanced_accuracy_and_f1_are_shown_where_classes_are_uneven(make_record: Make) -> None:
    rows = {}
    for imbalance in (1.5, 1.6):
        comparison = only([make_record(**SCORES, test_imbalance=imbalance), make_record("old")])
        rows[imbalance] = cells(comparison_to_read(comparison))

    assert rows[1.5]["Top-5 accuracy"] == rows[1.6]["Top-5 accuracy"] == ["99.90 %", "-"]
    assert rows[1.5]["Calibration error (ECE)"] == ["1.23 %", "-"]
    assert not {"Balanced accuracy", "Macro-F1"} & set(rows[1.5])
    assert (rows[1.6]["Balanced accuracy"], rows[1.6]["Macro-F1"]) == (["75.00 %", "-"], ["70.00 %", "-"])
    uneven = only([make_record(**SCORES, test_imbalance=1.6)])
    assert any("more than 1.5 times as many test images" in note for note in footnotes(uneven))


def test_scores_over_seeds_have_an_interval(make_record: Make) -> None:
    values = (0.7, 0.75, 0.8)
    records = [make_record(seed=n, test_imbalance=2.0, test_macro_f1=value) for n, value in enumerate(values)]

    assert cells(comparison_to_read(only(records)))["Macro-F1"] == [accuracy(values)]
    assert "n = 3" in accuracy(values)


def test_records_of_an_earlier_version_have_no_rows_of_scores(make_record: Make) -> None:
    rows = cells(comparison_to_read(only([make_record(), make_record("mobilenet")])))

    assert not {"Top-5 accuracy", "Balanced accuracy", "Macro-F1", "Calibration error (ECE)"} & set(rows)


# --- what was timed alone -------------------------------------------------------------------------------------------


def timings(run_id: str, kind: str, batch_size: int, seconds: list[float], **fields: Any) -> list[Timing]:
    shared = {"run_id": run_id, "kind": kind, "batch_size": batch_size, "measured_at": START, "backend": "eager"}
    shared |= {"contended": False, "device": "cpu", "threads": 2, "precision": "fp32", **fields}
    return [Timing(**shared, sample=number, seconds=value) for number, value in enumerate(seconds)]


@pytest.fixture
def timed(make_record: Make, tmp_path: Path) -> Callable[..., dict[str, list[str]]]:
    """The comparison of cnn, timed, and mobilenet, which is not."""
    store = Store(tmp_path)
    store.prepare()
    records = [make_record(), make_record("mobilenet")]

    def table(**fields: Any) -> dict[str, list[str]]:
        run_id = records[0].run_id
        rows = timings(run_id, "training", 64, [0.04] * 9, **fields)
        rows += timings(run_id, "inference", 1, [0.001 * number for number in range(1, 102)], **fields)
        rows += timings(run_id, "inference", 250, [0.05, 0.1, 0.2], **fields)
        store.write_timings(run_id, rows)
        (comparison,) = comparisons(records, store)
        return cells(comparison_to_read(comparison)) | {"notes": footnotes(comparison)}

    return table


def test_what_was_timed_alone_is_shown(timed: Callable[..., dict[str, list[str]]]) -> None:
    rows = timed()

    assert rows["Training throughput, exclusive"] == ["1,600 images/s", "-"]
    assert rows["Inference throughput, exclusive"] == ["2,500 images/s", "-"]
    assert rows["Latency of one image, p50 / p95"] == ["51.0 ms / 96.0 ms", "-"]
    assert rows["Latency of one image, p99"] == ["100 ms", "-"]
    assert "Training throughput" in rows  # of mobilenet there is no other
    assert any("CPU, 2 threads" in note for note in rows["notes"])
    assert not any("p99" in note for note in rows["notes"]), "mobilenet was not timed at all"


def test_energy_is_shown_where_it_was_counted(timed: Callable[..., dict[str, list[str]]]) -> None:
    assert "Energy for 1,000 images" not in timed()

    rows = timed(joules_per_image=0.01234)

    assert rows["Energy for 1,000 images"] == ["12.3 J", "-"]
    assert any(note.startswith("Energy: what the processors or the GPU counted") for note in rows["notes"])


def test_a_missing_p99_has_its_reason(make_record: Make, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    records = [make_record(), make_record("mobilenet")]
    for record, samples in zip(records, (100, 99), strict=True):
        store.write_timings(record.run_id, timings(record.run_id, "inference", 1, [0.001] * samples))
    (comparison,) = comparisons(records, store)

    assert cells(comparison_to_read(comparison))["Latency of one image, p99"] == ["1.00 ms", "-"]
    assert [note for note in footnotes(comparison) if note.startswith("Latency p99 needs 100 samples; where it is")]


def test_what_was_timed_while_others_ran_is_marked(timed: Callable[..., dict[str, list[str]]]) -> None:
    rows = timed(contended=True)

    for name in (
        "Training throughput, exclusive",
        "Inference throughput, exclusive",
        "Latency of one image, p50 / p95",
    ):
        assert rows[name][0].endswith(" *")
    assert any("not for ranking" in note for note in rows["notes"])


def test_where_some_blocks_were_taken_alone_only_those_count() -> None:
    disturbed = timings("a", "training", 64, [0.8] * 5, contended=True)
    alone = timings("a", "training", 64, [0.4] * 2, measured_at=START + timedelta(seconds=1))

    speed = summarise([disturbed + alone]).training

    assert speed is not None
    assert not speed.contended
    assert speed.images_per_second == 160


def test_blocks_and_sessions_are_kept_apart() -> None:
    blocks = [
        timings(run, "training", 64, [1.0 + number] * 2, measured_at=START + timedelta(seconds=number))
        for run in ("a", "b")
        for number in range(3)
    ]

    speed = summarise(reversed(blocks)).training

    assert speed is not None
    found = [[block.tolist() for block in session] for session in speed.sessions]
    assert found == [[[1, 1], [2, 2], [3, 3]]] * 2


def test_the_last_machine_counts() -> None:
    old = timings("a", "inference", 1, [0.5], threads=8)
    new = timings("b", "inference", 1, [0.25], measured_at=START + timedelta(days=1))

    speeds = summarise([new, old])

    assert speeds.single is not None
    assert speeds.single.machine == "CPU, 2 threads"
    assert speeds.single.latency["p50"] == 0.25
    assert (speeds.training, speeds.batches, summarise([]).all()) == (None, None, [])


def test_what_is_unknown_is_a_dash_and_not_zero(make_record: Make) -> None:
    records = [make_record(peak_memory_mb=None, macs=None), make_record("mobilenet", peak_memory_mb=0.0)]

    rows = cells(comparison_to_read(only(records)))

    assert rows["Peak memory of a worker"] == ["-", "0 MB"]
    assert rows["MACs per image"][0] == "-"


def test_seeds_of_which_some_lack_a_figure_show_the_others(make_record: Make) -> None:
    records = [make_record(peak_memory_mb=None), make_record(seed=1, peak_memory_mb=300.0)]

    assert cells(comparison_to_read(only(records)))["Peak memory of a worker"] == ["300 MB"]


@pytest.mark.parametrize("contended", [True, False, None])
def test_figures_that_other_runs_disturbed_are_marked(contended: bool | None, make_record: Make) -> None:
    comparison = only([make_record(contended=contended), make_record("mobilenet", contended=False)])

    rows = cells(comparison_to_read(comparison))

    for name in ("Training time", "Training throughput", "Test throughput"):
        assert rows[name][0].endswith(" *") == (contended is True)
        assert not rows[name][1].endswith("*")
    for name in ("Test accuracy", "Total parameters", "Peak memory of a worker"):
        assert not rows[name][0].endswith("*")
    assert any("same machine" in note for note in footnotes(comparison)) == (contended is True)


@pytest.mark.parametrize("cached", [True, False, None])
def test_times_that_earlier_features_shortened_are_marked(cached: bool | None, make_record: Make) -> None:
    comparison = only([make_record(features_cached=cached), make_record("mobilenet")])

    rows = cells(comparison_to_read(comparison))

    for name in ("Training time", "Training throughput"):
        assert rows[name][0].endswith(" +") == (cached is True)
        assert not rows[name][1].endswith("+")
    assert not rows["Test throughput"][0].endswith("+")
    assert any("features" in note for note in footnotes(comparison)) == (cached is True)


def test_one_disturbed_seed_marks_the_mean(make_record: Make) -> None:
    comparison = only([make_record(seed=0, contended=False), make_record(seed=1, contended=True)])

    assert cells(comparison_to_read(comparison))["Training time"][0].endswith(" *")


def test_a_footnote_says_what_one_seed_is_worth(make_record: Make) -> None:
    one = footnotes(only([make_record(), make_record("mobilenet"), make_record("mobilenet", seed=1)]))
    several = footnotes(only([make_record(), make_record(seed=1)]))

    assert any("With one seed" in note for note in one)
    assert not any("With one seed" in note for note in several)
    assert any("Two seeds" in note for note in several)
    three = footnotes(only([make_record(seed=seed) for seed in range(3)]))
    assert any("t-interval" in note for note in three)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (60, "1 min 00 s"),
        (245.2, "4 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3661, "1 h 01 min"),
        (36_000, "10 h 00 min"),
    ],
)
def test_a_duration_is_shown_in_a_fitting_unit(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_shares_are_percentages_and_counts_have_commas() -> None:
    assert (percent(0.98764), percent(1), percent(0)) == ("98.76 %", "100.00 %", "0.00 %")
    assert (count(2_389_130), count(999.6), count(0)) == ("2,389,130", "1,000", "0")


# --- all runs, and where they ran -----------------------------------------------------------------------------------


def test_every_run_is_a_row_whatever_its_status(make_record: Make) -> None:
    records = [make_record(seed=seed, status=status, minutes=seed) for seed, status in enumerate(Status)]

    rows = cells(runs_table(records))

    for record in records:
        row = rows[record.run_id]
        assert row[0] == record.status
        assert row[1] == ("98.76 % [97.91, 99.31]" if record.status is Status.OK else "-")
    ok = rows[records[0].run_id]
    assert ok[2:8] == ["5", "64", "0.001", "eval", "1 x 2 threads", "12.5 s"]
    assert ok[8] == "2026-01-02 03:04:05 to 03:04:35"
    assert rows[records[1].run_id][6] == "1 x -"


def test_where_it_was_measured_is_complete(make_record: Make) -> None:
    records = [
        make_record(),
        make_record("mobilenet", weights="file a.pth", weights_sha256="1" * 64, torch_version="2.16.0"),
    ]

    rows = cells(environment_table(records))

    assert rows["CPU"] == ["Some Processor @ 2.50GHz"]
    assert rows["PyTorch"] == ["2.15.0; 2.16.0"]
    assert rows["Memory"] == ["25.3 GB"]
    assert rows["Data set"] == ["mnist-5k (SHA-256 dddddddddddddddd...)"]
    assert rows["Weights of cnn"] == ["random"]
    assert rows["Weights of mobilenet"] == ["file a.pth (SHA-256 1111111111111111...)"]
    assert rows["Git commit"] == ["0123456789abcdef+"]


def test_what_is_not_known_of_a_machine_is_a_dash(make_record: Make) -> None:
    assert cells(environment_table([make_record(memory_gb=None)]))["Memory"] == ["-"]
