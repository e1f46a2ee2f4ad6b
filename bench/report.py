"""``python -m bench.report``: make summary.md and report.html again from what is stored. No torch and no ray."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError, exit_code_of


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report",
        description="Make summary.md and report.html again from the stored records; trains nothing.",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="results folder (default: %(default)s)",
    )
    options = parser.parse_args(arguments)

    def command() -> int:
        if not (options.results / "runs").is_dir():
            raise UserError(f"--results {options.results} holds no runs; python -m bench.run makes some")
        from bench.pages import write_pages
        from bench.reporting.store import Store

        store = Store(options.results)
        records, problems = store.records(set_aside=True)
        for problem in problems:
            print(f"warning: {problem}", file=sys.stderr)
        write_pages(store, records)
        return 0

    return exit_code_of(command)


if __name__ == "__main__":
    sys.exit(main())
