"""``python -m bench.evaluate``: measure a trained model on a data set or on a folder of pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.config.command_line import run_command
from bench.config.evaluate import EvaluateOptions

if TYPE_CHECKING:
    from bench.learning.data.pictures import Redraw

_DESCRIPTION = """Measure a trained model: accuracy and how far it may be off, accuracy of each class, what is
taken for what, calibration (ECE) and latency. Pictures without labels are classified instead. Trains nothing."""

_EPILOG = """examples:
  python -m bench.evaluate --weights results/checkpoints/ID.safetensors
  python -m bench.evaluate --model cnn --weights published.pth --dataset mnist --data-dir ~/mnist
  python -m bench.evaluate --weights FILE --images photos --as-drawing --csv answers.csv

pictures: a folder with one sub-folder per class, named like the model's classes (0/, 1/, ... if the weights do not
name them), is measured; one without is classified.
exit codes: 0 done, 2 wrong usage"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(
        _act, EvaluateOptions, arguments, prog="python -m bench.evaluate", description=_DESCRIPTION, epilog=_EPILOG
    )


def _act(options: EvaluateOptions) -> int:
    from bench.workflows.evaluate import evaluate_file

    redraw: Redraw | None = None
    if options.as_drawing:
        from bench.demo.drawing import to_mnist

        redraw = to_mnist
    print(evaluate_file(options, redraw))
    return 0


if __name__ == "__main__":
    sys.exit(main())
