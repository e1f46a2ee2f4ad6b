"""Ray's own processes on a machine of ours: the few that a benchmark needs, listening on loopback alone.

All this reaches into Ray's private parts.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import parameter, services

LOOPBACK = "127.0.0.1"

_WITHOUT_AGENTS = ("2.60",)
"""Versions of Ray that are known to need no agents. Others get them: 2 s more until the first worker begins."""

_INSTEAD_OF_AGENT = (sys.executable, "-I", "-S", str(Path(__file__).with_name("no_agent.py")))
"""A raylet ends itself when an agent does, so something has to be there."""


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let ray.init take 127.0.0.1 as it is.

    Ray's servers listen on loopback alone when that is their node's address, but ray.init replaces it by an address
    that other machines reach, and then anybody there can have code executed here.
    """
    replace = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host if host == LOOPBACK else replace(host)
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = replace


@contextlib.contextmanager
def with_params(**given: Any) -> Iterator[None]:
    """Let ray.init give Ray's parameters these values (ray._private.parameter.RayParams)."""
    params = parameter.RayParams
    parameter.RayParams = functools.partial(params, **given)
    try:
        yield
    finally:
        parameter.RayParams = params


@contextlib.contextmanager
def only_what_trains(*, agents: bool) -> Iterator[None]:
    """Let ray.init start neither the dashboard's server, nor an autoscaler, nor what copies logs to the driver.

    Together they cost 3 s of processor time while the first workers start. The agents cost 2 s more, and the first
    workers wait for them.

    Args:
        agents: without them no worker may ask for an environment of its own: it would end the whole cluster.
    """
    leave_out = not agents and ray.__version__.startswith(_WITHOUT_AGENTS)
    start_api_server = services.start_api_server
    services.start_api_server = lambda *arguments, **options: ("", None)
    try:
        with (
            with_params(no_monitor=True, include_log_monitor=False),
            _without_agents() if leave_out else contextlib.nullcontext(),
        ):
            yield
    finally:
        services.start_api_server = start_api_server


@contextlib.contextmanager
def _without_agents() -> Iterator[None]:
    """Let the raylet start processes that do nothing in place of its agents.

    One agent reports to the dashboard, the other makes the environments of workers that have one of their own. The
    raylet waits until each has written which ports it listens on: -1 says that there is none.
    """
    _raylet: Any = importlib.import_module("ray._raylet")  # compiled: its contents have no types
    build, start_raylet = services._build_python_executable_command_memory_profileable, services.start_raylet
    names = (
        _raylet.METRICS_AGENT_PORT_NAME,
        _raylet.METRICS_EXPORT_PORT_NAME,
        _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
        _raylet.RUNTIME_ENV_AGENT_PORT_NAME,
    )

    def start(*arguments: Any, **options: Any) -> Any:
        given = inspect.signature(start_raylet).bind(*arguments, **options).arguments
        for name in names:
            _raylet.persist_port(given["session_dir"], given["node_id"], name, -1)
        # the agent's own arguments follow; nobody looks at them
        services._build_python_executable_command_memory_profileable = lambda *kind, **options: [*_INSTEAD_OF_AGENT]
        try:
            return start_raylet(*arguments, **options)
        finally:
            services._build_python_executable_command_memory_profileable = build

    services.start_raylet = start
    try:
        yield
    finally:
        services.start_raylet = start_raylet
