"""``python -m bench.demo``: a page on this machine on which a person draws a digit and every trained model answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bench.config.command_line import run_command
from bench.config.demo import DemoOptions
from bench.errors import UserError

_DESCRIPTION = """Open a page on which you draw a digit with mouse, pen or finger, or drop a picture of one; every
trained model in the results folder answers at once. The page is reachable from this machine only. Ctrl-C ends it."""

_EPILOG = """examples:
  python -m bench.demo
  python -m bench.demo --results results/reference --port 8080"""

QUIETLY = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
"""Environment variables that keep the page's libraries off the network, which it does not need."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(
        _act, DemoOptions, arguments, prog="python -m bench.demo", description=_DESCRIPTION, epilog=_EPILOG
    )


def _act(options: DemoOptions) -> int:
    for name, value in QUIETLY.items():
        os.environ[name] = value  # read when gradio is imported
    try:
        import gradio  # noqa: F401 - only to see that it is installed
    except ImportError:
        raise UserError("the page needs Gradio: pip install 'image-classifier-bench[demo]'") from None
    from bench.demo.page import serve

    serve(options.results, port=options.port, browser=not options.no_browser)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the server would wait for pages that are still open, and its threads for the server
