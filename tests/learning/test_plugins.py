"""A user's own file: loaded once per process, its mistakes reported with its name, its text part of the id."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.learning.data.datasets import DATASETS
from bench.learning.models.registry import MODELS
from bench.learning.plugins import Plugin, read

pytestmark = pytest.mark.usefixtures("registries")

MINE = """
from bench.learning.models import register

@register("mine", input_size=8)
def mine(classes):
    return "a model for %d classes" % classes
"""


def written(folder: Path, source: str) -> Path:
    file = folder / "plugin.py"
    file.write_text(source, encoding="utf-8")
    return file


def test_a_plugin_registers_a_model(tmp_path: Path) -> None:
    file = written(tmp_path, MINE)

    plugin = read(file)

    assert MODELS.find("mine").build(3) == "a model for 3 classes"
    assert MODELS.find("mine").input_size == 8
    assert (plugin.path, plugin.source) == (str(file), MINE)
    assert plugin.sha256 == hashlib.sha256(MINE.encode()).hexdigest()


def test_a_plugin_registers_a_data_set(tmp_path: Path) -> None:
    read(written(tmp_path, "from bench.learning.data import register\nregister('mine')(lambda folder: folder)"))

    assert DATASETS.find("mine")(tmp_path) == tmp_path


def test_a_plugin_is_executed_once_per_process(tmp_path: Path) -> None:
    plugin = read(written(tmp_path, MINE))

    plugin.load()  # a second time, it would register its model twice
    Plugin("the same text from elsewhere.py", MINE).load()


def test_a_plugin_travels_without_its_file(tmp_path: Path) -> None:
    """A worker on another machine has the text and not the file."""
    Plugin(str(tmp_path / "not" / "here.py"), MINE).load()

    assert "mine" in MODELS


def test_classes_of_a_plugin_know_their_module(tmp_path: Path) -> None:
    """Pickle, dataclasses and typing look a class up through ``sys.modules``."""
    source = "import dataclasses\n@dataclasses.dataclass\nclass Shape:\n    side: int = 3\nassert __file__"

    plugin = read(written(tmp_path, source))

    module = sys.modules[f"bench_plugin_{plugin.sha256[:16]}"]
    assert sys.modules[module.Shape.__module__] is module


def test_a_plugin_means_what_it_means_to_python(tmp_path: Path) -> None:
    """The harness' own ``from __future__ import annotations`` is not the plugin's."""
    plugin = read(written(tmp_path, "def double(number: int) -> int:\n    return 2 * number"))

    module = sys.modules[f"bench_plugin_{plugin.sha256[:16]}"]
    assert module.double.__annotations__ == {"number": int, "return": int}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
        ("x = '\0'", "null bytes"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named_with_the_reason(source: str, reason: str, tmp_path: Path) -> None:
    file = written(tmp_path, source)

    for _ in range(2):  # a failure is not remembered as loaded
        with pytest.raises(UserError, match=f"--plugin {file} cannot be loaded") as caught:
            read(file)
        assert reason in str(caught.value)


def test_a_plugin_that_takes_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, MINE.replace('"mine"', '"cnn"'))

    with pytest.raises(UserError, match="model 'cnn' is registered twice"):
        read(file)


def test_a_plugin_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.py", tmp_path):
        with pytest.raises(UserError, match=f"--plugin: cannot read {path}"):
            read(path)
    binary = tmp_path / "binary.py"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=f"--plugin: cannot read {binary}"):
        read(binary)
