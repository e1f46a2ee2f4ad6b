"""The options of ``bench.evaluate``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from bench.config.command_line import option
from bench.storage import PlaceOption


class EvaluateOptions(BaseModel):
    """The options of ``bench.evaluate``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: PlaceOption = option(
        ...,
        "trained model of bench.run (a checkpoint), or any PyTorch or safetensors file",
        group="what",
        metavar="FILE",
    )
    model: str | None = option(
        None,
        "the model that the weights belong to, as for bench.run --models (default: the one named in the file)",
        group="what",
        metavar="MODEL",
    )
    image_size: int | None = option(
        None,
        "height and width that the model was trained on, for weights that do not say it (default: the model's)",
        group="what",
        metavar="PIXELS",
        ge=1,
        le=4096,
    )
    mean: tuple[float, ...] | None = option(
        None,
        "mean of each channel that was subtracted in training, for pixels from 0 to 1, for weights that do not say it",
        group="what",
        metavar="X",
    )
    std: tuple[float, ...] | None = option(
        None, "standard deviation of each channel that was divided by, together with --mean", group="what", metavar="X"
    )
    class_names: tuple[str, ...] | None = option(
        None,
        "names of the classes in the order of the model's outputs, for weights that do not say them",
        group="what",
        metavar="NAME",
    )
    dataset: str | None = option(
        None,
        "data set whose test images are classified (default: the one that the model was trained on, else auto: MNIST, "
        "else mnist-5k)",
        group="on what",
        metavar="NAME",
    )
    data_dir: PlaceOption | None = option(
        None, "folder or URL with the data set's files", group="on what", metavar="DIR"
    )
    images: PlaceOption | None = option(
        None, "folder or URL of pictures; its sub-folders are their classes", group="on what", metavar="FOLDER"
    )
    as_drawing: bool = option(
        False, "find the ink in each image and redraw it as an MNIST digit, as the drawing page does", group="on what"
    )
    csv: Path | None = option(None, "write the prediction for each image to this file", group="output", metavar="FILE")

    @model_validator(mode="after")
    def _normalisation(self) -> Self:
        mean, std = self.mean, self.std
        if (mean is None) != (std is None):
            raise ValueError("--mean and --std belong together; give both, or none")
        if mean is None or std is None:
            return self
        if len(mean) not in (1, 3) or len(mean) != len(std):
            raise ValueError("--mean and --std each need one number, or three: red, green, blue")
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError("--mean needs finite numbers, and --std finite numbers above 0")
        if max(map(abs, mean)) > 1 or max(std) > 1:
            raise ValueError("--mean and --std are for pixels from 0 to 1; divide those for pixels up to 255 by 255")
        return self

    @model_validator(mode="after")
    def _distinct_classes(self) -> Self:
        names = self.class_names or ()
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"--class-names has {twice!r} twice; give each class a name of its own")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.images is not None and (self.dataset is not None or self.data_dir is not None):
            raise ValueError("--images cannot be used together with --dataset or --data-dir")
        return self

    @property
    def form(self) -> dict[str, object]:
        """Return the fields of :class:`bench.spec.ModelInput` that were given."""
        given = {"image_size": self.image_size, "mean": self.mean, "std": self.std}
        return {name: value for name, value in given.items() if value is not None}
