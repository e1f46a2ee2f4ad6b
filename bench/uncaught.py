"""The last word on an exception that ends a command: no traceback where the user can mend the cause.

It imports nothing but sys and os, so that it works while other modules are still being imported.
"""

from __future__ import annotations

import os
import sys

OURS = "bench"


def explain(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Explain an exception that nothing caught; made for ``sys.excepthook``.

    Raises:
        SystemExit: with the exit code, after one line on stderr: 130 for Ctrl-C, 2 for a shadowing file of the user's.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        raise SystemExit(130)
    files = shadowing(trace) if issubclass(kind, Exception) else []
    if not files:
        sys.__excepthook__(kind, error, trace)  # type: ignore[arg-type]
        return
    name, file = files[0]
    print(f"error: {file} hides the Python module {name}, which is needed here; rename the file", file=sys.stderr)
    raise SystemExit(2)


def shadowing(trace: object) -> list[tuple[str, str]]:
    """Return (module, file) for each file in the current folder that was imported in place of an installed module.

    Args:
        trace: the traceback; an exception may come from such a file itself.
    """
    here = os.getcwd()  # noqa: PTH109 - pathlib may be the module that is hidden
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    while trace is not None:
        code = trace.tb_frame.f_code.co_filename  # type: ignore[attr-defined]
        files.setdefault(_module_of(code), code)
        trace = trace.tb_next  # type: ignore[attr-defined]
    return [
        (name, file)
        for name, file in sorted(files.items())
        if file and name != OURS and file in _places(name, here) and _is_installed(name, here)
    ]


def _module_of(file: str) -> str:
    """Return the name of the top-level module in a file: NAME.py, or NAME/__init__.py."""
    folder, last = os.path.split(file)
    return os.path.basename(folder) if last == "__init__.py" else last.removesuffix(".py")  # noqa: PTH119


def _places(name: str, folder: str) -> list[str]:
    return [os.path.join(folder, f"{name}.py"), os.path.join(folder, name, "__init__.py")]  # noqa: PTH118


def _is_installed(name: str, here: str) -> bool:
    elsewhere = [path for path in sys.path if path not in ("", here)]
    return name in sys.stdlib_module_names or any(
        os.path.exists(file)  # noqa: PTH110
        for path in elsewhere
        for file in _places(name, path)
    )
