"""The options of ``bench.evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from bench.config.command_line import option


class EvaluateOptions(BaseModel):
    """The options of ``bench.evaluate``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path = option(
        ..., "trained model: a checkpoint of bench.run, or a .pth or .safetensors file", group="what", metavar="FILE"
    )
    model: str | None = option(
        None,
        "the model that the weights belong to, as for bench.run --models (default: the one named in the file)",
        group="what",
        metavar="MODEL",
    )
    dataset: str | None = option(
        None,
        "data set whose test images are classified (default: the one that the model was trained on, else auto: MNIST, "
        "else mnist-5k)",
        group="on what",
        metavar="NAME",
    )
    data_dir: Path | None = option(None, "folder with the data set's files", group="on what", metavar="DIR")
    images: Path | None = option(
        None, "folder of pictures; its sub-folders are their classes", group="on what", metavar="FOLDER"
    )
    as_drawing: bool = option(
        False, "find the ink in each image and redraw it as an MNIST digit, as the drawing page does", group="on what"
    )
    csv: Path | None = option(None, "write the prediction for each image to this file", group="output", metavar="FILE")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.images is not None and (self.dataset is not None or self.data_dir is not None):
            raise ValueError("--images cannot be used together with --dataset or --data-dir")
        return self
