"""results/summary.md: a pure function of what is stored, so that making it again gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from bench.reporting.answer import Answer, Choice, answer_of
from bench.reporting.backends import backend_sentences
from bench.reporting.devices import by_device_notes, by_device_table
from bench.reporting.entries import Comparison, comparisons, data_key, tested
from bench.reporting.footnotes import backend_notes, footnotes
from bench.reporting.formats import count, one_line, without_html
from bench.reporting.groups import grouped
from bench.reporting.mistakes import answered, class_names, confused
from bench.reporting.per_class import by_class, by_class_notes, by_class_table
from bench.reporting.store import Store
from bench.reporting.table import as_markdown
from bench.reporting.tables import (
    backends_table,
    comparison_to_read,
    confused_notes,
    confused_table,
    environment_table,
    runs_table,
)
from bench.reporting.train_sizes import crossing_sentences
from bench.reporting.verdicts import findings, sentences
from bench.spec import Record, Status
from bench.storage import Place

MOST_RUNS = 200
"""The most runs in the table of runs; the last ones are shown."""
MOST_FAILED = 50
"""The most runs in the list of those that did not finish; the last ones are shown."""
REPORT = "[report.html](report.html) has the same with plots, tables that sort, and the images that models got wrong."
ONE_CHECKPOINT = (
    "Accuracy is that of one trained model, and in brackets where it likely lies for other test images of the kind "
    "(95 % Wilson interval)."
)
SET_ASIDE = "These files in `runs/` were no records of runs; they are in `set-aside/` now."


@dataclass(frozen=True)
class Overview:
    """All that pages and terminal show of a results folder, worked out once."""

    records: list[Record]
    """All records, by start time."""
    comparisons: list[Comparison]
    verdicts: list[list[str]]
    """The findings of each comparison, in sentences."""
    answers: list[Answer]
    """Which candidate of each comparison to use."""
    set_aside: list[str]
    """The names of the files that were moved to set-aside/, since they are no records."""

    @cached_property
    def tested(self) -> list[Record]:
        """Return all runs but the trials of sweeps."""
        return tested(self.records)

    @cached_property
    def finished(self) -> list[Record]:
        """Return the runs that finished, without the trials of sweeps."""
        return [record for record in self.tested if record.status is Status.OK]

    @cached_property
    def failed(self) -> list[Record]:
        """Return the runs that did not finish, without the trials of sweeps."""
        return [record for record in self.tested if record.status is not Status.OK]


def look(store: Store, records: Sequence[Record] | None = None, choice: Choice = Choice()) -> Overview:  # noqa: B008
    """Work out what pages and terminal show.

    Args:
        store: the results folder.
        records: the records that :meth:`Store.records` returned; None reads them.
        choice: what chooses among candidates of which none is better in all respects.
    """
    if records is None:
        records, _ = store.records(set_aside=True)
    compared = [_with_mistakes(store, comparison) for comparison in comparisons(records, store)]
    verdicts = [
        [*sentences(findings(store, comparison)), *backend_sentences(comparison), *crossing_sentences(comparison)]
        for comparison in compared
    ]
    lost = grouped((record for record in tested(records) if record.status is not Status.OK), data_key)
    answers = [
        answer_of(store, comparison, lost.get(data_key(comparison.entries[0].records[0]), []), choice)
        for comparison in compared
    ]
    return Overview(list(records), compared, verdicts, answers, store.set_aside())


def _with_mistakes(store: Store, comparison: Comparison) -> Comparison:
    """Return a comparison with what the best jobs get wrong, by class; their predictions are read once for both."""
    scored = [entry for entry in comparison.entries if entry.accuracies]
    if not scored:
        return comparison
    jobs, names = answered(store, scored), class_names(store, scored)
    return replace(comparison, by_class=by_class(jobs, names), confused=confused(jobs, names))


def write_summary(store: Store, overview: Overview | None = None, sections: Sequence[str] = ()) -> Place:
    """Write summary.md and return its path.

    Args:
        store: the results folder.
        overview: the result of :func:`look`; None calls it.
        sections: further parts in Markdown, put before the list of runs.

    Raises:
        UserError: the page cannot be written.
    """
    return store.write_text("summary.md", render(overview or look(store), sections))


def write_answers(store: Store, overview: Overview) -> Place:
    """Write answer.json, which says for each data set what to use and why; return its path.

    Raises:
        UserError: the file cannot be written.
    """
    titles = (comparison.title for comparison in overview.comparisons)
    answers = [{"data": title, **asdict(answer)} for title, answer in zip(titles, overview.answers, strict=True)]
    return store.write_text("answer.json", json.dumps(answers, indent=1, ensure_ascii=False) + "\n")


def render(overview: Overview, sections: Sequence[str] = ()) -> str:
    """Return the page as Markdown; ``sections`` are further parts in Markdown, put before the list of runs."""
    parts = ["# Benchmark results"]
    records, finished, failed = overview.tested, overview.finished, overview.failed
    trials = len(overview.records) - len(records)
    for comparison, verdicts, answer in zip(overview.comparisons, overview.verdicts, overview.answers, strict=True):
        parts += _compared(comparison, verdicts, answer)
    if not finished:
        parts.append("No run has finished yet. `python -m bench.run` trains the default models.")
    parts += sections
    if finished:
        parts.append(REPORT)
    if failed:
        parts.append("## Runs that did not finish")
        if len(failed) > MOST_FAILED:
            parts.append(f"The last {MOST_FAILED} of {count(len(failed))}.")
        reasons = ((record, one_line(record.reason or "")) for record in failed[-MOST_FAILED:])
        parts.append(
            "\n".join(f"- `{record.run_id}`: {record.status}. {reason}".rstrip() for record, reason in reasons)
        )
    if records:
        parts.append("## Every run" if len(records) <= MOST_RUNS else "## The last runs")
        notes = [ONE_CHECKPOINT]
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
    if overview.set_aside:
        parts += ["## Set aside", SET_ASIDE, "\n".join(f"- `{one_line(name)}`" for name in overview.set_aside)]
    return without_html("\n\n".join(parts) + "\n")


def _compared(comparison: Comparison, verdicts: Sequence[str], answer: Answer) -> list[str]:
    """Return the part of the page on one data set."""
    parts = [f"## {comparison.title}"]
    if answer.sentences:
        first, *rest = map(one_line, answer.sentences)
        parts.append(" ".join([f"**{first}**", *rest]))
    parts.append(as_markdown(comparison_to_read(comparison)))
    parts += footnotes(comparison)
    if (backends := backends_table(comparison)) is not None:
        parts += [f"### Back ends on {comparison.title}", as_markdown(backends), *backend_notes(comparison)]
    if (devices := by_device_table(comparison)) is not None:
        parts += [f"### Speed by device on {comparison.title}", as_markdown(devices), *by_device_notes(comparison)]
    if (classes := by_class_table(comparison)) is not None:
        parts += [f"### Accuracy by class on {comparison.title}", as_markdown(classes), *by_class_notes(comparison)]
    if (pairs := confused_table(comparison)) is not None:
        title = f"### Classes most often confused on {comparison.title}"
        parts += [title, as_markdown(pairs), *confused_notes(comparison)]
    if verdicts:
        listed = "\n".join(f"- {one_line(sentence)}" for sentence in verdicts)
        parts += [f"### Details: the comparisons on {comparison.title}", listed]
    return parts
