"""``python -m bench.tune``: find a learning rate for each model, and report what the search cost."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.config.command_line import run_command
from bench.config.tune import TuneOptions

_DESCRIPTION = """Find a learning rate (or more) for each model with Ray Tune, all models at the same time. Trials are
judged on held-out training images; then each winner is retrained on all of them and tested, once."""

_EPILOG = """examples:
  python -m bench.tune --models cnn mobilenet
  python -m bench.tune --models cnn --lr-grid 0.0003 0.001 0.003 --seeds 3 --scheduler fifo
  python -m bench.tune --models cnn --space experiments/space.yaml --trials 20 --search optuna
then:
  python -m bench.run --models cnn mobilenet --lr-from-tune --seeds 5

exit codes: 0 all winners found and retrained, 1 not, 2 wrong usage, 3 the machine is too small, 130 Ctrl-C"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(
        _act,
        TuneOptions,
        arguments,
        prog="python -m bench.tune",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        presets=True,
    )


def _act(options: TuneOptions) -> int:
    from bench.workflows.tune import run_tuning

    return run_tuning(options)


if __name__ == "__main__":
    sys.exit(main())
