"""An S3 server on this machine (moto's), behind a proxy that is slow, busy, cuts connections or refuses credentials."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

BUCKET = "results"
EXPIRED = (403, "ExpiredToken", "The provided token has expired.")
BUSY = (503, "SlowDown", "Please reduce your request rate.")
DENIED = (403, "AccessDenied", "Access Denied")

Fault = float | str | tuple[int, str, str]
"""Seconds to wait before the answer; 'cut' to end the connection in the middle of a body; or an error of S3."""


@dataclass
class ObjectStorage:
    """The server, as a client sees it."""

    port: int
    fault: Callable[[str, str], Fault | None] = lambda method, path: None
    """Called with the method and the path of each request; returns what goes wrong with it."""
    asked: list[str] = field(default_factory=list)
    """All requests, as 'PUT /results/...'."""

    @property
    def env(self) -> dict[str, str]:
        """The environment of a command that uses it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "no_proxy": "127.0.0.1,localhost",
        }

    @contextlib.contextmanager
    def failing(self, fault: Callable[[str, str], Fault | None]) -> Iterator[None]:
        """Let requests fail as long as the block lasts."""
        self.fault, before = fault, self.fault
        try:
            yield
        finally:
            self.fault = before


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def object_storage() -> Iterator[ObjectStorage]:
    """The server with one empty bucket, as long as the block lasts."""
    behind = free_port()
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(behind)], stdout=log, stderr=log
        )
        try:
            end = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError):
                    answer = _ask(behind, "PUT", f"/{BUCKET}", {}, b"")
                    assert answer.status == 200
                    break
                assert server.poll() is None and time.monotonic() < end, Path(folder, "log").read_text()
                time.sleep(0.1)
            with _proxy(behind) as storage:
                yield storage
        finally:
            server.kill()
            server.wait()


@contextlib.contextmanager
def _proxy(behind: int) -> Iterator[ObjectStorage]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            storage.asked.append(f"{self.command} {self.path}")
            fault = storage.fault(self.command, self.path)
            size = int(self.headers.get("Content-Length") or 0)
            if fault == "cut" and size:
                self.rfile.read(size // 2)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            body = self.rfile.read(size)
            if isinstance(fault, tuple):
                status, code, message = fault
                said = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
                self._answer(status, {"content-type": "application/xml"}, said)
                return
            if isinstance(fault, float):
                time.sleep(fault)
            answer = _ask(behind, self.command, self.path, dict(self.headers), body)
            content = answer.read()
            headers = {name.lower(): value for name, value in answer.headers.items()}
            self._answer(answer.status, headers, content, cut=fault == "cut")

        def _answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = headers.get("content-length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def log_message(self, *about: object) -> None:
            pass

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - the names that are looked for

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *about: object) -> None:
            pass  # a client that went away

    with Server(("127.0.0.1", 0), Handler) as server:
        storage = ObjectStorage(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield storage
        finally:
            server.shutdown()


def _ask(port: int, method: str, path: str, headers: dict[str, str], body: bytes) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body=body, headers=headers)
    return connection.getresponse()
