"""The options of ``bench.demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from bench.config.command_line import option
from bench.storage import PlaceOption


class DemoOptions(BaseModel):
    """The options of ``bench.demo``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    results: PlaceOption = option(Path("results"), "folder or URL with checkpoints/", group="what", metavar="DIR")
    port: Annotated[int, Field(ge=1, le=65535)] | None = option(
        None, "port on 127.0.0.1 (default: the first free one from 7860)", group="page", metavar="N"
    )
    no_browser: bool = option(False, "print the address only; open no browser", group="page")
