"""The pages of a results folder, made from what is stored; made again, they have the same bytes."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

from bench.config.report import ReportOptions
from bench.config.run import Options
from bench.errors import UserError
from bench.reporting.answer import Choice, parse_budget
from bench.reporting.store import Store
from bench.reporting.summary import look, write_answers, write_summary
from bench.reporting.sweeps import read_swept
from bench.reporting.terminal import print_results
from bench.reporting.tuning import sections, write_tuning
from bench.spec import Record
from bench.storage import Place, url_of


def report(options: ReportOptions) -> None:
    """Make all pages again and print the comparison.

    Raises:
        UserError: the folder holds no runs, or pages cannot be written.
    """
    store = Store(options.results)
    if not store.holds_runs():
        raise UserError(f"--results {options.results} holds no runs; python -m bench.run makes some")
    choice = choice_of(options)
    records, problems = store.records(set_aside=True)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    write_pages(store, records, choice=choice)


def choice_of(options: ReportOptions | Options) -> Choice:
    """Return what chooses among the candidates.

    Raises:
        UserError: --budget is no list of limits.
    """
    return Choice(options.prefer, parse_budget(options.budget or ""))


def write_pages(
    store: Store,
    records: Sequence[Record] | None = None,
    *,
    show: bool = True,
    told: Collection[str] = (),
    choice: Choice = Choice(),  # noqa: B008 - frozen
) -> None:
    """Make summary.md, answer.json, report.html with its plots, and tuning.md where there is a sweep.

    Args:
        store: the results folder.
        records: its records, if they were read already.
        show: print the comparison before the slower pages are made, and the paths of all pages.
        told: the ids of runs that the user was told of, which are then not printed.
        choice: what chooses among candidates of which none is better in all respects.

    Raises:
        UserError: a page cannot be written.
    """
    findings = look(store, records, choice)
    swept = read_swept(store, findings.records)
    pages: list[Place | None] = [write_summary(store, findings, sections(swept))]
    write_answers(store, findings)
    if show:
        print_results(findings, told)
        sys.stdout.flush()
    from bench.reporting.html import write_report

    pages.append(write_report(store, findings, swept))
    pages.append(write_tuning(store, swept))  # shows the plots that there are
    for page in pages if show else ():
        if page is not None:
            print(f"written: {url_of(page)}")
