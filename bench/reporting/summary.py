"""results/summary.md: a pure function of the stored records, so that making it again gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.reporting.store import Store
from bench.reporting.tables import comparison_table, comparisons, environment_table, footnotes, one_line, runs_table
from bench.spec import Record, Status


def write_summary(store: Store) -> Path:
    """Make summary.md from what is stored.

    Raises:
        UserError: it cannot be written.
    """
    records, _ = store.records(set_aside=True)
    return store.write_text("summary.md", render(records, store.set_aside()))


def render(records: Sequence[Record], set_aside: Sequence[str]) -> str:
    """The page as Markdown."""
    parts = ["# Benchmark results"]
    finished = [record for record in records if record.status is Status.OK]
    for comparison in comparisons(records):
        parts += [f"## {comparison.title}", comparison_table(comparison)]
        parts += footnotes(comparison)
    if not finished:
        parts.append("No run has finished yet. `python -m bench.run` trains the default models.")
    failed = [record for record in records if record.status is not Status.OK]
    if failed:
        parts.append("## Runs that did not finish")
        parts.append(
            "\n".join(
                f"- `{record.run_id}`: {record.status}. {one_line(record.reason or '')}".rstrip() for record in failed
            )
        )
    if records:
        parts += ["## Every run", runs_table(records)]
    if finished:
        parts += ["## Where it was measured", environment_table(finished)]
        parts.append(
            "Each row of `runs/*.parquet` is one run; its epochs, predictions and trained model are in the folders "
            "beside it under the same name."
        )
    if set_aside:
        parts.append("## Set aside")
        parts.append("These files in `runs/` were no records of runs; they are in `set-aside/` now.")
        parts.append("\n".join(f"- `{one_line(name)}`" for name in set_aside))
    return "\n\n".join(parts) + "\n"
