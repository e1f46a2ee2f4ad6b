"""``python -m bench.report``: make summary.md and report.html again from the stored records. No torch and no ray."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.config.command_line import build_parser, parse
from bench.config.report import ReportOptions
from bench.errors import exit_code_of

_DESCRIPTION = "Make summary.md and report.html again from the stored records; trains nothing."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""

    def command() -> int:
        parser = build_parser(ReportOptions, "python -m bench.report", _DESCRIPTION, presets=False)
        options = parse(parser, ReportOptions, arguments)
        from bench.workflows.report import report

        report(options)
        return 0

    return exit_code_of(command)


if __name__ == "__main__":
    sys.exit(main())
