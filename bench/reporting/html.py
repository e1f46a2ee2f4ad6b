"""results/report.html: one file that opens from disk, asks the network for nothing, and is the same every time."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from bench.reporting import style, sweeps, tuning
from bench.reporting.answer import Answer
from bench.reporting.devices import by_device_notes, by_device_table
from bench.reporting.entries import Comparison, DataKey, data_key, title_of
from bench.reporting.footnotes import backend_notes, footnotes
from bench.reporting.formats import MISSING, counted
from bench.reporting.gallery import Gallery, draw
from bench.reporting.per_class import by_class_notes, by_class_table
from bench.reporting.store import Store
from bench.reporting.summary import MOST_FAILED, ONE_CHECKPOINT, SET_ASIDE, Overview, look
from bench.reporting.sweeps import Swept
from bench.reporting.table import Table
from bench.reporting.tables import (
    backends_table,
    comparison_parts,
    confused_notes,
    confused_table,
    environment_table,
    runs_table,
)
from bench.spec import Record, Status
from bench.storage import Place

if TYPE_CHECKING:
    from markupsafe import Markup

NAME = "report.html"
MOST_RUNS = 500
"""The most runs in the table of runs; the last ones are shown."""
BREAKS = r" (?=[(\[/]|to |n = |\d+ threads?$)"
"""The places at which the text of a cell may go on in another line."""
WIDEST = 20
"""The longest word, in letters, that is not broken inside a row's name."""


@dataclass(frozen=True)
class Shown:
    """A table on the page."""

    caption: str
    table: Table
    sortable: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    title: str
    tables: list[Shown] = field(default_factory=list)
    more: list[Shown] = field(default_factory=list)
    """Tables that are shown when the reader asks for them."""
    notes: list[str] = field(default_factory=list)
    items: list[tuple[str, str]] = field(default_factory=list)
    """The lines of a list: (name, text)."""
    plots: list[Markup] = field(default_factory=list)


def write_report(store: Store, overview: Overview | None = None, swept: Sequence[Swept] | None = None) -> Place:
    """Write results/report.html, and all plots into results/plots/.

    Args:
        store: the results folder.
        overview: the result of :func:`bench.reporting.summary.look`; None calls it.
        swept: the result of :func:`bench.reporting.sweeps.read_swept`; None calls it.

    Raises:
        UserError: a file cannot be written.
    """
    overview = overview or look(store)
    if swept is None:
        swept = sweeps.read_swept(store, overview.records)
    galleries = draw(store, overview.records, overview.comparisons, swept)
    return store.write_text(NAME, render(overview, galleries, swept))


def render(overview: Overview, galleries: Mapping[DataKey, Gallery], swept: Sequence[Swept]) -> str:
    """Return the page as HTML: the content of the summary, with tables that sort, and the plots.

    Args:
        overview: the records, comparisons and findings to show.
        galleries: the plots of each data set.
        swept: sweeps with their trials.
    """
    titles = (comparison.title for comparison in overview.comparisons)
    found = list(zip(titles, overview.answers, overview.verdicts, strict=True))
    return page(_lead(overview.records), found, list(_sections(overview, galleries, swept)))


def page(lead: str, findings: Sequence[tuple[str, Answer, Sequence[str]]], sections: Sequence[Section]) -> str:
    """Return a page as HTML.

    Args:
        lead: the line under its title.
        findings: what stands at its top, for each data set: its title, the answer, and sentences.
        sections: the rest.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("bench.reporting", "templates")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.tests["unbreakable"] = lambda text: max(map(len, re.split(r"[\s-]", text))) > WIDEST
    environment.filters["pieces"] = lambda text: re.split(BREAKS, style.plain(str(text), 2000))
    environment.filters["plain"] = lambda text: style.plain(str(text), 2000)
    css, script = (
        Markup(loader.get_source(environment, name)[0].strip())  # noqa: S704 - ours
        for name in ("report.css", "report.js")
    )
    digest = hashlib.sha256(f"\n{script}\n".encode()).digest()
    content: str = environment.get_template("report.html.j2").render(
        style=css,
        script=script,
        script_sha256=base64.b64encode(digest).decode(),
        lead=lead,
        findings=list(findings),
        sections=list(sections),
    )
    return content


def _lead(records: Sequence[Record]) -> str:
    """Return a sentence on how much is stored, and until when."""
    if not records:
        return "No run is stored yet. python -m bench.run trains the default models."
    finished = [record for record in records if record.status is Status.OK]
    jobs, data = len({record.job_id for record in finished}), len({data_key(record) for record in finished})
    last = max(record.ended_at for record in records)
    counts = f"{counted(jobs, 'job')} on {counted(data, 'data set')}"
    return (
        f"{counted(len(records), 'run')} stored, {len(finished):,} finished: {counts}. "
        f"The last one ended {last:%Y-%m-%d %H:%M} UTC."
    )


# --- the sections ----------------------------------------------------------------------------------------------------


def _sections(overview: Overview, galleries: Mapping[DataKey, Gallery], swept: Sequence[Swept]) -> Iterator[Section]:
    by_key = {data_key(comparison.entries[0].records[0]): comparison for comparison in overview.comparisons}
    for number, (key, gallery) in enumerate(galleries.items(), 1):
        if key in by_key or gallery.plots:
            yield _data(f"data-{number}", key, by_key.get(key), gallery)
    if swept:
        yield _sweeps(swept)
    failed = overview.failed
    if failed:
        items = [(record.run_id, f"{record.status}. {record.reason or ''}") for record in failed[-MOST_FAILED:]]
        notes = [f"The last {MOST_FAILED} of {len(failed):,}."] if len(failed) > MOST_FAILED else []
        yield Section("failed", "Runs that did not finish", items=items, notes=notes)
    if overview.tested:
        yield _runs(overview.tested)
    if overview.finished:
        facts = Shown("Where it was measured", environment_table(overview.finished), sortable=False)
        yield Section("environment", "Where it was measured", [facts])
    if overview.set_aside:
        names = [(name, "") for name in overview.set_aside]
        yield Section("set-aside", "Set aside", notes=[SET_ASIDE.replace("`", "")], items=names)


def _data(section_id: str, key: DataKey, comparison: Comparison | None, gallery: Gallery) -> Section:
    """Return the section on one data set."""
    from markupsafe import Markup

    section = Section(section_id, title_of(key) if comparison is None else comparison.title)
    if comparison is not None:
        first, rest, same = comparison_parts(comparison)
        section.tables.append(Shown("Models", first))
        section.more.extend(Shown("More figures of each model", table) for table in rest)
        section.notes.extend(_same_for(same))
        section.notes.extend(re.sub(r"\\(?=[*+])", "", note) for note in footnotes(comparison))
        if (backends := backends_table(comparison)) is not None:
            backends, same = backends.differing()
            section.tables.append(Shown(f"Back ends on {section.title}", backends))
            section.notes.extend(_same_for(same, "back ends"))
            section.notes.extend(backend_notes(comparison))
        if (devices := by_device_table(comparison)) is not None:
            section.tables.append(Shown(f"Speed by device on {section.title}", devices))
            section.notes.extend(by_device_notes(comparison))
        if (classes := by_class_table(comparison)) is not None:
            section.tables.append(Shown(f"Accuracy by class on {section.title}", classes))
            section.notes.extend(by_class_notes(comparison))
        if (pairs := confused_table(comparison)) is not None:
            section.tables.append(Shown(f"Classes most often confused on {section.title}", pairs))
            section.notes.extend(confused_notes(comparison))
    section.notes.extend(gallery.notes)
    for number, plot in enumerate(gallery.plots):
        inset = style.inline(plot.svg, name=f"{section_id}-{number}", title=escape(style.plain(plot.title)))
        section.plots.append(Markup(inset))  # noqa: S704 - ours
    return section


def _same_for(same: Sequence[tuple[str, str]], what: str = "models") -> list[str]:
    """Return a sentence on the columns that were left out, as they say the same of all."""
    known = [f"{header[:1].lower()}{header[1:]} {text}" for header, text in same if text != MISSING]
    return [f"The same for all {what}: {'; '.join(known)}."] if known else []


def _sweeps(swept: Sequence[Swept]) -> Section:
    section = Section("sweeps", "Sweeps")
    section.tables.append(Shown("The best of each sweep", tuning.found_table(swept)))
    section.notes.extend(tuning.warnings_of(swept))
    if (expected := tuning.expected_table(swept)) is not None:
        section.tables.append(Shown("Expected best of k trials", expected))
        section.notes.append(tuning.EXPECTED)
    section.notes.append(f"Every trial is in {tuning.PAGE}.")
    return section


def _runs(records: Sequence[Record]) -> Section:
    table, same = runs_table(records[: -MOST_RUNS - 1 : -1]).differing()
    notes = [*_same_for(same, "runs"), ONE_CHECKPOINT]
    if len(records) > MOST_RUNS:
        notes.append(f"These are the last {MOST_RUNS} of {len(records):,} runs.")
    return Section("runs", "Every run", [Shown("Every run", table)], notes=notes)
