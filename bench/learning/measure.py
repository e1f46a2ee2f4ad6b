"""What a model costs, and what it was measured on."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import bench
from bench.learning.compiled import kernels
from bench.learning.models import ModelSpec
from bench.spec import Cost, Recipe


def parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)


def macs(model: nn.Module, spec: ModelSpec) -> int:
    """Multiply-accumulates to classify one image: half of what torch's own FLOP counter counts."""
    with torch.inference_mode(), _answering(model, spec) as (_, counter):
        return _macs(counter)


def training_macs(model: nn.Module, spec: ModelSpec) -> int:
    """Multiply-accumulates to learn from one image, those for the gradients of what is trained included."""
    with _answering(model, spec) as (logits, counter):
        answer = _macs(counter)
        torch.autograd.backward(logits.sum())
    model.zero_grad(set_to_none=True)
    # Gradients of inputs and of weights take as much as the answer each, at most: torch's counter takes those of
    # grouped convolutions for those of full ones.
    return min(_macs(counter), 3 * answer)


@contextlib.contextmanager
def _answering(model: nn.Module, spec: ModelSpec) -> Iterator[tuple[Tensor, FlopCounterMode]]:
    """(logits of one image, what counts the operations that they took and those that follow)."""
    was_training = model.training
    model.eval()  # one image is no batch to normalise, and nothing is dropped out or kept
    device = next(model.parameters()).device
    image = torch.zeros(1, spec.channels, spec.input_size, spec.input_size, device=device)
    with FlopCounterMode(display=False) as counter:
        yield model(image), counter
    model.train(was_training)


def _macs(counter: FlopCounterMode) -> int:
    return int(counter.get_total_flops()) // 2


_STEP_MACS = 3e7
"""What a training step costs beside its arithmetic: 1.5 ms where 2e10 of them take a second."""


def cost(
    recipe: Recipe, *, images: int, held_out: int, tested: int, macs: int, head_macs: int | None, training_macs: int
) -> Cost:
    """What a run will cost, roughly.

    Args:
        recipe: of the run.
        images: trained on in each epoch.
        held_out: images validated on after each epoch.
        tested: test images.
        macs: of classifying one image.
        head_macs: of a head on features that are extracted once; None where the whole model is trained.
        training_macs: of learning from one image, or from its features.
    """
    before = 0 if head_macs is None else images * macs  # also if they are cached, which is no property of the run
    validating = held_out * (macs if head_macs is None else head_macs)
    return Cost(
        before=float(before),
        epoch=float(images * training_macs + validating) + _STEP_MACS * math.ceil(images / recipe.batch_size),
        epochs=recipe.epochs,
        after=float(tested * macs),
    )


class PeakMemory:
    """Peak memory from the moment this object is made: the GPU's allocations, or what this process holds in memory.

    Files that are mapped, mostly libraries, are left out where the system tells (Linux): their pages are shared by all
    processes, and which of them count for one is chance; a process that was forked begins with none.
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
        "kernels": None if device.startswith("cuda") else "compiled" if kernels() else "PyTorch",
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
        "torch_version": torch.__version__,
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
