"""The CPUs that a process may use: cgroups of both versions, in a container and outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.learning import cpus


@pytest.mark.parametrize(
    ("listing", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "50000 100000"}, [0.5]),  # a container of version 2 with --cpus=0.5
        ("0::/\n", {"cpu.max": "max 100000"}, []),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, [1.5]),  # a service in a slice
        ("0::/of/the/host\n", {"cpu.max": "300000 100000"}, [3.0]),  # a container without a cgroup namespace
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, [0.5]),
        ("2:cpuacct,cpu:/x\n", {"cpuacct,cpu/x/cpu.cfs_quota_us": "-1", "cpuacct,cpu/x/cpu.cfs_period_us": "9"}, []),
        ("3:memory:/\n", {"memory/cpu.max": "1 100000"}, []),
        ("0::/\n", {"cpu.max": "nonsense"}, []),
    ],
)
def test_quotas_are_those_of_the_cgroups_around_a_process(
    listing: str, files: dict[str, str], expected: list[float], tmp_path: Path
) -> None:
    (tmp_path / "listing").write_text(listing)
    for name, text in files.items():
        file = tmp_path / "mounted" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert cpus.quotas(tmp_path / "mounted", tmp_path / "listing") == expected


def test_outside_linux_there_are_no_quotas(tmp_path: Path) -> None:
    assert cpus.quotas(tmp_path, tmp_path / "nothing") == []


@pytest.mark.parametrize(("quotas", "expected"), [([0.5], 1), ([2.9, 7.0], 2), ([], 4), ([64.0], 4)])
def test_a_part_of_a_cpu_counts_as_one_and_a_fraction_above_is_left(
    quotas: list[float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "quotas", lambda: quotas)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})

    assert cpus.usable_cpus() == expected
