"""The result of bench.compare as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.reporting.formats import MISSING, one_line, without_html
from bench.reporting.table import Cell, Column, Table, as_markdown, as_text, cell_of, table_of, text_column
from bench.reporting.verdicts import Metric, Verdict, sentences


@dataclass(frozen=True)
class Pair:
    """Two jobs that were compared."""

    name: str
    title: str
    """The name and the data set."""
    verdicts: list[Verdict]
    notes: list[str] = field(default_factory=list)
    """Circumstances in which the two differ, in sentences."""


@dataclass(frozen=True)
class Checked:
    """The limits checked against the findings, in sentences."""

    broken: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    """The limits that could not be checked for one model and metric, with the reason."""
    useless: list[str] = field(default_factory=list)
    """The limits or models of which nothing could be checked, with the reason."""


@dataclass(frozen=True)
class Result:
    """The result of a comparison."""

    first: str
    """The name of the first in the sentences."""
    second: str
    """The name of the second in the sentences."""
    meaning: list[str]
    """Notes on what these names mean, and on what could not be compared."""
    pairs: list[Pair]
    limits: Checked = field(default_factory=Checked)
    lost: list[str] = field(default_factory=list)
    """The jobs that only the first has."""


def metric_name(metric: Metric) -> str:
    """Return what a table and a limit call a metric."""
    return f"accuracy ({metric.name})" if metric.in_points else metric.name


def _table(pair: Pair) -> Table:
    last = pair.verdicts[-1]

    return table_of(
        [
            text_column("Metric", lambda verdict: metric_name(verdict.metric)),
            Column(last.first, lambda verdict: cell_of(verdict.first_value, verdict.metric.show)),
            Column(last.second, lambda verdict: cell_of(verdict.second_value, verdict.metric.show)),
            Column("Difference", lambda verdict: Cell(verdict.change or MISSING)),
            Column("Likely range (95 % interval)", lambda verdict: Cell(verdict.interval or MISSING)),
            Column("By chance (p)", lambda verdict: Cell(verdict.p or MISSING)),
            text_column("Finding", lambda verdict: verdict.word),
        ],
        pair.verdicts,
    )


def _listed(lines: Iterable[str], mark: str) -> str:
    return "\n".join(mark + one_line(line) for line in lines)


def comparison_as_text(result: Result) -> str:
    """Return the comparison for a terminal."""
    parts = [_listed(result.meaning, "")]
    for pair in result.pairs:
        parts += [pair.title, _listed(pair.notes, ""), as_text(_table(pair)), _listed(sentences(pair.verdicts), "- ")]
    parts.append(_limits(result.limits, "FAILED: ", "kept: ", "not checked: "))
    return "\n\n".join(filter(None, parts))


def comparison_as_markdown(result: Result) -> str:
    """Return the comparison for a page or a pull request's comment."""
    parts = [_listed(result.meaning, "- ")]
    for pair in result.pairs:
        parts += [f"### {one_line(pair.title)}", _listed(pair.notes, "- "), as_markdown(_table(pair))]
        parts.append(_listed(sentences(pair.verdicts), "- "))
    limits = _limits(result.limits, "- **Failed**: ", "- Kept: ", "- Not checked: ")
    return without_html("\n\n".join(filter(None, [*parts, limits and "### Limits", limits])))


def _limits(limits: Checked, *marks: str) -> str:
    """Return a line for each limit that was checked; ``marks`` begin a broken, a kept and a not checked one."""
    kinds = zip((limits.broken, limits.kept, limits.not_checked), marks, strict=True)
    return "\n".join(filter(None, (_listed(lines, mark) for lines, mark in kinds)))


def comparison_as_json(result: Result) -> str:
    """Return JSON: accuracies and their differences are shares, other differences relative, latencies seconds."""

    def described(verdict: Verdict) -> dict[str, object]:
        difference = verdict.difference
        interval = difference.interval if difference is not None else None
        needed = difference.needed if difference is not None else None
        return {
            "metric": verdict.metric.key,
            "first": verdict.first,
            "second": verdict.second,
            "first_value": verdict.first_value,
            "second_value": verdict.second_value,
            "difference": None if difference is None else difference.value,
            "low": None if interval is None else interval.low,
            "high": None if interval is None else interval.high,
            "p": None if difference is None else difference.p,
            "method": None if difference is None else difference.method,
            "needed": None if needed is None else {"number": needed.number, "of": needed.of},
            "finding": str(verdict.word),
            "sentence": verdict.sentence,
        }

    pairs = [
        {"title": pair.title, "notes": pair.notes, "metrics": [described(verdict) for verdict in pair.verdicts]}
        for pair in result.pairs
    ]
    whole = {
        "first": result.first,
        "second": result.second,
        "notes": result.meaning,
        "pairs": pairs,
        "failed": result.limits.broken,
        "kept": result.limits.kept,
        "not_checked": result.limits.not_checked,
    }
    return json.dumps(whole, indent=2, allow_nan=False)
