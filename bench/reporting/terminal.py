"""The text that a command prints at its end: the comparison, the findings, the runs that failed."""

from __future__ import annotations

from collections.abc import Collection

from bench.reporting.footnotes import backend_notes, footnotes
from bench.reporting.formats import count, one_line
from bench.reporting.summary import MOST_FAILED, Overview
from bench.reporting.table import as_text
from bench.reporting.tables import backends_table, comparison_to_read


def print_results(overview: Overview, told: Collection[str] = ()) -> None:
    """Print the answers, the tables, the findings, and the runs that did not finish.

    Args:
        overview: what to print.
        told: the ids of runs that did not finish, and are left out.
    """
    for comparison, verdicts, answer in zip(overview.comparisons, overview.verdicts, overview.answers, strict=True):
        print(f"\n{comparison.title}\n")
        for sentence in answer.sentences:
            print(one_line(sentence))
        print(f"\n{as_text(comparison_to_read(comparison))}\n")
        for note in footnotes(comparison):
            print(note.replace("\\", ""))
        if (backends := backends_table(comparison)) is not None:
            print(f"\n{as_text(backends)}\n")
            for note in backend_notes(comparison):
                print(note)
        if verdicts:
            print("\ndetails:")
        for sentence in verdicts:
            print(f"- {one_line(sentence)}")
    failed = [record for record in overview.failed if record.run_id not in told]
    if len(failed) > MOST_FAILED:
        print(f"{count(len(failed))} runs did not finish; the last of them:")
    for record in failed[-MOST_FAILED:]:
        print(f"{record.run_id}: {record.status}: {one_line(record.reason or '')}")
    print()
