"""Exceptions that nothing catches, as a user sees them: files that hide modules, and Ctrl-C while Python imports."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running import command, environment

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("json.py", "raise RuntimeError('a script of mine')"),
        ("queue.py", "mine = 1"),
        ("ray.py", "mine = 1"),
        ("numpy/__init__.py", ""),
        ("yaml.py", "print(undefined)"),
    ],
)
def test_a_file_of_the_users_that_hides_a_module_is_named(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)

    ran = command("bench.run", "--dataset", "synthetic", "--models", "cnn", cwd=tmp_path)

    assert ran.code == 2, ran
    name = file.partition("/")[0].removesuffix(".py")
    expected = f"error: {tmp_path / file} hides the Python module {name}, which is needed here; rename the file"
    assert ran.err.strip() == expected


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_a_terminal_cannot_show_are_printed_as_escapes(encoding: str, tmp_path: Path) -> None:
    ran = command("bench.run", "--models", "猫", cwd=tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (ran.code, ran.err.partition(";")[0]) == (2, "error: unknown model '\\u732b'"), ran
    ran = command("bench.report", "--results", "ordner-\N{SNOWMAN}", cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert "ordner-\\u2603 holds no runs" in ran.err, ran


def test_files_that_hide_nothing_needed_are_left_alone(tmp_path: Path) -> None:
    for name in ("test.py", "turtle.py", "helpers.py"):
        (tmp_path / name).write_text("raise RuntimeError")

    ran = command("bench.report", cwd=tmp_path)

    assert (ran.code, ran.err.count("\n")) == (2, 1), ran
    assert "holds no runs" in ran.err


def test_an_error_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['-m']; import bench; sys.argv = ['x']; open('json.py', 'w').close(); 1 / 0"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_control_c_while_python_imports_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)")
    words = [sys.executable, "-m", "bench.run"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert err == "interrupted\n"
    assert process.returncode in (130, -signal.SIGINT)  # a shell shows 130 for both
