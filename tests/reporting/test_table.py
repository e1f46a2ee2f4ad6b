"""Tables of typed cells: what they show, what they are sorted by, and that no text breaks out of its cell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bench.reporting.formats import count, percent
from bench.reporting.table import Cell, as_markdown, as_text, number_column, table_of, text_column

COLUMNS = [
    text_column("Model", lambda row: row[0]),
    number_column("Size", lambda row: row[1], count),
    number_column("Share", lambda row: row[2], percent),
]
ROWS = [("a | b", 1000.0, 0.5), ("c\nd", None, 1.0)]


def test_cells_keep_the_number_that_they_show() -> None:
    table = table_of(COLUMNS, ROWS)

    assert table.headers == ["Model", "Size", "Share"]
    assert table.numeric == [False, True, True]
    assert table.rows[0] == [Cell("a | b"), Cell("1,000", 1000.0), Cell("50.00 %", 0.5)]
    assert table.rows[1][1] == Cell("-")


def test_no_text_breaks_out_of_its_cell() -> None:
    lines = as_markdown(table_of(COLUMNS, ROWS)).splitlines()

    assert len(lines) == 4
    assert "a \\| b" in lines[2]
    assert "c d" in lines[3]
    assert len(as_text(table_of(COLUMNS, ROWS)).splitlines()) == 4


def test_rows_and_columns_are_exchanged() -> None:
    table = table_of(COLUMNS, ROWS).transposed("Metric")

    assert table.headers == ["Metric", "a | b", "c\nd"]
    rows = [[cell.text for cell in row] for row in table.rows]
    assert rows == [["Size", "1,000", "-"], ["Share", "50.00 %", "100.00 %"]]


MAYBE = st.none() | st.floats(0, 1)


@given(st.lists(st.tuples(st.text(max_size=20), MAYBE, MAYBE), max_size=5))
def test_every_row_is_one_line(rows: list[tuple[str, float | None, float | None]]) -> None:
    assert len(as_markdown(table_of(COLUMNS, rows)).splitlines()) == 2 + len(rows)
