"""A cluster that runs already: everything between --address and the connection to it, and why that may fail."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.config.home import expanded_path
from bench.errors import UserError, first_line

SETTINGS = {
    "RAY_NUM_REDIS_GET_RETRIES": "6",  # one a second; 20 by default, also where no try can help
}
"""What Ray reads when it is imported, for a command that joins a cluster."""

_ANSWER_SECONDS = 5.0
_TRY_SECONDS = 60
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The first bytes of an HTTP/2 client, with empty settings (RFC 9113, 3.4); Ray speaks gRPC, which is HTTP/2."""
_HTTP2_SETTINGS = 4
_FRAME_HEADER = 9
_HOW_TO_SHOW_IT = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token that it was started with"
)


def prepare(address: str) -> None:
    """Check an address before Ray is imported, and choose whether to show the user's token.

    Raises:
        UserError: no cluster can be reached there, or not from this machine.
    """
    _check_folder(address)
    _check_address(address)
    _use_token(address)


def join(address: str, *, variables: dict[str, str], verbose: bool, **options: Any) -> None:
    """Connect this process to the cluster.

    Args:
        address: 'HOST:PORT' or 'auto', after :func:`prepare`.
        variables: environment variables of the workers, which do not inherit this process's.
        verbose: show what Ray prints meanwhile.
        options: for ``ray.init``.

    Raises:
        UserError: it cannot be joined; the message says why.
    """
    import ray

    package = str(Path(__file__).parents[1])
    try:
        with contextlib.nullcontext() if verbose else _without_retries():
            ray.init(address=address, runtime_env={"py_modules": [package], "env_vars": variables}, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"--address {address}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Return in words why a cluster could not be joined, and what would be right."""
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    told = "\n".join(str(cause) for cause in causes)
    if "InvalidAuthToken" in told or "Unauthenticated" in told:
        asked = os.environ.get("RAY_AUTH_MODE") == "token"
        return f"the cluster {'refuses this token' if asked else 'asks for a token'}; {_HOW_TO_SHOW_IT}"
    if "Version mismatch" in told:
        mismatch = next(cause for cause in causes if "Version mismatch" in str(cause))
        return f"{first_line(mismatch)}; install the cluster's versions of Python and Ray here"
    return f"no Ray cluster to connect to ({first_line(error)})"


@contextlib.contextmanager
def _without_retries() -> Iterator[None]:
    """Keep Ray's line for each failed try off standard error; what else is written there meanwhile follows later."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as written:
        kept = os.dup(2)
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            others = [line for line in written if b"Failed to get cluster ID" not in line]
            os.write(2, b"".join(others))


def _check_address(address: str) -> None:
    """Refuse an unusable address at once; Ray would try it for minutes, some for ever."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise UserError(f"--address {address!r} is not HOST:PORT (as 10.0.0.1:6379) or auto")
    if address.startswith("ray://"):
        raise UserError(f"--address {address}: give the cluster's own address, HOST:PORT, not that of a Ray client")
    try:
        with socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS) as connection:
            speaks = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except OSError as error:
        raise UserError(
            f"--address {address}: nothing answers there ({error}); start one with: ray start --head"
        ) from None
    if not speaks:
        raise UserError(f"--address {address}: what answers there is not Ray; `ray start --head` prints its address")
    if not any(process.info["name"] == "raylet" for process in psutil.process_iter(["name"])):
        raise UserError(
            f"--address {address}: this machine is not a node of that cluster; hand the command to one "
            "(ray job submit --address http://HEAD:8265 --working-dir . -- python -m bench.run --address auto ...), or "
            f"make this machine a node (ray start --address={address} --num-cpus=0)"
        )


def _speaks_http2(connection: socket.socket) -> bool:
    """Return whether the server at the other end begins as HTTP/2 does, with its settings."""
    try:
        connection.sendall(_HTTP2_PREFACE)
        answer = b""
        while len(answer) < _FRAME_HEADER and (more := connection.recv(_FRAME_HEADER - len(answer))):
            answer += more
    except OSError:
        return False
    return len(answer) == _FRAME_HEADER and answer[3] == _HTTP2_SETTINGS


def _check_folder(address: str) -> None:
    """Refuse a cluster on this machine that another user started: Ray would abort this process.

    Raises:
        UserError: Ray's folder cannot be used.
    """
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray")  # noqa: S108 - Ray's own default
    if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(
            f"--address {address}: {folder}, where Ray keeps its sockets and logs, is of another user and cannot be "
            "written; start the cluster and this command as one user, or both with RAY_TMPDIR=DIR, a folder of theirs"
        )


def _use_token(address: str) -> None:
    """Show the user's token to a cluster at HOST:PORT that asks for it, as Ray does by itself for 'auto'.

    ``ray start`` asks for a token as soon as the user has one, and a cluster that asks for none cannot work with a
    driver that shows one; so a separate process tries to connect with the token.
    """
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    has_token = named or expanded_path("~/.ray/auth_token").exists()
    if "RAY_AUTH_MODE" in os.environ or not has_token or address == "auto":
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        tried = subprocess.run(
            [sys.executable, "-c", "import sys, ray; ray.init(address=sys.argv[1])", address],
            env={**os.environ, "RAY_AUTH_MODE": "token"},
            capture_output=True,
            check=False,
            timeout=_TRY_SECONDS,
        )
        if tried.returncode == 0:
            os.environ["RAY_AUTH_MODE"] = "token"
