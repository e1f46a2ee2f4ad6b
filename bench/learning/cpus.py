"""The processor's name, and how many CPUs this process may use: its affinity mask, within its cgroup's quota."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use, at least 1; a fraction of a quota is left unused."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([allowed, *quotas()])))


def quotas(mounted: Path = _CGROUPS, listing: Path = _OWN_CGROUPS) -> list[float]:
    """Return the limits, in CPUs, of the cgroups that this process is in; none outside Linux.

    The files are those of the kernel's documentation, admin-guide/cgroup-v2 (cpu.max) and scheduler/sched-bwc (version
    1: cpu.cfs_quota_us). A container without a cgroup namespace lists the host's path, of which it sees only the root.

    Args:
        mounted: the folder that cgroups are mounted in.
        listing: the file that lists this process's cgroups, a line ``ID:CONTROLLERS:PATH`` for each hierarchy.
    """
    limits = []
    for folder in _folders(mounted, listing):
        try:
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if quota != "max" and int(quota) > 0:
                limits.append(int(quota) / int(period))
        except (OSError, ValueError):  # no such limit
            continue
    return limits


def _folders(mounted: Path, listing: Path) -> Iterator[Path]:
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mounted / controllers
        inner = root / path.strip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
