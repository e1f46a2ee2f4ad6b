"""Nobody needs to know the words recipe, checkpoint, interval or p: they stand in brackets or behind, in details."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from candidates import candidates

from bench.reporting.html import write_report
from bench.reporting.store import Store
from bench.reporting.summary import look, write_summary
from bench.reporting.terminal import print_results

ROOT = Path(__file__).parents[1]
COMMANDS = ("run", "tune", "compare", "history", "evaluate", "export", "report", "profile", "demo.__main__")
UNNEEDED = re.compile(r"(?<![/\w.-])(recipes?|checkpoints?|intervals?|p)(?![/\w'-])", re.IGNORECASE)
"""The words, but not as parts of paths and options."""
FOLDERS = ("mnist-cpu2", "five-seeds-cpu2", "tune-mnist-cpu2")


def unneeded(text: str) -> list[str]:
    """The words that stand neither in brackets nor in backticks, each with what is around it."""
    text = re.sub(r"`[^`]*`", "", " ".join(text.split()))
    while (shorter := re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", text)) != text:
        text = shorter
    return [text[max(0, word.start() - 40) : word.end() + 40] for word in UNNEEDED.finditer(text)]


def test_what_is_looked_for_is_found() -> None:
    assert unneeded("the recipe") and unneeded("p < 0.0001") and unneeded("Two intervals") and unneeded("a checkpoint.")
    assert not unneeded("better (p = 0.01) by 3 [1, 5], results/checkpoints/ID, `p`, --p, recipient")


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_needs_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(f"bench.{name}").main(["--help"])
    text = capsys.readouterr().out
    assert "usage:" in text
    assert unneeded(text) == []


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of what a file prints, notes or refuses; a value is an X."""
    tree = ast.parse(file.read_text())
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in ("UserError", "DoesNotFitError", "NotTimedError", "print", "say", "append"):
            for argument in call.args:
                yield argument.lineno, written(argument)


def written(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return ""


def test_no_message_needs_them() -> None:
    said = [(file, *message) for file in sorted((ROOT / "bench").rglob("*.py")) for message in messages(file)]
    assert len([text for _, _, text in said if " " in text]) > 200
    assert [(file.name, line, unneeded(text)) for file, line, text in said if unneeded(text)] == []


class Seen(HTMLParser):
    """What a page shows before anything is opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("details", "style", "script", "code")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("details", "style", "script", "code")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.text.append(data)


def read_summary(store: Store, capsys: pytest.CaptureFixture[str]) -> str:
    return re.sub(r"### Details.*?(?=\n#|\Z)", "", write_summary(store).read_text(), flags=re.DOTALL)


def read_report(store: Store, capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(Seen(write_report(store).read_text()).text)


def read_terminal(store: Store, capsys: pytest.CaptureFixture[str]) -> str:
    print_results(look(store))
    return re.sub(r"\ndetails:\n(- .*\n)*", "\n", capsys.readouterr().out)


@pytest.mark.parametrize("read", [read_summary, read_report, read_terminal])
@pytest.mark.parametrize("folder", ["two candidates, three seeds", "forty candidates", *FOLDERS])
def test_no_page_needs_them(
    folder: str,
    read: Callable[[Store, pytest.CaptureFixture[str]], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if folder in FOLDERS:
        store = Store(tmp_path)
        for kind in ("runs", "epochs", "timings", "deployments", "sweeps"):
            source = ROOT / "results/reference" / folder / kind
            if source.is_dir():
                (tmp_path / kind).symlink_to(source)
    else:
        count, seeds = (2, 3) if folder.startswith("two") else (40, 1)
        store = candidates(tmp_path, count, seeds=seeds)

    text = read(store, capsys)

    assert len(text) > 1000
    assert unneeded(text) == []
