"""A table of typed cells, as text for a terminal and as Markdown; report.html has a template for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tabulate import tabulate

from bench.reporting.formats import MISSING, one_line

Row = TypeVar("Row")


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    value: float | None = None
    """The number that the text shows, in the column's unit; a column of numbers is sorted by it."""


def cell_of(value: float | None, show: Callable[[float], str]) -> Cell:
    """Return the cell of a number, which may be unknown."""
    return Cell(MISSING) if value is None else Cell(show(value), value)


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table, and how its cell is read from a row."""

    header: str
    read: Callable[[Row], Cell]
    numeric: bool = True
    """True for a column of numbers: aligned to the right, and sorted by them."""


def text_column(header: str, read: Callable[[Row], str]) -> Column[Row]:
    """Return a column of words."""
    return Column(header, lambda row: Cell(read(row)), numeric=False)


def number_column(header: str, read: Callable[[Row], float | None], show: Callable[[float], str]) -> Column[Row]:
    """Return a column of numbers, each shown by ``show``, with its unit."""
    return Column(header, lambda row: cell_of(read(row), show))


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers; the first column names the rows."""

    headers: Sequence[str]
    numeric: Sequence[bool]
    """A flag for each column, whether it holds numbers."""
    rows: Sequence[Sequence[Cell]]

    def transposed(self, corner: str) -> Table:
        """Return the table with rows and columns exchanged; ``corner`` is the header of the new first column."""
        headers = [corner, *(row[0].text for row in self.rows)]
        columns = zip(*(row[1:] for row in self.rows), strict=True)
        rows = [[Cell(header), *cells] for header, cells in zip(self.headers[1:], columns, strict=True)]
        return Table(headers, [False, *[True] * len(self.rows)], rows)

    def only(self, places: Sequence[int]) -> Table:
        """Return the table with only these columns, in this order."""
        rows = [[row[place] for place in places] for row in self.rows]
        return Table([self.headers[place] for place in places], [self.numeric[place] for place in places], rows)

    def differing(self) -> tuple[Table, list[tuple[str, str]]]:
        """Return (the table without columns whose text is the same in all rows, these as (header, text)).

        The first column stays, and so does a table of one row.
        """
        same = [
            place
            for place in range(1, len(self.headers))
            if len(self.rows) > 1 and len({row[place].text for row in self.rows}) == 1
        ]
        rest = self.only([place for place in range(len(self.headers)) if place not in same])
        return rest, [(self.headers[place], self.rows[0][place].text) for place in same]


def table_of(columns: Sequence[Column[Row]], rows: Iterable[Row]) -> Table:
    """Return the table with these columns, one row for each of ``rows``."""
    return Table(
        [column.header for column in columns],
        [column.numeric for column in columns],
        [[column.read(row) for column in columns] for row in rows],
    )


def as_markdown(table: Table) -> str:
    """Return the table in GitHub's Markdown."""
    return _tabulated(table, "github", lambda text: one_line(text).replace("|", "\\|"))


def as_text(table: Table) -> str:
    """Return the table for a terminal."""
    return _tabulated(table, "simple", one_line)


def _tabulated(table: Table, style: str, escape: Callable[[str], str]) -> str:
    return tabulate(
        [[escape(cell.text) for cell in row] for row in table.rows],
        [escape(header) for header in table.headers],
        tablefmt=style,
        colalign=["right" if numeric else "left" for numeric in table.numeric] if table.rows else None,
        disable_numparse=True,
    )
