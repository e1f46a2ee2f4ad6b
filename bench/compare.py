"""``python -m bench.compare``: whether two models, or two versions, differ by more than noise. Trains nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bench.errors import UserError, exit_code_of

_DESCRIPTION = """Compare two models of a results folder, or two results folders, or the reference results of two git
revisions: each metric with its difference, interval, p, and whether the second is better, worse, or not
distinguishable from the first. Trains nothing."""

_EPILOG = """examples:
  python -m bench.compare cnn mobilenet
  python -m bench.compare "cnn (lr 0.001)" "cnn (lr 0.01)" --results results
  python -m bench.compare results-before results-after --fail "accuracy:-0.2pp,throughput:-5%"
  python -m bench.compare HEAD~1:mnist-cpu2 HEAD:mnist-cpu2 --format markdown

--fail takes accuracy in percentage points (pp), and in % of the first's figure: throughput, training-throughput,
inference-throughput, latency, latency-p50, latency-p95, memory, parameters. A limit is broken where the difference is
worse than the limit and more than noise, by a test that allows for the number of limits and models.

exit codes: 0 no limit is broken, 1 one is, 2 wrong usage, or nothing to check a limit with"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""

    def command() -> int:
        options = _parser().parse_args(arguments)
        from bench.comparing import FORMATS, compare, read_limits

        limits = read_limits(options.fail) if options.fail is not None else []
        result = compare(options.first, options.second, options.results, limits)
        print(FORMATS[options.format](result))
        if result.limits.broken:
            return 1
        if result.limits.useless:
            raise UserError(f"--fail: {', and '.join(result.limits.useless)}")
        return 0

    return exit_code_of(command)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m bench.compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", metavar="OLD", help="a model, a results folder, or a git revision, REV or REV:FOLDER")
    parser.add_argument("second", metavar="NEW", help="the same, to be judged against OLD")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="results folder that models are looked up in (default: %(default)s)",
    )
    parser.add_argument("--fail", metavar="LIMITS", help="end with exit code 1 if NEW is worse by more than this")
    parser.add_argument(
        "--format", choices=("text", "markdown", "json"), default="text", help="how to print it (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
