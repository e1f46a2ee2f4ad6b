"""``python -m bench.demo``: a page on this machine on which a person draws a digit and every trained model answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from bench.errors import UserError, exit_code_of
from bench.options import build_parser, option, parse

_DESCRIPTION = """Open a page on which you draw a digit with mouse, pen or finger, or drop a picture of one; every
trained model in the results folder answers at once. The page is reachable from this machine only. Ctrl-C ends it."""

_EPILOG = """examples:
  python -m bench.demo
  python -m bench.demo --results results/reference --port 8080"""

QUIETLY = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
"""The page needs no network, so nothing it is made of may try one."""


class DemoOptions(BaseModel):
    """The request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    results: Path = option(Path("results"), "folder with checkpoints/", group="what", metavar="DIR")
    plugin: Path | None = option(None, "Python file that registers models of yours", group="what", metavar="FILE")
    port: Annotated[int, Field(ge=1, le=65535)] | None = option(
        None, "port on 127.0.0.1 (default: the first free one from 7860)", group="page", metavar="N"
    )
    no_browser: bool = option(False, "print the address only; open no browser", group="page")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""

    def command() -> int:
        parser = build_parser(DemoOptions, "python -m bench.demo", _DESCRIPTION, _EPILOG, presets=False)
        options = parse(parser, DemoOptions, arguments)
        if options.plugin:
            from bench.learning import plugins

            plugins.read(options.plugin)
        for name, value in QUIETLY.items():
            os.environ[name] = value  # read when gradio is imported
        try:
            import gradio  # noqa: F401 - is it there?
        except ImportError:
            raise UserError("the page needs Gradio: pip install 'image-classifier-bench[demo]'") from None
        from bench.demo.page import serve

        serve(options.results, port=options.port, browser=not options.no_browser)
        return 0

    return exit_code_of(command)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the server would wait for pages that are still open, and its threads for the server
