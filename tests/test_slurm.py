"""The script for SLURM starts Ray on every node of an allocation, and runs the command over them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from machines import Site, site, why_not
from running import ROOT

SCRIPT = ROOT / "deploy" / "slurm" / "bench.sbatch"
WORDS = ["--models", "cnn", "--dataset", "synthetic", "--epochs", "1", "--seeds", "4", "--no-timing"]


def commands(folder: Path) -> str:
    """A folder with stand-ins for SLURM's commands, as a PATH."""
    for name in ("srun", "scontrol"):
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/srun.py {name} "$@"\n')
        file.chmod(0o755)
    return f"{folder}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def submit(made: Site, names: list[str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    pids = {machine.name: machine.pid for machine in made.machines}
    environ = {
        "PATH": commands(folder),
        "PYTHONPATH": str(ROOT),
        "MACHINES": json.dumps(pids),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": ",".join(names),
        "SLURM_JOB_NUM_NODES": str(len(names)),
        "SLURM_CPUS_ON_NODE": "1",
        "SLURM_SUBMIT_DIR": str(folder),
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )


def test_the_script_is_read_by_bash_and_its_token_is_in_no_argument() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    commands_of = [line for line in SCRIPT.read_text().splitlines() if not line.startswith("#")]
    used = [line for line in commands_of if "RAY_AUTH_TOKEN" in line]
    assert all(re.match(r"RAY_AUTH_TOKEN=|export ", line) for line in used), used
    assert not any("set -x" in line for line in commands_of)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(why_not() is not None or shutil.which("bash") is None, reason=str(why_not()))
def test_an_allocation_of_two_nodes_trains_on_both_and_passes_the_exit_code_on(tmp_path: Path) -> None:
    with site() as made:
        names = ["first", "second"]
        first, _ = (made.add(name, has_bench=name == "first") for name in names)
        done = submit(made, names, tmp_path, *WORDS)

        assert done.returncode == 0, done.stdout + done.stderr
        found = pd.read_parquet(first.work / "results" / "runs")
        assert set(found.status) == {"ok"}
        assert set(found.node) == set(names)
        token = re.search(r"\b[0-9a-f]{64}\b", done.stdout + done.stderr)
        assert token is None

        wrong = submit(made, names, tmp_path, *WORDS, "--epochs", "0")
        assert wrong.returncode == 2, wrong.stdout + wrong.stderr
