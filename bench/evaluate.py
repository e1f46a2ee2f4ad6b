"""``python -m bench.evaluate``: how good a trained model is, on a data set or on a folder of pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from bench.errors import exit_code_of
from bench.options import build_parser, option, parse

_DESCRIPTION = """Measure a trained model: accuracy with its 95 % interval, accuracy of each class, what is taken for
what, calibration (ECE) and latency. Pictures without labels are classified instead. Trains nothing."""

_EPILOG = """examples:
  python -m bench.evaluate --weights results/checkpoints/ID.safetensors
  python -m bench.evaluate --model cnn --weights published.pth --dataset mnist --data-dir ~/mnist
  python -m bench.evaluate --weights FILE --images photos --as-drawing --csv answers.csv

pictures: a folder with one sub-folder per class (0/, 1/, ...) is measured; one without is classified.
exit codes: 0 done, 2 wrong usage"""


class EvaluateOptions(BaseModel):
    """The request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path = option(
        ..., "trained model: a checkpoint of bench.run, or a .pth or .safetensors file", group="what", metavar="FILE"
    )
    model: str | None = option(
        None, "which model the weights are of (default: what the file says)", group="what", metavar="MODEL"
    )
    plugin: Path | None = option(
        None, "Python file that registers models or data sets of yours", group="what", metavar="FILE"
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""

    def command() -> int:
        parser = build_parser(EvaluateOptions, "python -m bench.evaluate", _DESCRIPTION, _EPILOG, presets=False)
        options = parse(parser, EvaluateOptions, arguments)
        from bench.assessment import assess

        print(assess(options))
        return 0

    return exit_code_of(command)


if __name__ == "__main__":
    sys.exit(main())
