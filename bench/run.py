"""``python -m bench.run``: train the candidates at the same time and compare them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.config.command_line import run_command
from bench.config.run import Options

_DESCRIPTION = """Train image classifiers at the same time with Ray Train, over the GPUs or CPUs there are, and
compare accuracy, size and speed. The result is a table on the screen and in results/summary.md."""

_EPILOG = """examples:
  python -m bench.run --models cnn mobilenet
  python -m bench.run --models cnn --dataset mnist --data-dir ~/mnist --seeds 5
  python -m bench.run --experiment experiments/quick.yaml --epochs 3 --dry-run

exit codes: 0 all runs finished, 1 a run failed, 2 wrong usage, 3 the machine is too small, 130 Ctrl-C"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(
        _act, Options, arguments, prog="python -m bench.run", description=_DESCRIPTION, epilog=_EPILOG, presets=True
    )


_EXAMPLE = """No arguments: this compares the two example models, a small CNN and a pretrained MobileNetV2, on digits.
Training both at once and timing them takes 1 to 2 minutes on two CPUs with 5,000 digits, about 5 with all of MNIST.
The answer comes on the screen and in {results}/summary.md. Ctrl-C stops it, and the same command goes on."""


def _act(options: Options) -> int:
    if sys.stdout.isatty():  # before anything large is imported
        if options == Options():
            print(_EXAMPLE.format(results=options.results), flush=True)
        print(f"finding data and weights for {', '.join(options.models)}, then starting Ray ...", flush=True)
    from bench.workflows.run import run_benchmark

    return run_benchmark(options)


if __name__ == "__main__":
    sys.exit(main())
