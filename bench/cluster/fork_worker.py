"""What a raylet starts for each worker: asks the forkserver for one, or becomes one where that cannot be.

A script, not a module, in place of Ray's setup_worker.py, which takes the same arguments: it imports nothing but the
standard library, as the worker waits for it.
"""

import json
import os
import socket
import sys
from typing import Any

_CONTEXT, _LANGUAGE = "--serialized-runtime-env-context=", "--language="


def main() -> None:
    """Ends when there is a worker, or as one."""
    arguments = sys.argv[1:]
    command = [one for one in arguments if not one.startswith((_CONTEXT, _LANGUAGE))]
    context = next((one.removeprefix(_CONTEXT) for one in arguments if one.startswith(_CONTEXT)), "{}")
    variables = _variables(json.loads(context))
    if variables is None or f"{_LANGUAGE}PYTHON" not in arguments:
        script = next(one for one in command if one.endswith(".py"))  # options of Python may come first
        setup = os.path.join(os.path.dirname(script), "setup_worker.py")
        os.execv(sys.executable, [sys.executable, setup, *arguments])
    os.environ.update(variables)
    if command[0].startswith("-") or not _forked(command):
        os.execv(sys.executable, [sys.executable, *command])


def _variables(context: dict[str, Any]) -> dict[str, str] | None:
    """The environment variables of a worker's own; None if it has more of its own than that, which Ray sees to."""
    own = {name: value for name, value in context.items() if value}
    variables = own.pop("env_vars", {})
    if own.pop("py_executable", sys.executable) != sys.executable or own:
        return None
    return None if any("$" in value for value in variables.values()) else variables


def _forked(command: list[str]) -> bool:
    request = json.dumps([command, dict(os.environ), os.getcwd()]).encode()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.environ["BENCH_FORKSERVER"])
            socket.send_fds(connection, [request[:1]], [0, 1, 2])
            connection.sendall(request[1:])
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(1) == b"+"
    except (OSError, KeyError):
        return False


if __name__ == "__main__":
    main()
