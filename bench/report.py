"""``python -m bench.report``: make summary.md and report.html again from the stored records. No torch and no ray."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.config.command_line import run_command
from bench.config.report import ReportOptions

_DESCRIPTION = "Make summary.md and report.html again from the stored records; trains nothing."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(_act, ReportOptions, arguments, prog="python -m bench.report", description=_DESCRIPTION)


def _act(options: ReportOptions) -> int:
    from bench.workflows.report import report

    report(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
