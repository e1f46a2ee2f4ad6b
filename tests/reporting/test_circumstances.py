"""A reader is told where results were made under differing circumstances, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.reporting.circumstances import CIRCUMSTANCES, MOST_LABELS, among, between, pictures
from bench.reporting.entries import comparisons
from bench.reporting.footnotes import footnotes
from bench.spec import Record

Make = Callable[..., Record]


@pytest.mark.parametrize(
    ("field", "old", "new", "line"),
    [
        ("device", "cpu", "NVIDIA H100", "note: OLD was trained on the CPU, NEW on NVIDIA H100"),
        ("precision_used", "fp32", "bf16", "note: OLD was trained in fp32, NEW in bf16"),
        ("threads", 1, 16, "note: OLD was trained with 1 thread, NEW with 16 threads"),
        ("torch_version", "2.11.0", "2.15.0", "note: OLD was trained with torch 2.11.0, NEW with torch 2.15.0"),
    ],
)
def test_each_circumstance_has_its_line(field: str, old: Any, new: Any, line: str, make_record: Make) -> None:
    assert between("OLD", [make_record(**{field: old})], "NEW", [make_record(**{field: new})]) == [line]


def test_what_is_alike_or_not_recorded_is_not_mentioned(make_record: Make) -> None:
    assert not between("OLD", [make_record()], "NEW", [make_record(seed=1)])
    assert not between("OLD", [make_record(torch_version=None)], "NEW", [make_record()])
    assert among([("cnn", [make_record(), make_record(seed=1, torch_version=None)])]) == ""
    assert among([]) == ""


def test_a_side_of_several_versions_names_them_all(make_record: Make) -> None:
    sides = [make_record(threads=2), make_record(seed=1, threads=10)], [make_record(threads=2)]
    (line,) = between("a", sides[0], "b", sides[1])
    assert line == "note: a was trained with 2 threads and with 10 threads, b with 2 threads"


def test_all_circumstances_are_columns_of_a_record() -> None:
    assert {circumstance.column for circumstance in CIRCUMSTANCES} <= set(Record.model_fields)


def test_a_comparison_says_in_one_line_what_differs_within_and_between_jobs(make_record: Make) -> None:
    records = [
        make_record("cnn", threads=10),
        make_record("cnn", seed=1, threads=10, torch_version="2.11.0"),
        make_record("mobilenet", threads=2),
    ]
    (comparison,) = comparisons(records)
    assert footnotes(comparison)[-1] == (
        "Not all runs were trained alike, which may change a result: "
        "threads 2 (mobilenet), 10 (cnn); torch 2.11.0 (cnn), 2.15.0 (cnn, mobilenet)."
    )
    (alike,) = comparisons(records[:1])
    assert not any("trained alike" in note for note in footnotes(alike))


def test_many_jobs_are_counted(make_record: Make) -> None:
    jobs = [(f"model{number}", [make_record(threads=2)]) for number in range(MOST_LABELS + 1)]
    line = among([*jobs, ("other", [make_record(threads=1)])])
    assert line.endswith(f"threads 1 (other), 2 ({MOST_LABELS + 1} jobs).")


def test_one_line_says_which_models_see_which_pictures(make_record: Make) -> None:
    grey = make_record("cnn", input_size=28, input_channels=1)
    colour = make_record("mobilenet", input_size=224, input_channels=3, input_crop=0.875)

    line = pictures([("cnn", [grey]), ("other", [grey]), ("mobilenet", [colour])])

    assert line == (
        "The models see different pictures: 28 px, grey (cnn, other); 224 px, colour, the middle 88 % (mobilenet)."
    )
    assert pictures([("cnn", [grey]), ("other", [grey])]) == ""
    assert pictures([("old", [make_record(input_size=None)]), ("cnn", [grey])]) == ""
