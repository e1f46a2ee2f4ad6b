"""The Ray that a command starts for itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from running import Running, environment

from bench.cluster.session import connect
from bench.errors import UserError, first_line

STRANGER = "import sys, ray; ray.init(address=sys.argv[1], logging_level=50); print('connected')"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A command that trains for minutes."""
    words = ["--models", "cnn", "--dataset", "synthetic", "--epochs", "1000"]
    folder = tmp_path_factory.mktemp("running")
    command = Running(folder, words, HOME=str(folder))
    command.wait_for(lambda log: "epoch 1/1000" in log)
    yield command
    os.killpg(command.process.pid, signal.SIGKILL)
    command.process.wait()


def listening_ports(process: psutil.Process) -> set[int]:
    return {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}


def test_a_client_without_its_token_is_not_let_in(running: Running, tmp_path: Path) -> None:
    (store,) = (process for process in running.family() if process.name() == "gcs_server")
    token = store.environ()["RAY_AUTH_TOKEN"]
    assert store.environ()["RAY_AUTH_MODE"] == "token"
    (port,) = (port for port in listening_ports(store) if connects(port, tmp_path, RAY_AUTH_TOKEN=token))

    for asked in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        assert not connects(port, tmp_path, **asked)
    assert running.process.poll() is None


def connects(port: int, home: Path, **environ: str) -> bool:
    """Whether a Ray client of a user with this environment is let in."""
    tried = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    tried |= {"HOME": str(home), "http_proxy": "", "https_proxy": "", "RAY_AUTH_MODE": "token", **environ}
    with contextlib.suppress(subprocess.TimeoutExpired):
        words = [sys.executable, "-c", STRANGER, f"127.0.0.1:{port}"]
        done = subprocess.run(words, env=tried, capture_output=True, text=True, timeout=60, check=False)
        return "connected" in done.stdout
    return False


def test_its_token_is_in_no_file(running: Running) -> None:
    (store,) = (process for process in running.family() if process.name() == "gcs_server")
    home = Path(store.environ()["HOME"])

    assert running.log.parent == home
    assert not (home / ".ray").exists()
    assert "RAY_AUTH_TOKEN_PATH" not in store.environ()


def test_its_files_are_for_this_user_alone(running: Running) -> None:
    (store,) = (process for process in running.family() if process.name() == "gcs_server")

    folder = Path(store.environ()["RAY_TMPDIR"])

    assert folder.stat().st_mode & 0o077 == 0
    sockets = [one.laddr for process in running.family() for one in process.net_connections("unix") if one.laddr]
    of_ray = [socket for socket in sockets if "plasma" in socket or "raylet" in socket]
    assert of_ray
    assert all(Path(socket).is_relative_to(folder) for socket in of_ray)


# --- before Ray is started ---------------------------------------------------------------------------------------


def test_a_cluster_of_another_users_is_refused_before_ray_aborts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"--address {address}: {tmp_path}/ray.* RAY_TMPDIR"), connect(address):
            pass


def test_without_a_folder_for_sockets_the_message_names_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/none")
    with pytest.raises(UserError, match=r"/proc/none cannot be written.*TMPDIR"), connect(None):
        pass


def test_what_ray_says_of_versions_is_told_whole() -> None:
    error = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.1\n")
    assert first_line(error) == "Version mismatch: The cluster was started with: Ray: 2.9.0, Python: 3.10.1"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert len(first_line(ValueError("many:\n" + "word\n" * 1000))) <= 400
