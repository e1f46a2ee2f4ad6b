"""Where a figure was measured, as one line."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from bench.learning.measure import cpu_name

ROOT = Path(__file__).parents[2]


def machine_line(threads: int | None = None) -> str:
    """'Machine: ...'; ``threads`` where PyTorch's computed in this process."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    used = f", {threads} threads" if threads is not None else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"Machine: {cpu_name()}, {os.cpu_count()} CPUs{used}, {gpu}, {versions}"
