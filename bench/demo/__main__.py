"""``python -m bench.demo``: a page on this machine on which a person draws a digit and every trained model answers."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.config.command_line import run_command
from bench.config.demo import DemoOptions
from bench.errors import UserError, first_line
from bench.storage import reach

_DESCRIPTION = """Open a page on which you draw a digit with mouse, pen or finger, or drop a picture of one; every
trained model in the results folder answers at once. The page is reachable from this machine only. Ctrl-C ends it."""

_EPILOG = """examples:
  python -m bench.demo
  python -m bench.demo --results results/reference --port 8080"""

QUIETLY = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
"""Environment variables that keep the page's libraries off the network, which it does not need."""
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
"""Environment variables, in small or capital letters, through which Gradio would ask whether its page answers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(
        _act, DemoOptions, arguments, prog="python -m bench.demo", description=_DESCRIPTION, epilog=_EPILOG
    )


def _act(options: DemoOptions) -> int:
    reach(options.results)
    if isinstance(options.results, Path) and options.results.exists() and not options.results.is_dir():
        raise UserError(f"--results {options.results} is a file; name a results folder")
    for name, value in QUIETLY.items():
        os.environ[name] = value  # read when gradio is imported
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install 'image-classifier-bench[demo]'")
    with _without_proxies():
        try:
            from bench.demo import page
        except ImportError as error:
            raise UserError(f"the page needs Gradio, which cannot be imported here: {first_line(error)}") from None
        address = page.start(options.results, port=options.port)
    if not options.no_browser and _has_desktop():
        webbrowser.open(address)
    page.wait(address)
    return 0


@contextlib.contextmanager
def _without_proxies() -> Iterator[None]:
    """Hide the user's proxies, which a browser needs, from the page's server, which speaks to nobody but itself."""
    proxies = {name: value for name, value in os.environ.items() if name.lower() in PROXIES}
    for name in proxies:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(proxies)


def _has_desktop() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the server would wait for pages that are still open, and its threads for the server
