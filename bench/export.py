"""``python -m bench.export``: stored runs into MLflow, TensorBoard, CSV and ONNX. Trains nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from bench.errors import exit_code_of
from bench.options import build_parser, option, parse

LOCAL = "local"
"""What --mlflow means without a URI: a SQLite file in the results folder."""

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


class ExportOptions(BaseModel):
    """The request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mlflow: str | None = option(
        None,
        "MLflow tracking server or store (without a URI: a SQLite file in the results folder)",
        group="where to",
        metavar="URI",
        if_bare=LOCAL,
        min_length=1,
    )
    tensorboard: Path | None = option(
        None, "folder for TensorBoard, one sub-folder a run", group="where to", metavar="DIR"
    )
    csv: Path | None = option(None, "one row per run, all columns", group="where to", metavar="FILE")
    onnx: Path | None = option(
        None,
        "folder for ONNX models that take raw uint8 images, each checked against PyTorch",
        group="where to",
        metavar="DIR",
    )
    results: Path = option(Path("results"), "results folder", group="what", metavar="DIR")
    data_dir: Path | None = option(
        None,
        "folder with the data set's files, whose test images ONNX models are checked on",
        group="what",
        metavar="DIR",
    )
    plugin: Path | None = option(
        None, "Python file that registers models or data sets of yours (for --onnx)", group="what", metavar="FILE"
    )

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.mlflow is None and self.tensorboard is None and self.csv is None and self.onnx is None:
            raise ValueError("name at least one of --mlflow, --tensorboard, --csv and --onnx")
        return self


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""

    def command() -> int:
        parser = build_parser(ExportOptions, "python -m bench.export", _DESCRIPTION, _EPILOG, presets=False)
        options = parse(parser, ExportOptions, arguments)
        from bench.exporting import export

        export(options)
        return 0

    return exit_code_of(command)


if __name__ == "__main__":
    sys.exit(main())
