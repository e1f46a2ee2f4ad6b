"""Runs the commands as a user does: a process, its exit code, what it printed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def environment(**more: str) -> dict[str, str]:
    """The environment of a command, without network: only what is on disk is used."""
    proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1,localhost"}
    return {**os.environ, "PYTHONPATH": str(ROOT), **proxy, **more}


def command(module: str, *arguments: object, cwd: Path, timeout: float = 240, timing: bool = False, **more: str) -> Ran:
    """``python -m MODULE ARGUMENTS`` in ``cwd``; a benchmark without its timing unless ``timing`` asks for it."""
    if module == "bench.run" and not timing:
        arguments = (*arguments, "--no-timing")
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
