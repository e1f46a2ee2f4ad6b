"""The options of ``bench.history``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from bench.config.command_line import option
from bench.storage import PlaceOption


class HistoryOptions(BaseModel):
    """The options of ``bench.history``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: tuple[str, ...] = option(
        ...,
        "results folders or git revisions (REV or REV:FOLDER), the oldest first",
        group="what",
        metavar="VERSION",
        flag="",
        min_length=1,
    )
    revisions: int | None = option(
        None, "of the one folder named, the last N git revisions in which it changed", group="what", metavar="N", ge=2
    )
    page: PlaceOption | None = option(None, "also write a page with plots", group="output", metavar="FILE.html")
