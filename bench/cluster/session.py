"""A Ray cluster to work on: the one at --address, or one of our own that ends with the command."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cluster.forkserver import ADDRESS, WORKER, forkserver
from bench.cluster.placement import Node
from bench.errors import UserError
from bench.learning.compiled import kernels

# Read by ray when it is imported or starts processes, so set before.
_SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",  # two actors less in each Train run
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one more, which would import torch
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",  # a controller in this process would log to the screen
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the controller looks after its workers this often; 2 s by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # a loaded machine takes its time to import torch
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_health_check_period_ms": "1000",  # a raylet that was killed is noticed after five of them, of 3 s by default
    "RAY_idle_worker_killing_time_threshold_ms": "30000",  # by default after a second, when they are about to be used
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave CUDA_VISIBLE_DEVICES alone, and do not warn about it
}


class ClusterLostError(Exception):
    """Ray ended, or cannot be reached any more; says what is known of it."""


@dataclass(frozen=True)
class Session:
    """A connection to Ray."""

    nodes: list[Node]
    own: bool
    """Started by this command, and ended with it."""
    storage: Path
    """Scratch space for Ray Train's own files; removed with the session."""


@contextlib.contextmanager
def workers_expected(own: bool) -> Iterator[None]:
    """Have what workers need imported, from now on, if :func:`connect` is to start a cluster of our own in this."""
    _set_up()
    with forkserver() if own else contextlib.nullcontext():
        yield


def _set_up() -> None:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def connect(
    address: str | None,
    *,
    verbose: bool = False,
    for_tune: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[Session]:
    """Connect to the cluster at ``address``, or start one on this machine.

    Args:
        address: 'HOST:PORT' or 'auto'; None starts one.
        verbose: show what Ray prints, and leave nothing out that would print.
        for_tune: Ray Tune will be used, whose workers have environments of their own.
        meanwhile: called in a thread, to do what would disturb runs later: this process waits now.

    Raises:
        UserError: nothing answers at ``address``.
    """
    _set_up()
    if address is not None:
        _check_address(address)
        _use_token(address)
    import ray

    _quieten(verbose)
    with contextlib.ExitStack() as until_the_end:
        common = {
            "log_to_driver": verbose,
            "logging_level": logging.INFO if verbose else logging.ERROR,
            "ignore_reinit_error": False,
        }
        until_the_end.callback(ray.shutdown)
        if address is None:
            _start_own(meanwhile, verbose=verbose, for_tune=for_tune, **common)
        else:
            threading.Thread(target=meanwhile, daemon=True).start()
            _join(address, **common)
        nodes = [
            Node(cpus=node["Resources"].get("CPU", 0.0), gpus=node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"]
        ]
        storage = tempfile.TemporaryDirectory(prefix="bench-train-", ignore_cleanup_errors=True)
        yield Session(nodes, address is None, Path(until_the_end.enter_context(storage)))


def _join(address: str, **options: Any) -> None:
    import ray

    package = str(Path(__file__).parents[1])
    try:
        ray.init(address=address, runtime_env={"py_modules": [package]}, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--address {address}: no Ray cluster to connect to ({reason}); if it asks for a token, "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None


def _start_own(meanwhile: Callable[[], None], *, verbose: bool, for_tune: bool, **options: Any) -> None:
    # Ray Train takes more than a second to import, in which the driver would wait for Ray's daemons.
    threading.Thread(target=_import_ray_train, args=[meanwhile], daemon=True).start()
    # The first time, a compiler works at them for 2 s, for which the workers would wait.
    threading.Thread(target=kernels, daemon=True).start()
    from bench.cluster.daemons import LOOPBACK, on_loopback, only_what_trains, with_params

    with on_loopback(), contextlib.ExitStack() as changed:
        if ADDRESS in os.environ:
            changed.enter_context(with_params(setup_worker_path=str(WORKER)))
            # Workers begin in no time. By default ray.init waits until there is one for each CPU, and keeps Python's
            # lock meanwhile, so that nothing else can be imported.
            options["_system_config"] = {"prestart_worker_first_driver": False}
        if not verbose:
            changed.enter_context(only_what_trains(agents=for_tune))
        # "local": without it ray.init would join a cluster that somebody else started on this machine
        _start(address="local", include_dashboard=False, _node_ip_address=LOOPBACK, **options)


def _import_ray_train(and_then: Callable[[], None]) -> None:
    with contextlib.suppress(ImportError):  # then it is imported, or fails, where it is needed
        importlib.import_module("ray.train.v2.api.data_parallel_trainer")
    and_then()


def _start(**options: Any) -> None:
    """Start Ray, a second time if need be: it gives a loaded machine 30 s to start its daemons."""
    import ray

    for last in (False, True):
        try:
            ray.init(**options)
        except Exception as error:
            ray.shutdown()
            if last:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(f"Ray could not be started on this machine ({reason})") from None
        else:
            return


def _quieten(verbose: bool) -> None:
    if verbose:
        return
    warnings.filterwarnings("ignore", module="ray")
    # Messages of Ray's daemons (of a worker that died, say) reach the driver whatever log_to_driver says.
    import ray._private.worker as driver

    driver.print_worker_logs = lambda *arguments, **options: None
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # its errors end in records, with the reason


_PROBE = """
import sys
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient
GcsClient(address=canonicalize_bootstrap_address(sys.argv[1]))
print("open")
"""


def _use_token(address: str) -> None:
    """Show the user's token to a cluster that asks for it, which ray.init does not do by itself.

    ``ray start`` asks for a token as soon as the user has one, and a cluster that asks for none cannot work with a
    driver that shows one; so a process of its own, without token, tries which it is.
    """
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    has_token = named or (Path.home() / ".ray" / "auth_token").exists()
    if "RAY_AUTH_MODE" in os.environ or not has_token:
        return
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_BACKEND_LOG_LEVEL": "warning"}
    probe = subprocess.Popen(
        [sys.executable, "-c", _PROBE, address],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with probe, contextlib.closing(probe.stdout or io.StringIO()) as output:
        for line in output:
            if "open" in line.split():
                break
            if "InvalidAuthToken" in line:
                os.environ["RAY_AUTH_MODE"] = "token"
                break
        probe.kill()


def _check_address(address: str) -> None:
    """Refuse at once what ray would try for minutes."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise UserError(f"--address {address!r} is not HOST:PORT (as 10.0.0.1:6379) or auto")
    if address.startswith("ray://"):
        raise UserError(f"--address {address}: give the cluster's own address, HOST:PORT, not that of a Ray client")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"--address {address}: nothing answers there ({error}); start one with: ray start --head"
        ) from None
