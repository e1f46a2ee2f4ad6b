"""The options of ``bench.report``."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict

from bench.config.choice import ChoiceFields
from bench.config.command_line import option
from bench.storage import PlaceOption


class ReportOptions(ChoiceFields):
    """The options of ``bench.report``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    results: PlaceOption = option(Path("results"), "results folder or URL", group="what", metavar="DIR")
