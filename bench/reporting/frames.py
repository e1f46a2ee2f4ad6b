"""The content of a results folder as pandas frames, for a notebook, and the same verdicts as in the pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.config.home import expanded
from bench.errors import UserError, unknown
from bench.reporting.answer import Answer, Choice, Preference, answer_of, parse_budget
from bench.reporting.entries import comparisons
from bench.reporting.store import Store
from bench.reporting.verdicts import Side, Verdict, compare
from bench.spec import EpochRecord, Record, Status, Timing
from bench.storage import Place, place_of

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

_UNITS = {
    r".*(accuracy|macro_f1|calibration_error)": "share",
    r".*loss": "nats",
    r"image_size|input_size": "pixels",
}
"""The unit by the pattern of a column's name, of columns whose names do not end with it."""


@dataclass(frozen=True)
class Results:
    """The runs of a results folder. Frames have a unit at the end of each column's name that has one."""

    store: Store
    runs: pd.DataFrame
    """One row per run, by run_id."""
    epochs: pd.DataFrame
    """One row per epoch of each run."""
    timings: pd.DataFrame
    """One row per timed sample."""

    def answers(self, *, prefer: Preference = "accuracy", budget: str = "") -> dict[str, Answer]:
        """Return which candidate to use, by data set.

        Args:
            prefer: what counts most where no candidate is better in all respects.
            budget: limits that it must keep, such as 'latency<2ms,size<5MB'.

        Raises:
            UserError: ``budget`` is no list of limits.
        """
        records, _ = self.store.records()
        failed = [record for record in records if record.status is not Status.OK]
        choice = Choice(prefer, parse_budget(budget))
        answers = {}
        for comparison in comparisons(records, self.store):
            data = comparison.entries[0].records[0].dataset_sha256
            lost = [record for record in failed if record.dataset_sha256 == data]
            answers[comparison.title] = answer_of(self.store, comparison, lost, choice)
        return answers

    def compare(self, first: str, second: str) -> list[Verdict]:
        """Return what ``second`` is compared with ``first``, metric by metric; each verdict has a ``sentence``.

        Args:
            first: a model, or the label of a job as the tables show it.
            second: the same.

        Raises:
            UserError: there is no such job, or they were not trained on the same data.
        """
        records, _ = self.store.records()
        labels: set[str] = set()
        for comparison in comparisons(records, self.store):
            entries = {entry.label: entry for entry in comparison.entries}
            labels |= entries.keys()
            if first in entries and second in entries:
                return compare(*(Side(name, entries[name], self.store) for name in (first, second)))
        missing = [name for name in (first, second) if name not in labels]
        if missing:
            raise unknown("job", missing[0], sorted(labels))
        raise UserError(f"{first} and {second} were not trained on the same data")


def load_results(folder: str | Place = "results") -> Results:
    """Load a results folder: a path, or a URL of object storage.

    Raises:
        UserError: the folder holds no runs.
    """
    store = Store(place_of(expanded(folder)))
    if not store.holds_runs():
        raise UserError(f"{store.root} holds no runs; python -m bench.run makes some")
    records, _ = store.records()
    timed = store.timed()
    store.read_ahead("epochs", [record.run_id for record in records])
    store.read_ahead("timings", timed)
    ran = [record for record in records if record.run_id in timed]
    return Results(
        store=store,
        runs=_frame(Record, records).set_index("run_id"),
        epochs=_frame(EpochRecord, [row for record in records for row in store.epochs(record.run_id)]),
        timings=_frame(Timing, [row for record in ran for row in store.timings(record.run_id)]),
    )


def _frame(kind: type[BaseModel], rows: list[Record] | list[EpochRecord] | list[Timing]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame([row.model_dump() for row in rows], columns=list(kind.model_fields))
    return frame.rename(columns={name: _with_unit(name) for name in frame.columns})


def _with_unit(name: str) -> str:
    unit = next((unit for pattern, unit in _UNITS.items() if re.fullmatch(pattern, name)), None)
    return name if unit is None else f"{name}_{unit}"
