"""The options of ``bench.compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bench.config.command_line import option
from bench.storage import PlaceOption


class CompareOptions(BaseModel):
    """The options of ``bench.compare``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str = option(
        ..., "a model, a results folder, or a git revision, REV or REV:FOLDER", group="what", metavar="OLD", flag=""
    )
    second: str = option(..., "the same, to be judged against OLD", group="what", metavar="NEW", flag="")
    results: PlaceOption = option(
        Path("results"), "results folder or URL that models are looked up in", group="what", metavar="DIR"
    )
    fail: str | None = option(
        None, "end with exit code 1 if NEW is worse by more than this", group="output", metavar="LIMITS"
    )
    format: Literal["text", "markdown", "json", "github", "junit"] = option(
        "text", "how to print it; github: a comment for a pull request, junit: XML", group="output"
    )
