"""What a run reads beside its description. Reading this file needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from bench.learning.data.datasets import Dataset
from bench.learning.models.weights import Weights
from bench.learning.user_code import UserCode
from bench.spec import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Inputs:
    """The data set, initial weights and user's code of a run; all seeds of a job share them."""

    dataset: Dataset
    weights: Weights | None
    """None is a random start."""
    code: UserCode | None = None
    """The user's file or module that defines the model."""


def inputs_of(run: Run, inputs: Mapping[str, T]) -> T:
    """Return what a run reads, from inputs by :attr:`bench.spec.Run.inputs_key`.

    A trial of a sweep over image sizes takes what was read for its model at another size.
    """
    if run.inputs_key in inputs:
        return inputs[run.inputs_key]
    return next(value for key, value in inputs.items() if key.rpartition(" ")[0] == run.model)
