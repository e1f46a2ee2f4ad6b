"""Workers that are forked from a process that has imported what they need, and what happens when it is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from bench.cluster import forkserver
from bench.cluster.session import connect, workers_expected

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked on Linux alone")


@ray.remote(num_cpus=0, max_retries=0)
def describe(folder: str, count: int) -> dict[str, Any]:
    """What a worker is; waits until so many have begun, so that each is a process of its own."""
    here = Path(folder) / str(os.getpid())
    here.touch()
    end = time.monotonic() + 60
    while len(list(here.parent.iterdir())) < count and time.monotonic() < end:
        time.sleep(0.05)
    drawn = [ray.ObjectID.from_random().hex()]
    thread = threading.Thread(target=lambda: drawn.append(ray.ObjectID.from_random().hex()))
    thread.start()
    thread.join()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "imported": "torch" in sys.modules and "torch._dynamo.utils" not in sys.modules,
        "drawn": [*drawn, int(np.random.randint(2**31)), os.urandom(8).hex()],
        "group": os.getpgid(0),
        "niceness": os.nice(0),
        "goes first": Path("/proc/self/oom_score_adj").read_text().strip(),
        "signals": {name: status[name].strip() for name in ("SigBlk", "SigIgn", "SigCgt")},
        "exit code": subprocess.run(["false"], check=False).returncode,
        "path": [entry for entry in sys.path if "ray" in entry],
        "script": [Path(sys.argv[0]).name, Path(str(sys.modules["__main__"].__file__)).name],
        "variables": {name: value for name, value in os.environ.items() if name.startswith("RAY_")},
    }


def described(count: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return ray.get([describe.remote(folder, count) for _ in range(count)], timeout=120)


def servers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "forkserver.py" in " ".join(one.cmdline())]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for the names of Ray's sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def forked() -> Iterator[int]:
    """A cluster whose workers are forked; the server's process id."""
    with workers_expected(own=True), connect(None):
        (server,) = servers()
        yield server.pid


def test_workers_are_forked_with_everything_imported_and_none_draws_what_another_draws(forked: int) -> None:
    workers = described(4)
    assert {worker["parent"] for worker in workers} == {forked}
    assert all(worker["imported"] for worker in workers)
    assert len({worker["pid"] for worker in workers}) == 4
    # with the same names Ray would take what one worker says for what another does
    drawn = [number for worker in workers for number in worker["drawn"]]
    assert len(set(drawn)) == len(drawn) == 16


def test_a_forked_worker_is_like_one_that_ray_started() -> None:
    about = ("group", "niceness", "goes first", "signals", "exit code", "path", "script", "variables")
    found = []
    for own in (True, False):
        with workers_expected(own=own), connect(None):
            (worker,) = described(1)
        assert worker["imported"] is own
        worker["group"] = worker["group"] == worker["pid"]
        worker["variables"].pop("RAY_RAYLET_PID")
        worker["variables"].pop("RAY_JOB_ID")  # of those that begin when they are wanted; Ray's began before that
        found.append({name: worker[name] for name in about})
    assert found[0] == found[1]


def test_where_the_server_is_gone_its_workers_go_on_and_others_begin_in_rays_own_way(forked: int) -> None:
    before = described(2)
    os.kill(forked, signal.SIGKILL)
    after = described(4)
    assert {worker["imported"] for worker in after} == {True, False}
    assert {worker["pid"] for worker in before} <= {worker["pid"] for worker in after if worker["imported"]}


def test_nothing_is_left_of_a_command_that_was_killed(short: Path) -> None:
    script = (
        "import ray, time\n"
        "from bench.cluster.session import connect, workers_expected\n"
        "with workers_expected(own=True), connect(None):\n"
        "    hold = ray.remote(num_cpus=0)(lambda: time.sleep(600))\n"
        "    waiting = [hold.remote() for _ in range(2)]\n"
        "    ray.get(ray.remote(num_cpus=0)(lambda: None).remote())\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = {**os.environ, "TMPDIR": str(short)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "ready\n"
        family = psutil.Process(command.pid).children(recursive=True)
        assert sum(one.name().startswith("ray::") for one in family) >= 3
        command.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, [one.cmdline() for one in alive]
    assert not list(short.glob("bench-fork-*"))


def test_a_server_that_cannot_be_started_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)  # longer than the path of a socket may be
    long.mkdir()
    monkeypatch.setattr(forkserver.tempfile, "tempdir", str(long))
    with forkserver.forkserver():
        assert not servers()
        assert forkserver.ADDRESS not in os.environ


def begin(*arguments: str, folder: Path, address: str = "") -> str:
    """What is printed by what the raylet would start with these arguments."""
    environment = {**os.environ, forkserver.ADDRESS: address}
    command = [sys.executable, str(forkserver.WORKER), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=True, timeout=60)
    return done.stdout


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """Scripts that say what they are given, where Ray has its own."""
    for name in ("default_worker.py", "setup_worker.py"):
        lines = ["import json, os, sys", f"print(json.dumps([{name!r}, sys.argv[1:], os.environ.get('OF_ITS_OWN')]))"]
        (tmp_path / name).write_text("\n".join(lines))
    return tmp_path


def context(**own: Any) -> str:
    plain = {"command_prefix": [], "env_vars": {}, "py_executable": sys.executable, "java_jars": []}
    return f"--serialized-runtime-env-context={json.dumps({**plain, 'override_worker_entrypoint': None, **own})}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--language=PYTHON"], ["default_worker.py", ["--x=1"], None]),
        (["--language=PYTHON", "--serialized-runtime-env-context={}"], ["default_worker.py", ["--x=1"], None]),
        (["--language=PYTHON", context(env_vars={"OF_ITS_OWN": "2"})], ["default_worker.py", ["--x=1"], "2"]),
    ],
)
def test_a_worker_without_a_server_is_the_plain_script(scripts: Path, options: list[str], expected: list[Any]) -> None:
    said = begin(str(scripts / "default_worker.py"), "--x=1", *options, folder=scripts)
    assert json.loads(said) == expected


@pytest.mark.parametrize(
    "options",
    [
        ["--language=JAVA"],
        ["--language=PYTHON", context(command_prefix=["nice"])],
        ["--language=PYTHON", context(py_executable="/another/python")],
        ["--language=PYTHON", context(env_vars={"OF_ITS_OWN": "${PATH}:more"})],
    ],
)
def test_what_a_fork_cannot_be_is_left_to_ray(scripts: Path, options: list[str]) -> None:
    script = str(scripts / "default_worker.py")
    assert json.loads(begin(script, "--x=1", *options, folder=scripts)) == [
        "setup_worker.py",
        [script, "--x=1", *options],
        None,
    ]


def test_another_version_of_ray_has_its_own_way(scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    (other / "ray").mkdir(parents=True)
    (other / "ray" / "__init__.py").write_text("__version__ = '99.1.0'")
    monkeypatch.setenv("PYTHONPATH", str(other))
    with forkserver.forkserver():
        said = begin(
            str(scripts / "default_worker.py"),
            "--language=PYTHON",
            folder=scripts,
            address=os.environ[forkserver.ADDRESS],
        )
    assert json.loads(said) == ["default_worker.py", [], None]


def test_a_fork_that_cannot_become_a_worker_is_the_plain_script(scripts: Path) -> None:
    """Its folder is gone, say."""
    script = str(scripts / "default_worker.py")
    with forkserver.forkserver():
        read, write = os.pipe()
        request = [[script, "--x=1"], {**os.environ, "RAY_RAYLET_PID": str(os.getpid())}, str(scripts / "gone")]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.environ[forkserver.ADDRESS])
            content = json.dumps(request).encode()
            socket.send_fds(connection, [content[:1]], [0, write, 2])
            connection.sendall(content[1:])
            connection.shutdown(socket.SHUT_WR)
            os.close(write)
            assert connection.recv(1) == b"+"
        with os.fdopen(read) as said:
            assert json.loads(said.read()) == ["default_worker.py", ["--x=1"], None]


def test_a_server_that_dies_while_a_worker_asks_is_done_without(scripts: Path) -> None:
    address = str(scripts / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()

        def die() -> None:
            listener.accept()[0].close()

        threading.Thread(target=die, daemon=True).start()
        said = begin(str(scripts / "default_worker.py"), "--language=PYTHON", folder=scripts, address=address)
    assert json.loads(said) == ["default_worker.py", [], None]
