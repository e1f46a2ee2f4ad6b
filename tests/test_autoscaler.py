"""A cluster that grows as runs need it and shrinks when they are done: Ray's autoscaler with its fake nodes.

ray.cluster_utils.AutoscalingCluster lacks a file in the wheel of Ray 2.60 (example.yaml), and stops every Ray of the
machine; this starts the same in a machine of its own.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from machines import PORT, WORK, Machine, bench_run, site, start_head, until, wait_for_ray, why_not

pytestmark = [pytest.mark.skipif(why_not() is not None, reason=str(why_not())), pytest.mark.slow]

PLUGIN = """
import time
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(classes))

    def forward(self, images):
        if self.training and len(images) > 2:
            time.sleep(0.5)
        return super().forward(images)
"""
MOST_NODES = 4
CONFIG = {
    "cluster_name": "fake",
    "max_workers": MOST_NODES,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,  # all are on this machine
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MOST_NODES},
    },
    "upscaling_speed": 9999.0,
    "idle_timeout_minutes": 0.2,
    # what the autoscaler of Ray 2.60 reads without a default
    **{name: {} for name in ("auth", "file_mounts")},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")},
    **{f"{kind}setup_commands": [] for kind in ("", "head_", "worker_")},
    **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
    "file_mounts_sync_continuously": False,
}
SAMPLER = """
import time, ray
ray.init("auto", log_to_driver=False)
while True:
    print(sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes()), flush=True)
    time.sleep(1)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Machine, Path]]:
    """A machine with the head of a cluster, and a file to which the number of nodes is written every second."""
    with site() as made:
        head = made.add("head", has_bench=True)
        (head.work / "mine.py").write_text(PLUGIN)
        (head.work / "cluster.yaml").write_text(yaml.safe_dump(CONFIG))
        options = ("--num-cpus=0", "--include-dashboard=false", f"--autoscaling-config={WORK}/cluster.yaml")
        wait_for_ray(head, start_head(head, *options, RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1"))
        samples = head.work / "nodes"
        head.start(sys.executable, "-c", SAMPLER, log=samples)
        until(lambda: counts(samples) != [], 60, samples.read_text)
        yield head, samples


def start(head: Machine, *options: str) -> tuple[psutil.Popen, Path]:
    log = head.work / "log"
    log.unlink(missing_ok=True)
    words = bench_run(
        *("--models", "mine.py:Net", "--dataset", "synthetic", "--train-size", "640", "--epochs", "2"),
        *("--address", f"{head.address}:{PORT}", "--results", f"results-{time.monotonic():.0f}", *options),
    )
    return head.start(*words, log=log), log


def counts(samples: Path) -> list[int]:
    return [int(line) for line in samples.read_text().splitlines() if line.isdigit()]


def shrinks(samples: Path) -> None:
    until(lambda: counts(samples)[-1] == 0, 120, samples.read_text)


@pytest.mark.timeout(600)
def test_eight_runs_make_the_cluster_grow_from_nothing_and_it_shrinks_after_them(cluster: tuple[Machine, Path]) -> None:
    head, samples = cluster
    running, log = start(head, "--seeds", "8", "--autoscaler", f"{MOST_NODES}x1")
    assert running.wait(400) == 0, log.read_text()
    shrinks(samples)

    told = log.read_text()
    print("nodes over time, one figure a second:", counts(samples))  # pytest -s shows it
    assert "8 of 8 runs done" in told
    assert re.search(r"waiting for nodes: \d runs wait for 1 worker with 1 CPU each; there: ", told)
    assert "there: 4 nodes" not in told  # it had grown as far as it may
    assert re.search(r"the cluster now has \d nodes? with \d CPU", told)
    assert max(counts(samples)) == MOST_NODES
    (folder,) = head.work.glob("results-*/runs")
    found = pd.read_parquet(folder)
    assert set(found.status) == {"ok"}
    assert set(found.attempts) == {1}


@pytest.mark.timeout(600)
def test_two_runs_ask_for_no_more_than_two_nodes(cluster: tuple[Machine, Path]) -> None:
    head, samples = cluster
    before = len(counts(samples))
    running, log = start(head, "--seeds", "2", "--autoscaler", f"{MOST_NODES}x1")
    assert running.wait(400) == 0, log.read_text()
    shrinks(samples)

    assert max(counts(samples)[before:]) == 2


@pytest.mark.timeout(600)
def test_what_the_autoscaler_could_add_is_asked_for_where_it_is_not_named(cluster: tuple[Machine, Path]) -> None:
    running, log = start(cluster[0], "--seeds", "1")

    assert running.wait(100) == 3, log.read_text()
    assert "--autoscaler 4x8" in log.read_text()
