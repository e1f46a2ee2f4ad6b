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
        "which model the weights are of, as for bench.run --models (default: what the file says)",
        group="what",
        metavar="MODEL",
    )
    dataset: str | None = option(
        None,
        "data set whose test images to use (default: the one trained on, else auto: MNIST, else mnist-5k)",
        group="on what",
        metavar="NAME",
    )
    data_dir: Path | None = option(None, "folder with the data set's files", group="on what", metavar="DIR")
    images: Path | None = option(
        None, "folder of pictures; its sub-folders are their classes", group="on what", metavar="FOLDER"
    )
    as_drawing: bool = option(
        False, "find the ink in each image and show it as an MNIST digit, as the drawing page does", group="on what"
    )
    csv: Path | None = option(None, "write the answer to every image into this file", group="output", metavar="FILE")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.images is not None and (self.dataset is not None or self.data_dir is not None):
            raise ValueError("--images and --dataset or --data-dir: give the one or the other")
        return self
