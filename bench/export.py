"""``python -m bench.export``: export stored runs to MLflow, TensorBoard, CSV and ONNX. Trains nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.config.command_line import run_command
from bench.config.export import ExportOptions

_DESCRIPTION = """Hand stored runs to other tools: parameters, figures, epochs and plots to MLflow or TensorBoard, the
table of runs to CSV, trained models to ONNX. The same command again changes nothing; it only adds what is new."""

_EPILOG = """examples:
  python -m bench.export --mlflow      # to look at it: pip install mlflow;
      mlflow ui --backend-store-uri sqlite:///results/mlflow.db
  python -m bench.export --mlflow http://127.0.0.1:5000
  python -m bench.export --tensorboard boards     # to look at it: pip install tensorboard;
      tensorboard --logdir boards
  python -m bench.export --csv runs.csv --onnx models

exit codes: 0 done, 2 wrong usage or a server that cannot be reached"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(
        _act, ExportOptions, arguments, prog="python -m bench.export", description=_DESCRIPTION, epilog=_EPILOG
    )


def _act(options: ExportOptions) -> int:
    from bench.workflows.export import export

    export(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
