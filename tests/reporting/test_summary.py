"""summary.md is a pure function of the records, and a Markdown page whatever they say."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from factories import DIGITS
from markdown_it import MarkdownIt

from bench.reporting.store import Store
from bench.reporting.summary import look, render, write_summary
from bench.reporting.terminal import print_results
from bench.spec import Recipe, Record, Result, Status

Make = Callable[..., Record]


def page_of(records: list[Record], set_aside: tuple[str, ...] = ()) -> str:
    """The summary of records beside which nothing is stored."""
    found = look(Store(Path("nowhere")), records)
    return render(replace(found, set_aside=list(set_aside)))


def tables(page: str) -> list[list[list[str]]]:
    """The tables of a Markdown page as a Markdown reader sees them: the text of each cell of each row."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    found: list[list[list[str]]] = []
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open") and following is not None:
            children = following.children or []
            found[-1][-1].append("".join(child.content for child in children if child.type != "softbreak"))
    return found


def bullets(page: str) -> list[str]:
    """The text of each list item of a Markdown page."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    items: list[str] = []
    depth = 0
    for token in tokens:
        if token.type in ("bullet_list_open", "bullet_list_close"):
            depth += token.nesting
        elif token.type == "list_item_open":
            items.append("")
        elif token.type == "inline" and depth:
            items[-1] += token.content
    return items


def headings(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("#")]


@pytest.fixture
def several(make_record: Make) -> list[Record]:
    return [
        make_record(contended=True),
        make_record(seed=1, minutes=1),
        make_record(recipe=Recipe(lr=0.01), minutes=2),
        make_record("mobilenet", minutes=3, weights="ImageNet (bundled)", weights_sha256="1" * 64),
        make_record("mobilenet", seed=1, minutes=4, status=Status.OOM, reason="MemoryError: no room"),
        make_record("mobilenet", seed=2, minutes=5, status=Status.TIMEOUT, reason=None),
    ]


def test_the_same_records_give_the_same_bytes(several: list[Record], tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    for record in several:
        store.write(Result(record))

    pages = [write_summary(store).read_bytes() for _ in range(2)]

    assert pages[0] == pages[1]
    assert write_summary(store) == tmp_path / "summary.md"
    assert pages[0].decode() == page_of(store.records()[0])


def test_the_order_in_which_runs_were_stored_does_not_matter(several: list[Record], tmp_path: Path) -> None:
    pages = set()
    for attempt in range(4):
        store = Store(tmp_path / str(attempt))
        store.prepare()
        shuffled = several.copy()
        random.Random(attempt).shuffle(shuffled)  # noqa: S311
        for record in shuffled:
            store.write(Result(record))
        pages.add(write_summary(store).read_bytes())

    assert len(pages) == 1


def test_a_page_compares_and_lists_all_runs(several: list[Record]) -> None:
    page = page_of(several)

    assert headings(page) == [
        "# Benchmark results",
        "## mnist-5k: 4,000 training and 1,000 test images",
        "### Details: the comparisons on mnist-5k: 4,000 training and 1,000 test images",
        "## Runs that did not finish",
        "## Every run",
        "## Where it was measured",
    ]
    comparison, runs, _ = tables(page)
    assert comparison[0] == ["Metric", "cnn (lr 0.001)", "cnn (lr 0.01)", "mobilenet"]
    assert [row[0] for row in runs[1:]] == [record.run_id for record in several]
    assert page.endswith("\n")
    assert not page.endswith("\n\n")


def test_runs_that_did_not_finish_are_listed_with_status_and_reason(several: list[Record]) -> None:
    oom, timeout = several[-2:]

    assert [bullet for bullet in bullets(page_of(several)) if bullet.startswith("`")] == [
        f"`{oom.run_id}`: oom. MemoryError: no room",
        f"`{timeout.run_id}`: timeout.",
    ]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_without_a_finished_run_the_page_still_says_what_happened(status: Status, make_record: Make) -> None:
    record = make_record(status=status)

    page = page_of([record])

    assert bullets(page) == [f"`{record.run_id}`: {status}. it broke"]
    assert "No run has finished yet" in page
    assert len(tables(page)) == 1


def test_an_empty_page_says_which_command_makes_runs(tmp_path: Path) -> None:
    page = write_summary(Store(tmp_path)).read_text()

    assert "python -m bench.run" in page
    assert tables(page) == []


def test_files_that_were_set_aside_are_listed(make_record: Make) -> None:
    page = page_of([make_record()], ("a.parquet", "b.parquet"))

    assert "## Set aside" in headings(page)
    assert bullets(page) == ["`a.parquet`", "`b.parquet`"]


@pytest.mark.parametrize("name", ["a|b", "|", "a\nb", "`a"])
def test_a_models_name_does_not_break_the_tables(name: str, make_record: Make) -> None:
    records = [make_record(name), make_record("cnn"), make_record(name, seed=1, status=Status.FAILED)]

    comparison, runs, environment = tables(page_of(records))

    for table in (comparison, runs, environment):
        assert {len(row) for row in table} == {len(table[0])}
    assert sorted(comparison[0][1:]) == sorted([" ".join(name.split()), "cnn"])
    accuracies = next(row for row in comparison if row[0] == "Test accuracy")
    assert accuracies[1:] == ["98.76 %", "98.76 %"]
    assert len(bullets(page_of(records))) == 3  # two verdicts and a failure
    assert [row[0] for row in runs[1:]] == [record.run_id for record in records]
    assert {len(row) for row in environment} == {2}


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", "</td><b>", "<!-- x", "<?php"])
def test_no_name_and_no_reason_is_html(evil: str, make_record: Make) -> None:
    strange = DIGITS.model_copy(update={"name": evil})
    failed = make_record(evil, seed=4, status=Status.FAILED, reason=f"it raised {evil}")
    records = [make_record(evil), make_record("cnn"), make_record("other", dataset=strange), failed]
    found = look(Store(Path("nowhere")), records)

    page = render(found, sections=[f"tuned {evil}"])

    parsed = MarkdownIt("commonmark").enable("table").parse(page)
    inside = [child for token in parsed for child in token.children or []]
    assert not [token for token in [*parsed, *inside] if token.type in ("html_block", "html_inline")]
    assert page.count(evil.replace("<", "&lt;")) >= 5


@pytest.mark.parametrize("field", ["cpu", "weights", "platform"])
def test_what_a_machine_or_a_file_is_called_does_not_break_the_tables(field: str, make_record: Make) -> None:
    values = {field: "one | other"}

    page_tables = tables(page_of([make_record(**values, weights_sha256="1" * 64)]))

    assert any("one | other" in cell for table in page_tables for row in table for cell in row)


@pytest.mark.parametrize("reason", ["first line\nsecond line", "first\n\n# a heading", "- one\n- two", "a\r\nb"])
def test_a_reason_of_several_lines_is_one_item(reason: str, make_record: Make) -> None:
    record = make_record(status=Status.FAILED, reason=reason)

    page = page_of([record])

    assert headings(page) == ["# Benchmark results", "## Runs that did not finish", "## Every run"]
    assert len(bullets(page)) == 1
    assert reason.rsplit(maxsplit=1)[-1] in bullets(page)[0]


# --- what can be told ---------------------------------------------------------------------------------------------


def test_the_page_says_what_can_be_told(make_record: Make) -> None:
    records = [
        make_record(model, seed=seed, test_accuracy=accuracy + seed / 1000, minutes=seed)
        for seed in range(3)
        for model, accuracy in (("cnn", 0.99), ("mobilenet", 0.8))
    ]

    first = bullets(page_of(records))[0]

    assert first.startswith("mobilenet vs cnn (recipe): different, cnn is better, +19.00 points [")
    assert "report.html" in page_of(records)


def test_one_seed_says_nothing_about_a_recipe(make_record: Make) -> None:
    page = page_of([make_record(), make_record("mobilenet", test_accuracy=0.5)])

    assert "run at least 3 seeds of each (--seeds 3)" in page
    assert "not enough data to decide" in bullets(page)[0]


def test_trials_of_a_sweep_are_neither_compared_nor_listed(make_record: Make) -> None:
    trials = [make_record(recipe=Recipe(lr=lr), judged_on="validation", sweep_id="s", minutes=1) for lr in (0.1, 0.2)]
    stopped = make_record(recipe=Recipe(lr=0.3), status=Status.STOPPED, judged_on="validation", sweep_id="s")
    record = make_record(lr_source="a sweep of 3 trials")

    page = page_of([record, *trials, stopped])

    comparison, runs, _ = tables(page)
    assert comparison[0] == ["Metric", "cnn"]
    assert [row[0] for row in runs[1:]] == [record.run_id]
    assert "The 3 trials of sweeps" in page
    assert "cnn: its learning rate came from a sweep of 3 trials." in page
    assert "did not finish" not in page


def test_further_sections_are_part_of_the_page(make_record: Make) -> None:
    page = render(look(Store(Path("nowhere")), [make_record()]), ["## Sweeps", "Some text."])

    assert headings(page)[2:4] == ["## Sweeps", "## Every run"]


def test_a_folder_of_many_runs_has_a_short_page(make_record: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.reporting.summary.MOST_RUNS", 10)
    monkeypatch.setattr("bench.reporting.summary.MOST_FAILED", 3)
    records = [make_record(seed=seed, minutes=seed) for seed in range(8)]
    records += [make_record(seed=seed, minutes=seed, status=Status.FAILED) for seed in range(8, 16)]

    page = page_of(records)

    _, runs, _ = tables(page)
    assert [row[0] for row in runs[1:]] == [record.run_id for record in records[-10:]]
    assert "These are 10 of 16 runs" in page
    assert [bullet.split("`")[1] for bullet in bullets(page)] == [record.run_id for record in records[-3:]]
    assert "The last 3 of 8." in page


def test_the_terminal_says_the_same(several: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_results(look(Store(tmp_path), several))

    shown = capsys.readouterr().out
    assert "mnist-5k: 4,000 training and 1,000 test images" in shown
    assert "- all pairs (recipe): not enough data to decide" in shown
    assert f"{several[-2].run_id}: oom: MemoryError: no room" in shown
