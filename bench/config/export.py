"""The options of ``bench.export``."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from bench.config.command_line import option
from bench.storage import PlaceOption

LOCAL = "local"
"""The value of --mlflow without a URI: a SQLite file in the results folder."""


class ExportOptions(BaseModel):
    """The options of ``bench.export``."""

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
    results: PlaceOption = option(Path("results"), "results folder or URL", group="what", metavar="DIR")
    data_dir: PlaceOption | None = option(
        None,
        "folder or URL with the data set's files, whose test images ONNX models are checked on",
        group="what",
        metavar="DIR",
    )

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.mlflow is None and self.tensorboard is None and self.csv is None and self.onnx is None:
            raise ValueError("name at least one of --mlflow, --tensorboard, --csv and --onnx")
        return self
