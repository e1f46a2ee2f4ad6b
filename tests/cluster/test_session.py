"""The Ray that a command starts for itself."""

from __future__ import annotations

import contextlib
import os

import psutil
import pytest

from bench.cluster.session import connect, workers_expected


@pytest.mark.parametrize("forked", [True, False])
def test_our_own_ray_listens_on_loopback_only(forked: bool) -> None:
    with workers_expected(own=forked), connect(None) as session:
        assert sum(node.cpus for node in session.nodes) == os.cpu_count()
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = []
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                of_it = process.net_connections("tcp")
                listening += [(process.name(), one.laddr.ip) for one in of_it if one.status == psutil.CONN_LISTEN]
        assert len(listening) >= 4  # the raylet and the global control store, at least
        assert {address for _, address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, listening
