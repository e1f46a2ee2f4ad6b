"""The options of ``bench.report``."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict

from bench.config.choice import ChoiceFields
from bench.config.command_line import option


class ReportOptions(ChoiceFields):
    """The options of ``bench.report``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    results: Path = option(Path("results"), "results folder", group="what", metavar="DIR")
