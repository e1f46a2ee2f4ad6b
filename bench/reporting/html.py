"""results/report.html: one file that opens from disk, asks the network for nothing, and is the same every time."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from bench.reporting import plots, tuning
from bench.reporting.gallery import DataKey, Gallery, data_key, draw
from bench.reporting.store import Store
from bench.reporting.summary import MOST_FAILED, Found, look
from bench.reporting.tables import (
    MISSING,
    RUN_COLUMNS,
    Comparison,
    backend_notes,
    backends_table,
    comparison_table,
    environment_table,
    footnotes,
    tested,
)
from bench.reporting.tuning import Swept
from bench.spec import Record, Status

if TYPE_CHECKING:
    from markupsafe import Markup

NAME = "report.html"
MOST_RUNS = 500
"""Runs in the table of runs: the last ones."""
WIDEST = 20
"""Letters of the longest word that a row's name is not broken inside."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    value: float | None = None
    """What a column of numbers is sorted by; None is last."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: Sequence[bool]
    """For each column whether it holds numbers."""
    sortable: bool = True


@dataclass(frozen=True)
class Item:
    """A line of a list."""

    name: str
    text: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    title: str
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    plots: list[Markup] = field(default_factory=list)


@dataclass(frozen=True)
class Findings:
    """What is found on one data set, in sentences."""

    title: str
    sentences: list[str]


def write_report(store: Store, found: Found | None = None, swept: Sequence[Swept] | None = None) -> Path:
    """Make results/report.html, with all plots, which it puts into results/plots/.

    Args:
        store: the results folder.
        found: what :func:`bench.reporting.summary.look` gave; None looks.
        swept: what :func:`bench.reporting.tuning.read_swept` gave; None reads the sweeps.

    Raises:
        UserError: they cannot be written.
    """
    found = found or look(store)
    if swept is None:
        swept = tuning.read_swept(store, found.records)
    return store.write_text(NAME, render(found, draw(store, found.records, found.comparisons), swept))


def render(found: Found, galleries: Mapping[DataKey, Gallery], swept: Sequence[Swept]) -> str:
    """The page as HTML: the same as the summary, tables that sort, and the plots.

    Args:
        found: what there is to say.
        galleries: the plots of each data set.
        swept: sweeps with their trials.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("bench.reporting", "templates")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.tests["unbreakable"] = lambda text: max(map(len, re.split(r"[\s-]", text))) > WIDEST
    environment.filters["plain"] = lambda text: plots.plain(str(text), 2000)
    style, script = (
        Markup(loader.get_source(environment, name)[0].strip())  # noqa: S704 - ours
        for name in ("report.css", "report.js")
    )
    digest = hashlib.sha256(f"\n{script}\n".encode()).digest()
    said = [
        Findings(comparison.title, sentences)
        for comparison, sentences in zip(found.comparisons, found.verdicts, strict=True)
        if sentences
    ]
    page: str = environment.get_template("report.html.j2").render(
        style=style,
        script=script,
        script_sha256=base64.b64encode(digest).decode(),
        lead=_lead(found.records),
        findings=said,
        sections=list(_sections(found, galleries, swept)),
    )
    return page


def _lead(records: Sequence[Record]) -> str:
    """How much is stored, and until when."""
    if not records:
        return "No run is stored yet. python -m bench.run trains the default models."
    finished = [record for record in records if record.status is Status.OK]
    jobs, data = len({record.job_id for record in finished}), len({data_key(record) for record in finished})
    last = max(record.ended_at for record in records)
    counts = f"{_number(jobs, 'job')} on {_number(data, 'data set')}"
    return (
        f"{_number(len(records), 'run')} stored, {len(finished):,} finished: {counts}. "
        f"The last one ended {last:%Y-%m-%d %H:%M} UTC."
    )


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# --- the sections ----------------------------------------------------------------------------------------------------


def _sections(found: Found, galleries: Mapping[DataKey, Gallery], swept: Sequence[Swept]) -> Iterator[Section]:
    by_key = {data_key(one.entries[0].records[0]): one for one in found.comparisons}
    for number, (key, gallery) in enumerate(galleries.items(), 1):
        if key in by_key or gallery.plots:
            yield _data(f"data-{number}", key, by_key.get(key), gallery)
    if swept:
        yield _sweeps(swept)
    records = tested(found.records)
    failed = [record for record in records if record.status is not Status.OK]
    if failed:
        items = [Item(record.run_id, f"{record.status}. {record.reason or ''}") for record in failed[-MOST_FAILED:]]
        notes = [f"The last {MOST_FAILED} of {len(failed):,}."] if len(failed) > MOST_FAILED else []
        yield Section("failed", "Runs that did not finish", items=items, notes=notes)
    if records:
        yield _runs(records)
    finished = [record for record in records if record.status is Status.OK]
    if finished:
        facts = table("Where it was measured", environment_table(finished), sortable=False)
        yield Section("environment", "Where it was measured", [facts])
    if found.set_aside:
        note = "These files in runs/ were no records of runs; they are in set-aside/ now."
        yield Section("set-aside", "Set aside", notes=[note], items=[Item(name) for name in found.set_aside])


def _data(section_id: str, key: DataKey, comparison: Comparison | None, gallery: Gallery) -> Section:
    """All that is known of one data set."""
    from markupsafe import Markup

    name, _, train_images, test_images = key
    section = Section(section_id, f"{name}: {train_images:,} training and {test_images:,} test images")
    if comparison is not None:
        section.tables.append(table(section.title, comparison_table(comparison), jobs_as_rows=True))
        section.notes.extend(re.sub(r"\\(?=[*+])", "", note) for note in footnotes(comparison))
        if (backends := backends_table(comparison)) is not None:
            section.tables.append(table(f"Back ends on {section.title}", backends))
            section.notes.extend(backend_notes(comparison))
    section.notes.extend(gallery.notes)
    for number, plot in enumerate(gallery.plots):
        inset = plots.inline(plot.svg, name=f"{section_id}-{number}", title=escape(plots.plain(plot.title)))
        section.plots.append(Markup(inset))  # noqa: S704 - ours
    return section


def _sweeps(swept: Sequence[Swept]) -> Section:
    """The summary's section on sweeps."""
    section = Section("sweeps", "Sweeps")
    captions = iter(("The best of each sweep", "Expected best of k trials"))
    for part in tuning.sections(swept)[1:]:
        if part.startswith("|"):
            section.tables.append(table(next(captions, section.title), part))
        else:
            section.notes.append(re.sub(r"\[(.*?)\]\(.*?\)", r"\1", part))
    return section


def _runs(records: Sequence[Record]) -> Section:
    rows = [[read(record) for _, read in RUN_COLUMNS] for record in reversed(records[-MOST_RUNS:])]
    notes = ["Accuracy is that of one checkpoint, in brackets its 95 % Wilson interval over the test images."]
    if len(records) > MOST_RUNS:
        notes.append(f"These are the last {MOST_RUNS} of {len(records):,} runs.")
    return Section("runs", "Every run", [_typed("Every run", [header for header, _ in RUN_COLUMNS], rows)], notes)


# --- tables ----------------------------------------------------------------------------------------------------------


def table(caption: str, markdown: str, *, jobs_as_rows: bool = False, sortable: bool = True) -> Table:
    """A table of the summary for the page.

    Args:
        caption: what it is.
        markdown: the table as the summary has it.
        jobs_as_rows: metrics become columns where they are rows, so that jobs can be sorted by them.
        sortable: by each of its columns.
    """
    headers, _, *rows = [_cells(line) for line in markdown.splitlines()]
    if jobs_as_rows and headers[0] == "Metric":
        headers, *rows = [list(cells) for cells in zip(headers, *rows, strict=True)]
        headers[0] = "Model"
    return _typed(caption, headers, rows, sortable=sortable)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _typed(caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]], *, sortable: bool = True) -> Table:
    """With what its columns are sorted by; a column is one of numbers if each of its cells is one, or is missing."""
    cells = [[Cell(text, None if text == MISSING else number(text)) for text in row] for row in rows]
    numeric = [False, *(all(_is_number(row[column]) for row in cells) for column in range(1, len(headers)))]
    return Table(caption, headers, cells, numeric if sortable else [False] * len(headers), sortable)


def _is_number(cell: Cell) -> bool:
    return cell.value is not None or cell.text == MISSING


_NUMBER = re.compile(r"([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?: (h|min|s|[^\d\s-].*))?")
_SECONDS = {"h": 3600.0, "min": 60.0, "s": 1.0}


def number(text: str) -> float | None:
    """What a cell is sorted by: '2,389,130' and '99.15 % [98.95, 99.31]' by their first number, times in seconds.

    None for what does not begin with a number, and for dates and versions.
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    spans = re.findall(r"([\d.]+) (h|min|s)\b", text.partition("(")[0])
    if spans:
        return sum(float(amount) * _SECONDS[unit] for amount, unit in spans)
    return float(found[1].replace(",", ""))
