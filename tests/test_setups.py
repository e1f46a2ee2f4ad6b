"""The ways in which people start it: through uv, in deep folders, in a terminal, on one CPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from running import environment

TWO_EPOCHS = ("--dataset", "synthetic", "--epochs", "2", "--no-timing")
NEEDS_SCRIPT = pytest.mark.skipif(shutil.which("script") is None, reason="needs util-linux's script for a terminal")


def records(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results" / "runs").set_index("model")


def started_by(words: list[str], folder: Path, **environ: str) -> str:
    """Run ``bench.run`` by words before it, and expect it to end well; return what it printed."""
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model in a command of its own: started by uv, with a long path to temporary files."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    assert uv is not None, "the test extra installs uv"
    folder = tmp_path_factory.mktemp("alone")
    temporary = folder / ("x" * 90)
    temporary.mkdir()
    words = [uv, "run", "--no-project", "--offline", "--python", sys.executable, "python", "-m", "bench.run"]
    started_by([*words, "--models", "cnn", *TWO_EPOCHS], folder, TMPDIR=str(temporary))
    return folder


@pytest.fixture(scope="module")
def in_a_terminal(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a command with two models writes on a terminal, and its folder."""
    folder = tmp_path_factory.mktemp("terminal")
    command = f"{sys.executable} -m bench.run --models cnn mobilenet {' '.join(TWO_EPOCHS)}"
    words = ["script", "--quiet", "--return", "--command", command, "/dev/null"]
    return started_by(words, folder, TERM="xterm", COLUMNS="120"), folder


def test_it_works_under_uv_run_and_with_a_long_path_to_temporary_files(alone: Path) -> None:
    assert list(records(alone).status) == ["ok"]


@NEEDS_SCRIPT
def test_a_terminal_shows_a_live_line_of_each_model_and_of_all_runs(in_a_terminal: tuple[str, Path]) -> None:
    shown, _ = in_a_terminal

    assert "\x1b[" in shown
    doing = "training, epoch [12]/2|features|testing|loading data and model"
    live = [line for line in re.split(r"[\r\n]", shown) if re.search(doing, line)]
    assert any("cnn" in line for line in live)
    assert any("mobilenet" in line for line in live)
    assert re.search(r"[012] of 2 runs done, \d\d:\d\d so far, about \d\d:\d\d left", shown)
    assert re.search(r"starting Ray.* so far", shown)


@NEEDS_SCRIPT
def test_a_run_in_a_command_of_its_own_gives_the_same_as_beside_others(
    alone: Path, in_a_terminal: tuple[str, Path]
) -> None:
    one, other = (records(folder).loc["cnn"] for folder in (alone, in_a_terminal[1]))

    assert one.run_id == other.run_id
    assert one.threads == other.threads == max(1, min(4, (os.cpu_count() or 1) // 2))
    assert one.model_sha256 == other.model_sha256
    assert one.predictions_sha256 == other.predictions_sha256


@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="root has no limit on its threads")
def test_a_limit_on_threads_that_ray_cannot_start_with_is_named_at_once(tmp_path: Path) -> None:
    limited = [*stranger(), "bash", "-c", 'ulimit -u 60; exec "$@"', "-"]
    words = [*limited, sys.executable, "-m", "bench.run", "--models", "cnn", "--dataset", "synthetic"]
    start = time.monotonic()
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)

    assert done.returncode == 3, done.stderr
    assert re.fullmatch(r"error: only \d+ more threads can be started here, .*ulimit -u.*\n", done.stderr)
    assert time.monotonic() - start < 15  # 2 s on an idle machine; Ray itself waits for 60


def stranger() -> list[str]:
    """Words that start a command as a user who is a number only, without a name and a home folder, as in a container.

    What root may read and write, this user may too: the folders of Python and of the tests.
    """
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return ["env", "-u", "HOME"]
    rights = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    user = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *rights)
    return [*user, "env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME"]


@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs util-linux's taskset")
def test_a_user_without_a_name_and_a_home_trains_on_one_cpu_with_one_thread(tmp_path: Path) -> None:
    folder = tmp_path / "a folder #1"
    folder.mkdir()
    words = [*stranger(), "taskset", "-c", "0", sys.executable, "-m", "bench.run"]
    options = ["--models", "cnn", "mobilenet", "--dataset", "synthetic", "--epochs", "1", "--no-timing"]
    out = started_by([*words, *options], folder, BENCH_CACHE=str(tmp_path / "cache"))

    assert "on 1 CPU and 0 GPUs" in out
    found = records(folder)
    assert list(found.status) == ["ok", "ok"]
    assert list(found.threads) == [1, 1]
    assert {path.name for path in folder.iterdir()} == {"results"}, "no folder called ~"
