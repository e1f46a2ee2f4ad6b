"""All pages of a results folder, made from what is stored; the same bytes when made again."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from bench.config.report import ReportOptions
from bench.errors import UserError
from bench.reporting.store import Store
from bench.reporting.summary import look, write_summary
from bench.reporting.terminal import print_results
from bench.reporting.tuning import read_swept, sections, write_tuning
from bench.spec import Record

NEEDED = (
    *("bench.reporting.html", "scipy.stats", "statsmodels.stats.power", "statsmodels.stats.weightstats"),
    *("matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg"),
)
"""The modules that pages and verdicts import when they are first made."""


@functools.cache
def prepare_pages() -> None:
    """Begin to import what pages need, in a thread: it saves 2 s while the caller waits, nothing while it computes."""

    def bring() -> None:
        with contextlib.suppress(ImportError):  # the code that needs the module reports it
            for module in NEEDED:
                importlib.import_module(module)

    threading.Thread(target=bring, name="imports for the pages", daemon=True).start()


def report(options: ReportOptions) -> None:
    """Make all pages again and print the comparison.

    Raises:
        UserError: the folder holds no runs, or pages cannot be written.
    """
    if not (options.results / "runs").is_dir():
        raise UserError(f"--results {options.results} holds no runs; python -m bench.run makes some")
    store = Store(options.results)
    records, problems = store.records(set_aside=True)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    write_pages(store, records)


def write_pages(store: Store, records: Sequence[Record] | None = None, *, show: bool = True) -> None:
    """Make summary.md, report.html with its plots, and tuning.md where there is a sweep.

    Args:
        store: the results folder.
        records: the records that it holds, if they are read already.
        show: print the comparison, as soon as it is known.

    Raises:
        UserError: a page cannot be written.
    """
    findings = look(store, records)
    swept = read_swept(store, findings.records)
    pages: list[Path | None] = [write_summary(store, findings, sections(swept))]
    if show:
        print_results(findings)
        sys.stdout.flush()
    from bench.reporting.html import write_report

    pages.append(write_report(store, findings, swept))
    pages.append(write_tuning(store, swept))  # shows the plots that there are
    for page in pages if show else ():
        if page is not None:
            print(f"written: {page}")
