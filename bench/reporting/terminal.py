"""What a command prints at its end: the comparison, what failed, where the rest is."""

from __future__ import annotations

from pathlib import Path

from bench.reporting.store import Store
from bench.reporting.tables import comparison_table, comparisons, footnotes, one_line
from bench.spec import Status


def print_results(store: Store, summary: Path) -> None:
    """The tables on stdout."""
    records, _ = store.records()
    for comparison in comparisons(records):
        print(f"\n{comparison.title}\n\n{comparison_table(comparison, 'simple')}\n")
        for note in footnotes(comparison):
            print(note.replace("\\", ""))
    for record in records:
        if record.status is not Status.OK:
            print(f"{record.run_id}: {record.status}: {one_line(record.reason or '')}")
    print(f"\nwritten: {summary}")
