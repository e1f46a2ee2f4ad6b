"""``python -m bench.history``: accuracy and speed over several versions of the results. Trains nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.config.command_line import run_command
from bench.config.history import HistoryOptions

_DESCRIPTION = """Show the accuracy and speed of each model over several versions of the results, and name the changes
that are more than noise. Speeds are normalised by a reference step timed beside them, so that versions timed on
different machines can be compared; those of different devices never are. Trains nothing."""

_EPILOG = """examples:
  python -m bench.history results-may results-june results-july --page history.html
  python -m bench.history results/reference/mnist-cpu2 --revisions 10
  python -m bench.history v1.0:mnist-cpu2 v1.1:mnist-cpu2 HEAD:mnist-cpu2"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(
        _act, HistoryOptions, arguments, prog="python -m bench.history", description=_DESCRIPTION, epilog=_EPILOG
    )


def _act(options: HistoryOptions) -> int:
    from bench.workflows.history import show_history

    show_history(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
