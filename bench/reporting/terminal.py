"""What a command prints at its end: the comparison, what can be told of it, what failed, where the rest is."""

from __future__ import annotations

from pathlib import Path

from bench.reporting.store import Store
from bench.reporting.summary import MOST_FAILED, Found, look
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


def print_results(store: Store, *pages: Path, found: Found | None = None) -> None:
    """The tables on stdout.

    Args:
        store: the results folder.
        pages: what was written.
        found: what :func:`bench.reporting.summary.look` gave; None looks.
    """
    found = found or look(store)
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
    for page in pages:
        print(f"written: {page}")
