"""Functions that the scripts here share: whole commands timed from the outside, and the pages about them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from tabulate import tabulate

from bench.learning.cpus import cpu_name

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Whole:
    """A command from the start of its process to the end."""

    began: float
    """The start, in seconds since 1970."""
    seconds: float
    rows: list[dict[str, Any]]
    """The runs that it stored."""


def timed(command: Sequence[str], **options: Any) -> tuple[float, str]:
    """Run a command and return (its seconds from start to end, what it printed); its errors are shown."""
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options)
    return time.perf_counter() - start, done.stdout


def environment(cache: str) -> dict[str, str]:
    """Return the environment of a command of this checkout, with ``cache`` as its cache folder."""
    return {**os.environ, "BENCH_CACHE": cache, "PYTHONPATH": str(ROOT)}


def run_bench(*options: str, cache: str | None = None) -> Whole:
    """Run ``python -m bench.run`` for both built-in models, untimed, with empty results.

    Without ``cache``, the cache is empty, too.
    """
    with tempfile.TemporaryDirectory(prefix="bench-speed-") as folder:
        command = [sys.executable, "-m", "bench.run", "--models", "cnn", "mobilenet", "--weights", "bundled"]
        command += ["--no-timing", "--results", f"{folder}/results", *options]
        began = time.time()
        seconds, _ = timed(command, env=environment(cache or f"{folder}/cache"), cwd=folder)
        return Whole(began, seconds, pq.read_table(f"{folder}/results/runs").to_pylist())


def markdown(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Return a table in Markdown."""
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def write_page(file: Path, title: str, *paragraphs: str, threads: int | None = None) -> str:
    """Write a page about this machine and return its text. ``threads`` as for :func:`machine_line`."""
    text = "\n\n".join([f"# {title}", *paragraphs, machine_line(threads)]) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return text


def machine_line(threads: int | None = None) -> str:
    """Return 'Machine: ...', with PyTorch's ``threads`` if it computed in this process."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    used = f", {threads} threads" if threads is not None else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"Machine: {cpu_name()}, {os.cpu_count()} CPUs{used}, {gpu}, {versions}"
