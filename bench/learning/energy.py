"""The energy that a machine counts while it answers: of its processors (RAPL, Linux), or of a GPU (NVML).

Only what the hardware counts is reported. Where it shows no counter, or shows it to the administrator only, there is no
figure; nothing is worked out from a processor's rated power.

RAPL is the kernel's documented interface (Documentation/power/powercap); the Python packages that wrapped it are no
longer kept. Each processor package is a zone with a counter in microjoules, which begins anew at a limit of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
SECONDS = 2.0
"""The duration of a measurement: a GPU's counter may be 0.1 s behind."""


class Meter(Protocol):
    """A counter of energy."""

    def joules(self) -> float:
        """Return the joules since the last call, or since the meter was made.

        Raises:
            OSError: the counter can no longer be read.
        """


@dataclass
class _Zone:
    """A processor package."""

    folder: Path
    limit: int
    """The number of microjoules at which its counter begins anew."""
    last: int = 0

    def moved(self) -> int:
        """Return the microjoules since the last call; right as long as the counter began anew once at most."""
        now = _number(self.folder / "energy_uj")
        passed, self.last = now - self.last, now
        return passed if passed >= 0 else passed + self.limit


class Processors:
    """The energy of all processor packages, whatever runs on them, memory left out."""

    def __init__(self, root: Path = POWERCAP) -> None:
        """Begin to count.

        Args:
            root: the folder of the kernel's zones.

        Raises:
            OSError: there is no counter, or it cannot be read.
        """
        packages = [folder for folder in sorted(root.glob("*-rapl:*")) if _is_package(folder)]
        self._zones = [_Zone(folder, _number(folder / "max_energy_range_uj")) for folder in packages]
        if not self._zones:
            raise FileNotFoundError(f"no processor package in {root}")
        self.joules()

    def joules(self) -> float:
        """Return the joules since the last call."""
        return sum(zone.moved() for zone in self._zones) / 1e6


def _is_package(folder: Path) -> bool:
    """Return whether a zone is a whole package: not a part of one, and not the machine, which would count it twice."""
    return folder.name.count(":") == 1 and (folder / "name").read_text().startswith("package")


def _number(file: Path) -> int:
    return int(file.read_text())


class GraphicsCard:
    """The energy of a GPU, its memory included."""

    def __init__(self, uuid: str) -> None:
        """Begin to count.

        Args:
            uuid: as NVML names the GPU: 'GPU-...'.

        Raises:
            OSError: the GPU has no counter.
            ImportError: nvidia-ml-py is not installed.
        """
        import pynvml

        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self._last = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except pynvml.NVMLError as error:
            raise OSError(f"{uuid} counts no energy: {error}") from None

    def joules(self) -> float:
        """Return the joules since the last call; NVML counts millijoules."""
        try:
            now = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from None
        passed, self._last = now - self._last, now
        return float(passed) / 1000


def meter_of(device: str, root: Path | None = None) -> Meter | None:
    """Return what counts the energy of a device, as torch names it; None if nothing does."""
    with contextlib.suppress(OSError, ValueError, ImportError):
        if not device.startswith("cuda"):
            return Processors(root or POWERCAP)
        import torch

        return GraphicsCard(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return None


def joules_of(call: Callable[[], object], meter: Meter, *, wait: Callable[[], None], seconds: float) -> float:
    """Call a function again and again for some seconds; return the joules of one call.

    Args:
        call: what to measure.
        meter: counts.
        wait: returns when what ``call`` began has ended, as on a GPU.
        seconds: how long.

    Raises:
        OSError: the counter can no longer be read.
    """
    wait()
    meter.joules()
    calls, end = 0, time.perf_counter() + seconds
    while not calls or time.perf_counter() < end:
        call()
        wait()
        calls += 1
    return meter.joules() / calls
