"""What a model costs, and what it was measured on."""

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
from bench.learning.models import ModelSpec


def parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)


def macs(model: nn.Module, spec: ModelSpec) -> int:
    """Count the multiply-accumulates to classify one image: half of what torch's own FLOP counter counts."""
    was_training = model.training
    model.eval()  # one image is no batch to normalise, and nothing is dropped out
    device = next(model.parameters()).device
    image = torch.zeros(1, spec.channels, spec.input_size, spec.input_size, device=device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image)
    model.train(was_training)
    return int(counter.get_total_flops()) // 2


class PeakMemory:
    """Peak memory from the moment this object is made: the GPU's allocations, or what this process holds in memory.

    Files that are mapped, mostly libraries, are left out where the system tells (Linux): their pages are shared by all
    processes, and which of them count for one is chance.
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
        """What is counted."""
        if self._device.startswith("cuda"):
            return "GPU, allocated by PyTorch"
        return f"CPU, resident set of the process{' without mapped files' if self._resettable else ''}"

    def megabytes(self) -> float:
        """The peak in 10^6 bytes."""
        if self._device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self._device) / 1e6
        if self._resettable:
            now = _memory()
            return (now["VmHWM"] - now["RssFile"]) / 1e6
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _memory() -> dict[str, int]:
    """This process's figures in bytes by the kernel's names (man 5 proc: status); empty where there are none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    figures = [line.split() for line in lines if line.endswith(" kB")]
    return {name.removesuffix(":"): 1024 * int(figure) for name, figure, _ in figures}


def machine(device: str, threads: int) -> dict[str, object]:
    """The columns of a record that say where it was measured."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": threads,
        **_host(),
    }


@functools.cache
def _host() -> dict[str, object]:
    return {
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


def cpu_name() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
