"""The cost of a model (parameters, arithmetic, memory), and the machine that it was measured on."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import resource
import sys
from pathlib import Path

import psutil
import torch
from torch import __version__ as torch_version
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import bench
from bench.learning.cpus import cpu_name
from bench.learning.models.architecture import ModelSpec


def parameters(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of (trainable, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)


def macs(model: nn.Module, spec: ModelSpec) -> int:
    """Count the multiply-accumulates to classify one image: half the operations that torch's FLOP counter counts."""
    was_training = model.training
    model.eval()  # in training mode batch norm needs more than one image
    device = next(model.parameters()).device
    image = torch.zeros(1, spec.input.channels, spec.input.image_size, spec.input.image_size, device=device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image)
    model.train(was_training)
    return int(counter.get_total_flops()) // 2


class PeakMemory:
    """The peak memory since this object was made: PyTorch's allocations on the GPU, or this process's resident set.

    Mapped files, mostly libraries, are left out where the system reports them (Linux): processes share their pages, and
    it is chance which of them count towards a process.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._resettable = False
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
        elif "RssFile" in _memory():
            with contextlib.suppress(OSError):  # the high-water mark can be reset (man 5 proc: clear_refs)
                Path("/proc/self/clear_refs").write_text("5")
                self._resettable = True

    @property
    def kind(self) -> str:
        """Return a description of what is counted."""
        if self._device.startswith("cuda"):
            return "GPU, allocated by PyTorch"
        return f"CPU, resident set of the process{' without mapped files' if self._resettable else ''}"

    def megabytes(self) -> float:
        """Return the peak in 10^6 bytes."""
        if self._device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self._device) / 1e6
        if self._resettable:
            now = _memory()
            return (now["VmHWM"] - now["RssFile"]) / 1e6
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _memory() -> dict[str, int]:
    """Return this process's memory figures in bytes by the kernel's names (man 5 proc: status), if there are any."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    figures = [line.split() for line in lines if line.endswith(" kB")]
    return {name.removesuffix(":"): 1024 * int(figure) for name, figure, _ in figures}


def machine(device: str, threads: int) -> dict[str, object]:
    """Return the columns of a record that describe the machine it was measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": threads,
        **_host(),
    }


@functools.cache
def _host() -> dict[str, object]:
    return {
        "node": platform.node(),
        "cpu": cpu_name(),
        "cpu_cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python_version": platform.python_version(),
        "torch_version": torch_version,
        "torchvision_version": _version("torchvision"),
        "ray_version": _version("ray"),
        "bench_version": bench.__version__,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
