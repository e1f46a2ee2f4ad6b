"""The result of bench.compare for continuous integration: a pull request's comment, and JUnit's XML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from xml.etree import ElementTree

from bench.reporting.comparison import Pair, Result
from bench.reporting.formats import MISSING, one_line
from bench.reporting.table import Cell, Column, as_markdown, table_of, text_column
from bench.reporting.verdicts import (
    CHECKPOINTS,
    INFERENCE,
    LATENCY_P50,
    PARAMETERS,
    RECIPES,
    TRAINING,
    Metric,
    Verdict,
    Word,
    sentences,
)

MOST_LETTERS = 4000
"""The longest comment; what exceeds it is left out of the details."""
_COLUMNS = {"Accuracy": RECIPES, "Inference": INFERENCE, "Latency": LATENCY_P50, "Training": TRAINING}
_MORE = "\n- *and more: `python -m bench.compare` with the same arguments shows all*"


def comparison_as_github(result: Result) -> str:
    """Return a comment for a pull request in GitHub's Markdown, of at most MOST_LETTERS letters.

    First one line that says whether it is good, then a row for each model; the sentences are folded away.
    """
    parts = [_headline(result), *(f"- **{_plain(line)}**" for line in result.limits.broken[:5])]
    head = "\n".join(parts)
    table = as_markdown(
        table_of(
            [
                text_column("Model", lambda pair: f"`{_plain(pair.name)}`"),
                *(Column(header, _cell_reader(metric)) for header, metric in _COLUMNS.items()),
            ],
            result.pairs[:10],
        )
    )
    if len(result.pairs) > 10:
        table += f"\n\n{len(result.pairs) - 10} more models are not shown."
    return f"{head}\n\n{table}\n\n{_details(result, MOST_LETTERS - len(head) - len(table) - 100)}"


def _headline(result: Result) -> str:
    broken, unknown = len(result.limits.broken), len(result.limits.useless)
    named = f"{_plain(result.meaning[1][7:])} against {_plain(result.meaning[0][7:])}" if _are_versions(result) else ""
    named = named or f"{_plain(result.second)} against {_plain(result.first)}"
    if broken:
        return f"### :x: {named}: {broken} {'limit is' if broken == 1 else 'limits are'} broken"
    if unknown:
        return f"### :warning: {named}: not everything could be checked"
    worse = sum(verdict.word is Word.WORSE for pair in result.pairs for verdict in pair.verdicts)
    if worse:
        return f"### :warning: {named}: worse in {worse} {'figure' if worse == 1 else 'figures'}"
    return f"### :white_check_mark: {named}: nothing became worse"


def _are_versions(result: Result) -> bool:
    return (result.first, result.second) == ("OLD", "NEW") and len(result.meaning) >= 2


def _cell_reader(metric: Metric) -> Callable[[Pair], Cell]:
    """Return the function that shows the change of a metric for a pair, with a mark if it is more than noise."""

    def read(pair: Pair) -> Cell:
        verdict = _verdict(pair, metric)
        if verdict is None or verdict.second_value is None:
            return Cell(MISSING)
        value = metric.show(verdict.second_value)
        if verdict.difference is None or verdict.word is Word.NOT_DISTINGUISHABLE:
            return Cell(value)
        mark = {Word.WORSE: " :small_red_triangle_down:", Word.BETTER: " :small_blue_diamond:"}.get(verdict.word, "")
        return Cell(f"{value} ({verdict.change}){mark}")

    return read


def _verdict(pair: Pair, metric: Metric) -> Verdict | None:
    """Return a pair's verdict; that on checkpoints where there are too few seeds for one on recipes."""
    by_metric = {verdict.metric: verdict for verdict in pair.verdicts}
    if metric is RECIPES and (RECIPES not in by_metric or by_metric[RECIPES].difference is None):
        return by_metric.get(CHECKPOINTS)
    return by_metric.get(metric)


def _details(result: Result, room: int) -> str:
    """Return the sentences of all pairs and limits, folded away, as many as there is room for."""
    lines = [f"- Kept: {line}" for line in result.limits.kept]
    lines += [f"- Not checked: {line}" for line in result.limits.useless]
    lines += [f"- {line}" for line in (result.meaning[2:] if _are_versions(result) else result.meaning)]
    for pair in result.pairs:
        known = [each for each in pair.verdicts if each.difference is not None and each.metric is not PARAMETERS]
        lines += [f"- {pair.name}: {line}" for line in (*pair.notes, *sentences(known))]
    shown: list[str] = []
    for line in map(_plain, lines):
        if sum(map(len, shown)) + len(shown) + len(line) + len(_MORE) > room:
            return _folded("\n".join(shown) + _MORE)
        shown.append(line)
    return _folded("\n".join(shown)) if shown else ""


def _folded(text: str) -> str:
    return f"<details><summary>Details</summary>\n\n{text}\n\n</details>"


def _plain(text: str) -> str:
    """Return text on one line that is neither HTML nor a mention of anybody."""
    return escape(one_line(text), quote=False).replace("@", "@\u200b")


def comparison_as_junit(result: Result) -> str:
    """Return JUnit's XML: a test for each limit and model or, without limits, for each figure of each pair.

    Without limits, a figure that is worse by more than noise is a failure.
    """
    limits = result.limits
    suite = ElementTree.Element("testsuite", name="bench.compare")
    if limits.broken or limits.kept or limits.not_checked or limits.useless:
        _add(suite, limits.kept, None)
        _add(suite, limits.broken, "failure")
        _add(suite, limits.not_checked, "skipped")
        _add(suite, limits.useless, "failure")
    else:
        for pair in result.pairs:
            for verdict in pair.verdicts:
                kind = "failure" if verdict.word is Word.WORSE else "skipped" if verdict.word is Word.UNKNOWN else None
                _case(suite, pair.title, verdict.metric.name, kind, verdict.sentence)
    for kind, count in (("tests", len(suite)), ("failures", len(suite.findall(".//failure")))):
        suite.set(kind, str(count))
    suite.set("skipped", str(len(suite.findall(".//skipped"))))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode")


def _add(suite: ElementTree.Element, lines: Sequence[str], kind: str | None) -> None:
    for line in lines:
        name, _, rest = line.partition(": ")
        _case(suite, "limits", name, kind, rest or line)


def _case(suite: ElementTree.Element, group: str, name: str, kind: str | None, message: str) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=_xml(group), name=_xml(name))
    if kind is not None:
        ElementTree.SubElement(case, kind, message=_xml(message))


def _xml(text: str) -> str:
    """Return text on one line without the characters that XML does not allow."""
    return "".join(letter for letter in one_line(text) if letter.isprintable())
