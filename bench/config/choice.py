"""The options that choose among candidates of which none is better in all respects."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from bench.config.command_line import option


class ChoiceFields(BaseModel):
    """The options that choose among the candidates."""

    prefer: Literal["accuracy", "latency", "size"] = option(
        "accuracy", "what counts most in the answer, where no candidate is better in all respects", group="results"
    )
    budget: str | None = option(
        None,
        "limits that the model to use must keep, as latency<2ms,size<5MB; also accuracy, throughput, parameters",
        group="results",
        metavar="LIMITS",
    )
