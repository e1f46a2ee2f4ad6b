"""results/summary.md: a pure function of what is stored, so that making it again gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.reporting.backends import backend_sentences
from bench.reporting.entries import Comparison, comparisons, tested
from bench.reporting.formats import count, one_line
from bench.reporting.store import Store
from bench.reporting.table import as_markdown
from bench.reporting.tables import (
    backend_notes,
    backends_table,
    comparison_to_read,
    environment_table,
    footnotes,
    runs_table,
)
from bench.reporting.verdicts import findings, sentences
from bench.spec import Record, Status

MOST_RUNS = 200
"""The most runs in the table of runs; the last ones are shown."""
MOST_FAILED = 50
"""The most runs in the list of those that did not finish; the last ones are shown."""
REPORT = "[report.html](report.html) has the same with plots, tables that sort, and the images that models got wrong."


@dataclass(frozen=True)
class Found:
    """All that pages and terminal show of a results folder, worked out once."""

    records: list[Record]
    """All records, by start time."""
    comparisons: list[Comparison]
    verdicts: list[list[str]]
    """The findings of each comparison, in sentences."""
    set_aside: list[str]
    """The names of files that are no records."""


def look(store: Store, records: Sequence[Record] | None = None) -> Found:
    """Work out what pages and terminal show.

    Args:
        store: the results folder.
        records: the records that :meth:`Store.records` returned; None reads them.
    """
    if records is None:
        records, _ = store.records(set_aside=True)
    compared = comparisons(records, store)
    verdicts = [[*sentences(findings(store, comparison)), *backend_sentences(comparison)] for comparison in compared]
    return Found(list(records), compared, verdicts, store.set_aside())


def write_summary(store: Store, found: Found | None = None, sections: Sequence[str] = ()) -> Path:
    """Write summary.md and return its path.

    Args:
        store: the results folder.
        found: the result of :func:`look`; None calls it.
        sections: further parts in Markdown, put before the list of runs.

    Raises:
        UserError: the page cannot be written.
    """
    return store.write_text("summary.md", render(found or look(store), sections))


def render(found: Found, sections: Sequence[str] = ()) -> str:
    """Return the page as Markdown."""
    parts = ["# Benchmark results"]
    records = tested(found.records)
    trials = len(found.records) - len(records)
    finished = [record for record in records if record.status is Status.OK]
    for comparison, verdicts in zip(found.comparisons, found.verdicts, strict=True):
        parts += [f"## {comparison.title}", as_markdown(comparison_to_read(comparison))]
        parts += footnotes(comparison)
        if (backends := backends_table(comparison)) is not None:
            parts += [f"### Back ends on {comparison.title}", as_markdown(backends), *backend_notes(comparison)]
        if verdicts:
            parts.append("\n".join(f"- {one_line(sentence)}" for sentence in verdicts))
    if not finished:
        parts.append("No run has finished yet. `python -m bench.run` trains the default models.")
    parts += sections
    if finished:
        parts.append(REPORT)
    failed = [record for record in records if record.status is not Status.OK]
    if failed:
        parts.append("## Runs that did not finish")
        if len(failed) > MOST_FAILED:
            parts.append(f"The last {MOST_FAILED} of {count(len(failed))}.")
        parts.append(
            "\n".join(
                f"- `{record.run_id}`: {record.status}. {one_line(record.reason or '')}".rstrip()
                for record in failed[-MOST_FAILED:]
            )
        )
    if records:
        parts.append("## Every run" if len(records) <= MOST_RUNS else "## The last runs")
        notes = ["Accuracy is that of one checkpoint, in brackets its 95 % Wilson interval over the test images."]
        if len(records) > MOST_RUNS:
            notes.append(f"These are {MOST_RUNS} of {count(len(records))} runs; `runs/` has all of them.")
        if trials:
            notes.append(f"The {count(trials)} trials of sweeps, which never saw the test images, are left out.")
        parts += [" ".join(notes), as_markdown(runs_table(records[-MOST_RUNS:]))]
    if finished:
        parts += ["## Where it was measured", as_markdown(environment_table(finished))]
        parts.append(
            "Each row of `runs/*.parquet` is one run; its epochs, predictions and trained model are in the folders "
            "beside it under the same name."
        )
    if found.set_aside:
        parts.append("## Set aside")
        parts.append("These files in `runs/` were no records of runs; they are in `set-aside/` now.")
        parts.append("\n".join(f"- `{one_line(name)}`" for name in found.set_aside))
    return "\n\n".join(parts) + "\n"
