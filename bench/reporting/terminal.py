"""What a command prints at its end: the comparison, what can be told of it, what failed."""

from __future__ import annotations

from bench.reporting.summary import MOST_FAILED, Found
from bench.reporting.tables import (
    backend_notes,
    backends_table,
    comparison_table,
    count,
    footnotes,
    one_line,
    tested,
)
from bench.spec import Status


def print_results(found: Found) -> None:
    """Print the tables, and what :func:`bench.reporting.summary.look` worked out besides."""
    for comparison, verdicts in zip(found.comparisons, found.verdicts, strict=True):
        print(f"\n{comparison.title}\n\n{comparison_table(comparison, 'simple')}\n")
        for note in footnotes(comparison):
            print(note.replace("\\", ""))
        if (backends := backends_table(comparison, "simple")) is not None:
            print(f"\n{backends}\n")
            for note in backend_notes(comparison):
                print(note)
        if verdicts:
            print()
        for sentence in verdicts:
            print(f"- {one_line(sentence)}")
    failed = [record for record in tested(found.records) if record.status is not Status.OK]
    if len(failed) > MOST_FAILED:
        print(f"{count(len(failed))} runs did not finish; the last of them:")
    for record in failed[-MOST_FAILED:]:
        print(f"{record.run_id}: {record.status}: {one_line(record.reason or '')}")
    print()
