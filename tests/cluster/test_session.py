"""The Ray that a command starts for itself."""

from __future__ import annotations

import os

import psutil

from bench.cluster.session import connect


def test_our_own_ray_listens_on_loopback_only() -> None:
    with connect(None) as session:
        assert sum(node.cpus for node in session.nodes) == os.cpu_count()
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [
            (process.name(), connection.laddr.ip)
            for process in processes
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 4  # the raylet and the global control store, at least
        assert {address for _, address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, listening
