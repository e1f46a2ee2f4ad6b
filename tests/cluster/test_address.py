"""Before Ray is asked: whether what listens at an address can be a Ray cluster, and why it cannot be joined."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bench.cluster import address
from bench.errors import UserError

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""HTTP/2's first frame from a server: empty settings."""


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that treats one connection as ``answer`` does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)


def refused(at: str) -> str:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        address.prepare(at)
    assert time.monotonic() - start < 15
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_another_service_is_not_taken_for_ray() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as web:
        threading.Thread(target=web.handle_request, daemon=True).start()
        assert "what answers there is not Ray" in refused(f"127.0.0.1:{web.server_port}")
    with server(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")) as at:
        assert "what answers there is not Ray" in refused(at)


def test_a_service_that_never_answers_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_ANSWER_SECONDS", 0.2)
    with server(lambda connection: time.sleep(0.5)) as at:
        assert "what answers there is not Ray" in refused(at)


def test_a_machine_without_a_raylet_is_told_how_to_hand_the_command_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(connection: socket.socket) -> None:
        connection.recv(100)
        for part in (SETTINGS[:4], SETTINGS[4:]):  # a network may deliver it in parts
            connection.sendall(part)
            time.sleep(0.05)

    monkeypatch.setattr("psutil.process_iter", lambda names: [])
    with server(answers) as at:
        message = refused(at)
    assert f"--address {at}: this machine is not a node" in message
    assert "ray job submit" in message


def failed(*messages: str) -> Exception:
    """An exception that each later message caused."""
    error = RuntimeError(messages[-1])
    for message in reversed(messages[:-1]):
        try:
            raise ConnectionError(message) from error
        except ConnectionError as raised:
            error = raised  # type: ignore[assignment]
    return error


MISMATCH = (
    "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.1\n"
    "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
)


@pytest.mark.parametrize(
    ("mode", "messages", "told"),
    [
        ("token", ("Failed to connect", "RPC error: InvalidAuthToken: missing or incorrect"), ["refuses this token"]),
        ("disabled", ("Failed to connect", "RPC error: InvalidAuthToken"), ["asks for a token", "RAY_AUTH_TOKEN"]),
        ("disabled", (MISMATCH,), ["Ray: 2.9.0", "Python: 3.10.1", "Ray: 2.60.0", "Python: 3.11.7", "install"]),
        ("disabled", ("Failed to connect", "timed out"), ["no Ray cluster to connect to (Failed to connect)"]),
    ],
    ids=["wrong token", "no token", "versions", "anything else"],
)
def test_the_reason_is_found_among_the_causes(
    mode: str, messages: tuple[str, ...], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: object) -> None:
        raise failed(*messages)

    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(UserError) as caught:
        address.join("10.0.0.1:6379", variables={}, verbose=False)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in told), str(caught.value)


def test_only_the_lines_of_failed_tries_are_kept_off_standard_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def init(**options: object) -> None:
        os.write(2, b"gcs_client.cc:210: Failed to get cluster ID from GCS server: Unauthenticated\nsomething else\n")

    monkeypatch.setattr("ray.init", init)
    address.join("10.0.0.1:6379", variables={}, verbose=False)
    assert capfd.readouterr().err == "something else\n"
