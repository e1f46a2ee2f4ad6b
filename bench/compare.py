"""``python -m bench.compare``: compare two models, or two versions of the results. Trains nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.config.command_line import run_command
from bench.config.compare import CompareOptions
from bench.errors import UserError

_DESCRIPTION = """Compare two models of a results folder, or two results folders, or the reference results of two git
revisions: for each metric, whether the second is better, worse, or not distinguishable from the first (with the
difference, its interval and p value). Trains nothing."""

_EPILOG = """examples:
  python -m bench.compare cnn mobilenet
  python -m bench.compare "cnn (lr 0.001)" "cnn (lr 0.01)" --results results
  python -m bench.compare results-before results-after --fail "accuracy:-0.2pp,throughput:-5%"
  python -m bench.compare HEAD~1:mnist-cpu2 HEAD:mnist-cpu2 --format markdown

--fail takes accuracy in percentage points (pp), and in % of the first's figure: throughput, training-throughput,
inference-throughput, latency, latency-p50, latency-p95, memory, parameters. A limit is broken where the difference is
worse than the limit and more than noise (by a test that allows for the number of limits and models).

exit codes: 0 no limit is broken, 1 one is, 2 wrong usage, or nothing to check a limit with"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(
        _act, CompareOptions, arguments, prog="python -m bench.compare", description=_DESCRIPTION, epilog=_EPILOG
    )


def _act(options: CompareOptions) -> int:
    from bench.reporting.comparison_formats import FORMATS
    from bench.workflows.compare import compare, read_limits

    limits = read_limits(options.fail) if options.fail is not None else []
    result = compare(options.first, options.second, options.results, limits)
    print(FORMATS[options.format](result))
    if result.limits.broken:
        return 1
    if result.limits.useless:
        raise UserError(f"--fail: {', and '.join(result.limits.useless)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
