"""The ways in which people start it: through uv, in deep folders, on one CPU, with many runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from running import command, environment

QUICK = ("--models", "cnn", "--dataset", "synthetic", "--epochs", "1", "--no-timing")


def statuses(folder: Path) -> list[str]:
    return list(pd.read_parquet(folder / "results" / "runs").status)


def started_by(words: list[str], folder: Path) -> None:
    """Run the command as the last of ``words``, and expect one finished run."""
    done = subprocess.run(
        [*words, "-m", "bench.run", *QUICK],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(folder) == ["ok"]
    assert "Traceback" not in done.stdout + done.stderr


def test_under_uv_run(tmp_path: Path) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    assert uv is not None, "the test extra installs uv"

    started_by([uv, "run", "--no-project", "--offline", "--python", sys.executable, "python"], tmp_path)


@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs util-linux's taskset")
def test_on_one_cpu(tmp_path: Path) -> None:
    started_by(["taskset", "-c", "0", sys.executable], tmp_path)

    record = pd.read_parquet(tmp_path / "results" / "runs").iloc[0]
    assert record.threads == 1


def test_with_a_long_path_to_temporary_files(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()

    ran = command("bench.run", *QUICK, cwd=tmp_path, TMPDIR=str(folder))

    assert ran.code == 0, ran
    assert statuses(tmp_path) == ["ok"]


def test_with_a_hundred_runs(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from bench.learning.models import register\n\n\n"
        "@register('linear')\ndef linear(classes):\n"
        "    from torch import nn\n\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))\n"
    )
    words = ["--models", "linear", "--plugin", "mine.py", "--dataset", "synthetic", "--epochs", "1", "--seeds", "100"]

    ran = command("bench.run", *words, cwd=tmp_path)

    assert ran.code == 0, ran
    assert statuses(tmp_path) == ["ok"] * 100
    processes = pd.read_parquet(tmp_path / "results" / "runs")
    assert processes.attempts.max() == 1


def test_a_run_in_a_command_of_its_own_gives_the_same_as_beside_others(tmp_path: Path) -> None:
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    for folder, models in ((alone, ["cnn"]), (beside, ["cnn", "strided-cnn"])):
        folder.mkdir()
        words = ["--models", *models, "--dataset", "synthetic", "--epochs", "2"]
        ran = command("bench.run", *words, cwd=folder)
        assert ran.code == 0, ran
    one, other = (
        pd.read_parquet(folder / "results" / "runs").set_index("model").loc["cnn"] for folder in (alone, beside)
    )

    assert one.run_id == other.run_id
    assert one.threads == other.threads == max(1, min(4, (os.cpu_count() or 1) // 2))
    assert one.model_sha256 == other.model_sha256
    assert one.predictions_sha256 == other.predictions_sha256
