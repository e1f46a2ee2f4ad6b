"""Ray's workers forked from one process that has imported what they need, instead of each importing it anew.

A worker of Ray imports Ray twice, then Ray Train and PyTorch: seconds of processor time before it can train. Here one
process imports them while Ray starts. It is the forkserver of Python's multiprocessing, for Ray's workers. Whatever
goes wrong with it, a worker begins in Ray's own way: see fork_worker.py, which the raylet starts for each.

Forking is safe as long as nothing computes in that process: it has no threads but those of libraries that know how to
be forked (OpenBLAS, jemalloc), and has not touched a GPU.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ADDRESS = "BENCH_FORKSERVER"
"""The environment variable by which workers find the server."""
WORKER = Path(__file__).with_name("fork_worker.py")
"""What the raylet is to start in place of Ray's setup_worker.py."""

_WITH_RAY = ("2.60",)
"""Versions of Ray that are known to draw no random numbers and to start no threads when they are imported."""
_ROOT = str(Path(__file__).parents[2])
_ANY_JOB = "ffffffff"
"""As Ray's idle workers have it, which take their job from the first task."""
_OOM_SCORE = "RAY_worker_oom_score_adjustment"
_NEEDED = (
    "ray._private.workers.default_worker",
    "bench.cluster.mailbox",
    "torch",
    "ray.train.v2._internal.execution.worker_group.worker",
    "bench.cluster.train",
    "bench.learning.execute",
)


@contextlib.contextmanager
def forkserver() -> Iterator[None]:
    """Let workers be forked that a raylet starts which is started meanwhile; on Linux, elsewhere forking is not safe.

    The server ends with the context, or with this process; its workers end with their raylet.
    """
    os.environ.pop(ADDRESS, None)  # of a command that this one is a part of
    if not sys.platform.startswith("linux"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="bench-fork-") as folder:
        address = str(Path(folder) / "socket")
        with _server(address) as process:
            if process is not None:
                os.environ[ADDRESS] = address
            try:
                yield
            finally:
                os.environ.pop(ADDRESS, None)


@contextlib.contextmanager
def _server(address: str) -> Iterator[subprocess.Popen[bytes] | None]:
    """None where there can be none: a path too long for a socket, or no room for a process."""
    process = None
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()  # from here on whoever connects waits for the server, or hears that it is gone
        # like Ray's processes: a Ctrl-C is meant for the command
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                stdin=subprocess.PIPE,  # which closes when this process ends, however it does
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                env={"OMP_NUM_THREADS": "1", **os.environ},  # as Ray has it, and read when PyTorch is imported
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        # Nobody may wait for it before the end: its workers live as long as its process id does, and so they go on if
        # it dies.
        yield process
    finally:
        if process is not None:
            process.kill()
            process.communicate()


@dataclass(frozen=True)
class Request:
    """A worker that the raylet wants."""

    arguments: Sequence[str]
    """Its script, and what that is given."""
    environment: Mapping[str, str]
    folder: str
    streams: Sequence[int]
    """Standard input, output and error."""


def _serve(listener: socket.socket) -> Request | None:
    """Fork for each request; in the new process gives it. None when all is over."""
    with selectors.DefaultSelector() as ready, contextlib.ExitStack() as watched:
        ready.register(listener, selectors.EVENT_READ)
        ready.register(sys.stdin, selectors.EVENT_READ)  # of which nothing comes but the end
        raylets: set[int] = set()
        while True:
            if any(key.fileobj is not listener for key, _ in ready.select()):
                return None
            with listener.accept()[0] as connection:
                request = _receive(connection)
                if request is None:
                    continue
                raylet = int(request.environment["RAY_RAYLET_PID"])
                if raylet not in raylets:
                    ended = os.pidfd_open(raylet)
                    watched.callback(os.close, ended)
                    ready.register(ended, selectors.EVENT_READ)
                    raylets.add(raylet)
                if os.fork() == 0:
                    return request
                for stream in request.streams:
                    os.close(stream)
                with contextlib.suppress(OSError):
                    connection.sendall(b"+")


def _receive(connection: socket.socket) -> Request | None:
    """A request; None if it is torn."""
    parts, streams = [], []
    while True:
        part, sent, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        streams += sent
        if not part:
            break
        parts.append(part)
    try:
        arguments, environment, folder = json.loads(b"".join(parts))
    except ValueError:
        for stream in streams:
            os.close(stream)
        return None
    return Request(arguments, environment, folder, streams)


def _become(request: Request) -> None:
    """Do what the worker's script does, with everything as if a raylet had started it."""
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request.environment)
    script, *_ = sys.argv = list(request.arguments)
    try:
        os.setpgid(0, 0)
        with contextlib.suppress(OSError):  # who shall go first if memory runs out
            Path("/proc/self/oom_score_adj").write_text(os.environ.get(_OOM_SCORE, "1000"))
        os.chdir(request.folder)
        if sys.modules["torch"].cuda._is_in_bad_fork():
            raise RuntimeError("a GPU that was touched before the fork cannot be used")
        sys.path[sys.path.index(_ROOT)] = str(Path(script).parent)
        sys.modules["ray._raylet"].Config.initialize("")  # whether a token is asked for was decided since
        sys.modules["numpy"].random.seed()  # Python makes its own random numbers differ
        gc.enable()
    except Exception:
        os.execv(sys.executable, [sys.executable, *sys.argv])
    runpy.run_path(script, run_name="__main__")


def _import_all() -> None:
    version: str = importlib.import_module("ray").__version__
    if not version.startswith(_WITH_RAY):
        sys.exit()  # workers begin in Ray's own way
    actor: Any = importlib.import_module("ray.actor")
    identifier = actor.ActorClassID
    # What draws its random numbers before it is forked draws the same in every worker: names that are no names.
    actor.ActorClassID = SimpleNamespace(from_random=lambda: identifier(os.urandom(identifier.size())))
    try:
        for name in _NEEDED:
            importlib.import_module(name)
    finally:
        actor.ActorClassID = identifier
    importlib.import_module("bench.learning.eager").postpone_compiler()
    importlib.import_module("bench.learning.architectures").torchvision_models()


def main() -> None:
    """The server's process."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = _ROOT
    # Ray keeps what these are when it is imported. A worker ends when its raylet does: these when the server does.
    os.environ |= {"RAY_RAYLET_PID": str(os.getpid()), "RAY_JOB_ID": _ANY_JOB}
    gc.disable()  # a seventh of the time: little of what is imported is garbage
    with contextlib.suppress(ImportError):  # a worker fails where it needs it, and says so
        _import_all()
    gc.freeze()  # collecting garbage would write to memory that is shared with the server
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has ended is gone at once: a raylet looks whether it is
    with listener:
        request = _serve(listener)
        if request is None:
            shutil.rmtree(Path(listener.getsockname()).parent)
            return
    _become(request)


if __name__ == "__main__":
    main()
