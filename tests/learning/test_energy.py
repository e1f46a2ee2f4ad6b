"""Energy: a made-up tree of the kernel's counters, one that begins anew, and machines that count none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.learning import energy
from bench.learning.energy import Processors, joules_of, meter_of

LIMIT = 262_143_328_850
"""The microjoules at which a real processor's counter begins anew."""


class Kernel:
    """A tree of zones as /sys/class/powercap has it, whose counters a test sets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for zone, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0"),  # the same package by another way
        ):
            self.set(zone, 1_000_000, name)
        (root / "intel-rapl").mkdir()

    def set(self, zone: str, microjoules: int, name: str | None = None) -> None:
        folder = self.root / zone
        folder.mkdir(exist_ok=True)
        if name is not None:
            (folder / "name").write_text(f"{name}\n")
            (folder / "max_energy_range_uj").write_text(f"{LIMIT}\n")
        (folder / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_the_packages_are_counted_once_each(kernel: Kernel) -> None:
    meter = Processors(kernel.root)

    for zone, grown in (("0", 3_000_000), ("0:0", 500_000_000), ("1", 2_500_000), ("2", 900_000_000)):
        kernel.set(f"intel-rapl:{zone}", 1_000_000 + grown)

    assert meter.joules() == pytest.approx(5.5)
    assert meter.joules() == 0


def test_a_counter_that_begins_anew_goes_on(kernel: Kernel) -> None:
    kernel.set("intel-rapl:0", LIMIT - 400_000)
    meter = Processors(kernel.root)

    kernel.set("intel-rapl:0", 600_000)

    assert meter.joules() == pytest.approx(1.0)


def test_joules_of_one_call_are_a_mean_over_many(kernel: Kernel) -> None:
    counters = {"spent": 1_000_000, "calls": 0, "waits": 0}

    def call() -> None:
        counters["calls"] += 1
        counters["spent"] += 2_000
        kernel.set("intel-rapl:0", counters["spent"])

    def wait() -> None:
        counters["waits"] += 1

    joules = joules_of(call, Processors(kernel.root), wait=wait, seconds=0.05)

    assert joules == pytest.approx(0.002)
    assert counters["waits"] == counters["calls"] + 1 > 2


def test_where_nothing_counts_there_is_no_meter(tmp_path: Path, kernel: Kernel) -> None:
    assert meter_of("cpu", kernel.root) is not None
    assert meter_of("cpu", tmp_path / "none") is None
    (kernel.root / "intel-rapl:1" / "energy_uj").unlink()
    (kernel.root / "intel-rapl:1" / "energy_uj").mkdir()  # not readable, as for all but the administrator
    assert meter_of("cpu", kernel.root) is None


def test_a_gpu_s_counter_is_read_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")
    counted = iter([5_000, 7_500])
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: next(counted))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="0b1c"))

    meter = meter_of("cuda:0")

    assert isinstance(meter, energy.GraphicsCard)
    assert meter.joules() == 2.5


def test_without_nvml_or_its_driver_there_is_no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="0b1c"))
    assert meter_of("cuda:0") is None or torch.cuda.is_available()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert meter_of("cuda:0") is None
