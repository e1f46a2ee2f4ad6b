"""The home folder: ``~`` in options, presets and variables, and users who have none."""

from __future__ import annotations

import getpass
import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config.command_line import build_parser, parse
from bench.config.home import ensure_home, expanded
from bench.config.run import Options
from bench.errors import UserError
from bench.learning import cache


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    return tmp_path / "me"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with neither a home folder nor a name."""

    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)


def test_a_tilde_that_no_shell_expanded_is_the_home_folder(home: Path, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("data_dir: ~/data\nmodels: [cnn, '~/mine.py:net']\n")
    words = ["--results=~/runs", "--weights=cnn=~/a.pth", "--dataset=folder:~/pets", f"--experiment={preset}"]

    options = parse(build_parser(Options, "bench.run", ""), Options, words)

    assert options.results == home / "runs"
    assert options.data_dir == home / "data"
    assert options.weights == (f"cnn={home}/a.pth",)
    assert options.dataset == f"folder:{home}/pets"
    assert options.models == ("cnn", f"{home}/mine.py:net")


def test_a_tilde_in_the_variable_for_the_cache_is_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", "~/cache")

    assert cache.cache_dir() == home / "cache"


@pytest.mark.parametrize("text", ["a~b", "backup~", "~nobody-of-this-name/x", "http://host/~me", "~ 5 %", "x/~/y"])
def test_other_tildes_stay(text: str) -> None:
    assert expanded(text) == text


@given(st.text())
def test_nothing_else_is_changed(text: str) -> None:
    plain = text.replace("~", "-")

    assert expanded([plain, {"a": (plain,)}, 1, None]) == [plain, {"a": (plain,)}, 1, None]


@pytest.mark.usefixtures("nobody")
def test_without_a_home_the_cache_stands_in_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))

    ensure_home()

    assert Path.home() == tmp_path
    assert getpass.getuser() == f"uid-{os.getuid()}"


@pytest.mark.usefixtures("nobody")
def test_without_a_home_and_a_cache_a_private_temporary_folder_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCH_CACHE")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    ensure_home()
    assert Path.home().parent == tmp_path
    assert Path.home().stat().st_mode & 0o777 == 0o700

    monkeypatch.delenv("HOME")
    Path(tmp_path, f"image-classifier-bench-{os.getuid()}").rmdir()
    Path(tmp_path, f"image-classifier-bench-{os.getuid()}").symlink_to("/etc")
    with pytest.raises(UserError, match="set HOME"):
        ensure_home()


def test_a_home_that_exists_is_kept(home: Path) -> None:
    ensure_home()

    assert Path.home() == home
