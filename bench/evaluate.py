"""``python -m bench.evaluate``: measure a trained model on a data set or on a folder of pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.config.command_line import build_parser, parse
from bench.config.evaluate import EvaluateOptions
from bench.errors import exit_code_of

_DESCRIPTION = """Measure a trained model: accuracy with its 95 % interval, accuracy of each class, what is taken for
what, calibration (ECE) and latency. Pictures without labels are classified instead. Trains nothing."""

_EPILOG = """examples:
  python -m bench.evaluate --weights results/checkpoints/ID.safetensors
  python -m bench.evaluate --model cnn --weights published.pth --dataset mnist --data-dir ~/mnist
  python -m bench.evaluate --weights FILE --images photos --as-drawing --csv answers.csv

pictures: a folder with one sub-folder per class (0/, 1/, ...) is measured; one without is classified.
exit codes: 0 done, 2 wrong usage"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""

    def command() -> int:
        parser = build_parser(EvaluateOptions, "python -m bench.evaluate", _DESCRIPTION, _EPILOG, presets=False)
        options = parse(parser, EvaluateOptions, arguments)
        from bench.workflows.evaluate import evaluate_file

        if not options.as_drawing:
            print(evaluate_file(options))
            return 0
        from bench.demo.drawing import to_mnist

        print(evaluate_file(options, to_mnist))
        return 0

    return exit_code_of(command)


if __name__ == "__main__":
    sys.exit(main())
