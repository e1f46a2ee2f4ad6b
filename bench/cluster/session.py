"""A Ray cluster to work on: the one at --address, or a new one that ends with the command."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.cluster import address as joining
from bench.cluster.placement import Node, with_growth
from bench.cluster.waiting import Watch
from bench.errors import DoesNotFitError, UserError, first_line
from bench.learning.cpus import usable_cpus

# Ray reads these when it is imported or starts processes, so they are set before.
_SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",  # saves two actors in a Train run
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # saves one more, which would import torch
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # for workers that train together; 2 s by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # a loaded machine takes long to import torch
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A run's process is killed when memory runs out; by default also the coordinator's, as it does not start anew.
    "RAY_worker_killing_policy_by_group": "true",
    "RAY_task_oom_retries": "0",  # by default a run that fills the memory is started again without end
    "RAY_health_check_period_ms": "1000",  # a killed raylet is noticed after five periods; 3 s each by default
    "RAY_idle_worker_killing_time_threshold_ms": "30000",  # by default 1 s: they would end just before they are used
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave CUDA_VISIBLE_DEVICES alone, and do not warn about it
    # Workers run in this Python already; under `uv run` Ray would make an environment for each.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
_QUIET = {
    # Ray's daemons tell the driver of each worker that died, whatever log_to_driver says; records have the reason.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
}


_SECONDS_TO_GROW = "3600"
"""The longest that the workers of a run wait for nodes that an autoscaler adds."""
_LEAST_THREADS = 200
"""The least number of threads that Ray can train with: on two CPUs its processes have 257."""
_LONGEST_FOLDER = 20
"""The most characters of the folder for temporary files: the path of a socket has 83 more, and may have 107."""


class ClusterLostError(Exception):
    """The loss of Ray: it ended or cannot be reached any more. The message is Ray's."""


@dataclass(frozen=True)
class Session:
    """A connection to Ray."""

    nodes: list[Node]
    """The nodes that there were at first, with those that an autoscaler may add."""
    shares_files: bool = False
    """True if every worker is on this machine, and reads the files that the driver reads."""
    may_grow: bool = False
    """True if an autoscaler adds nodes that are asked for."""

    @property
    def remedy(self) -> str:
        """Return what else helps a request that does not fit, as the end of a sentence."""
        if self.shares_files or self.may_grow:
            return ""
        return "; or, if the cluster has an autoscaler, say what it may add (--autoscaler 4x8 is 4 nodes with 8 CPUs)"

    @staticmethod
    def present() -> list[Node]:
        """Return the nodes that there are now."""
        import ray

        return [node_of(each) for each in ray.nodes() if each["Alive"]]

    def watch(self) -> Watch | None:
        """Return what tells of nodes that come and go; None for this machine alone."""
        return None if self.shares_files else Watch(self.present, at_most=self.nodes if self.may_grow else ())


def node_of(about: Mapping[str, Any]) -> Node:
    """Return a node as it is placed on, of what ``ray.nodes()`` says about it."""
    resources = about["Resources"]
    return Node(cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0))


@contextlib.contextmanager
def connect(address: str | None, *, may_add: Sequence[Node] = (), verbose: bool = False) -> Iterator[Session]:
    """Connect to the cluster at ``address``, or start one on this machine.

    Args:
        address: 'HOST:PORT' or 'auto'; None starts one.
        may_add: the nodes that an autoscaler of the cluster may have at once.
        verbose: show what Ray prints.

    Raises:
        UserError: nothing answers at ``address``, or Ray cannot be started.
    """
    settings = _SETTINGS | ({} if verbose else _QUIET) | ({} if address is None else joining.SETTINGS)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if address is None:
        _check_threads()
        ask_for_own_token()
    else:
        joining.prepare(address)
    import ray

    _quieten(verbose)
    options = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.CRITICAL}
    with contextlib.ExitStack() as until_the_end:
        if address is None:
            until_the_end.enter_context(_own_folder())
            until_the_end.callback(ray.shutdown)
            _start(**options)
        else:
            until_the_end.callback(ray.shutdown)
            trains = {name: value for name, value in _SETTINGS.items() if name.startswith("RAY_TRAIN_")}
            if may_add:
                trains["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = _SECONDS_TO_GROW
            joining.join(address, variables=trains, verbose=verbose, **options)
        nodes = with_growth(Session.present(), may_add)
        yield Session(nodes, shares_files=address is None, may_grow=bool(may_add))


@functools.cache
def ask_for_own_token() -> None:
    """Make the Ray that this process starts require a token, which is made now and kept in no file.

    Ray listens on all interfaces, and without a token anybody who reaches it could execute code. Call this before Ray
    is imported, which reads the token.
    """
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """Make a Ray that is started in this context keep its sockets and logs where no other user can read them."""
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108
    before = os.environ.get("RAY_TMPDIR")
    try:
        own = tempfile.TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(
            f"Ray needs a folder with a short path, and {short} cannot be written ({error.strerror}); set TMPDIR to a "
            f"folder whose path has at most {_LONGEST_FOLDER} characters"
        ) from None
    with own as folder:
        os.environ["RAY_TMPDIR"] = folder
        try:
            yield
        finally:
            del os.environ["RAY_TMPDIR"]
            os.environ.update({} if before is None else {"RAY_TMPDIR": before})


def _start(**options: Any) -> None:
    """Start Ray; try twice, as it waits only 30 s for its daemons, and a loaded machine may take longer."""
    import ray

    options["num_cpus"] = usable_cpus()  # Ray counts no CPU where a container has half of one, and ignores taskset
    for last in (False, True):
        try:
            # "local": without it ray.init would join a cluster that somebody else started on this machine
            ray.init(address="local", include_dashboard=False, **options)
        except Exception as error:
            ray.shutdown()
            if last:
                reason = first_line(error)
                raise UserError(f"Ray did not start on this machine ({reason}); --verbose shows its messages") from None
        else:
            return


def _quieten(verbose: bool) -> None:
    if verbose:
        return
    warnings.filterwarnings("ignore", module="ray")
    for name in ("ray", "ray.train", "ray.tune", "ray.data"):  # errors end in records, with the reason
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _check_threads() -> None:
    """Refuse a limit on threads that Ray cannot start with; it would wait a minute for daemons that cannot start.

    Raises:
        DoesNotFitError: fewer can be started.
    """
    done, started = threading.Event(), []
    try:
        for _ in range(_LEAST_THREADS):
            started.append(threading.Thread(target=done.wait, daemon=True))
            started[-1].start()
    except RuntimeError:
        raise DoesNotFitError(
            f"only {len(started) - 1} more threads can be started here, and Ray needs about 250; raise the limit "
            "(ulimit -u, or the container's limit on processes)"
        ) from None
    finally:
        done.set()
