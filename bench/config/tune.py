"""The options of ``bench.tune``: those of a benchmark, and those of the search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from bench.config.command_line import option
from bench.config.run import Options
from bench.config.space import Range, Space, Value, Values, read_space
from bench.errors import UserError

_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Seed = Annotated[int, Field(ge=0, lt=2**31)]
_NOT_HERE: dict[str, Any] = {"json_schema_extra": {"group": None}}
_FOR_RUNS_ONLY = (
    "variants",
    "until_ci",
    "max_seeds",
    "lr_from_tune",
    "target_accuracy",
    "stop_at_target",
    "early_stopping",
)
DEFAULT_TRIALS = 8


class TuneOptions(Options):
    """The options of ``bench.tune``. Options of ``bench.run`` that a sweep cannot use have no flag, nor a YAML key."""

    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False, **_NOT_HERE)
    variants: tuple[dict[str, Any], ...] = Field(default=(), **_NOT_HERE)
    until_ci: float | None = Field(default=None, **_NOT_HERE)
    max_seeds: int = Field(default=20, **_NOT_HERE)
    lr_from_tune: bool = Field(default=False, **_NOT_HERE)
    target_accuracy: float | None = Field(default=None, **_NOT_HERE)
    stop_at_target: bool = Field(default=False, **_NOT_HERE)
    early_stopping: int | None = Field(default=None, **_NOT_HERE)

    seeds: tuple[_Seed, ...] = option(
        (0,),
        "seeds of each trial, whose score is their mean; one number: how many, counted from 0",
        group="training",
        metavar="N",
        min_length=1,
    )
    validation_size: int = option(
        0,
        "training images held out to judge trials on, class by class (default: a tenth)",
        group="training",
        metavar="N",
        ge=0,
    )
    workers_per_job: Annotated[int, Field(ge=1)] = option(
        1, "data-parallel workers that retrain a winner; a trial has one", group="where to run", metavar="N"
    )

    lr_range: tuple[_Rate, _Rate] = option(
        (1e-4, 1e-1),
        "lowest and highest learning rate; trials are spread evenly over its logarithm",
        group="the search",
        metavar="LOW HIGH",
        flag="--lr",
    )
    lr_grid: tuple[_Rate, ...] | None = option(
        None, "these learning rates instead, each once", group="the search", metavar="LR", min_length=1
    )
    space: Path | None = option(
        None,
        "YAML file of what to vary, instead of the learning rate alone: training options, each with "
        "{low: X, high: Y, log: true}, a list of values, or one fixed value",
        group="the search",
        metavar="FILE",
    )
    trials: Annotated[int, Field(ge=1, le=10_000)] | None = option(
        None,
        f"trials of each model (default: {DEFAULT_TRIALS}; of lists alone, every combination once)",
        group="the search",
        metavar="N",
    )
    search: Literal["random", "optuna"] = option(
        "random",
        "what to try next: points spread evenly at random, or proposed by Optuna from the results so far",
        group="the search",
    )
    search_seed: _Seed = option(0, "seed of the trials that are drawn", group="the search", metavar="N")
    scheduler: Literal["asha", "fifo"] = option(
        "asha", "asha stops trials early whose validation accuracy lags behind; fifo stops none", group="the search"
    )
    grace_period: Annotated[int, Field(ge=1)] = option(
        1, "epochs that asha gives every trial", group="the search", metavar="N"
    )
    reduction_factor: float = option(
        3.0,
        "asha lets one of so many trials go on",
        group="the search",
        metavar="N",
        gt=1,
        allow_inf_nan=False,
    )
    time_budget: float | None = option(
        None,
        "end the search after so long and take the best so far (default: no limit)",
        group="the search",
        metavar="SECONDS",
        gt=0,
        allow_inf_nan=False,
    )
    final_seeds: tuple[_Seed, ...] = option(
        (0,),
        "seeds that each winner is retrained with on all training images; like --seeds",
        group="the search",
        metavar="N",
        min_length=1,
    )

    @field_validator("lr_grid", "final_seeds", mode="before")
    @classmethod
    def _a_value_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, int, float)) else value

    @field_validator("final_seeds")
    @classmethod
    def _one_final_seed_is_a_count(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return cls._one_seed_is_a_count(seeds)

    @field_validator("final_seeds", "lr_grid")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if values is None else cls._no_duplicates(values)

    @field_validator("validation_size")
    @classmethod
    def _something_to_judge_on(cls, size: int) -> int:
        if size == 0:
            raise ValueError("trials are judged on held-out training images; hold out at least one of each class")
        return size

    @model_validator(mode="before")
    @classmethod
    def _is_for_a_sweep(cls, values: Any) -> Any:
        for name in _FOR_RUNS_ONLY:
            if name in values:
                raise ValueError(f"{name} is for python -m bench.run, not for a sweep; leave it out")
        return values

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        low, high = self.lr_range
        if low > high:
            raise ValueError(f"--lr {low:g} {high:g}: LOW is above HIGH; give the lower one first")
        if low == high:
            raise ValueError(f"--lr {low:g} {high:g}: the range is empty; --lr-grid {low:g} tries one learning rate")
        if self.lr_grid is not None and "lr_range" in self.model_fields_set:
            raise ValueError("--lr LOW HIGH and --lr-grid: give one of them")
        if self.scheduler == "asha" and self.grace_period > self.epochs:
            raise ValueError(
                f"--grace-period {self.grace_period} is longer than --epochs {self.epochs}; lower it, "
                "or use --scheduler fifo"
            )
        return self

    def searched(self) -> tuple[Space, Values]:
        """Return (the space to search, the values that its file fixes).

        Raises:
            UserError: the file of the space cannot be used.
        """
        lists: dict[str, tuple[Value, ...]] = {}
        ranges = {}
        if self.lr_grid is not None:
            lists["lr"] = self.lr_grid
        elif self.space is None or "lr_range" in self.model_fields_set:
            ranges["lr"] = Range(low=self.lr_range[0], high=self.lr_range[1], log=True)
        if self.space is None:
            return Space(ranges=ranges, lists=lists), {}
        file_space, fixed = read_space(self.space)
        if (ranges or lists) and ("lr" in file_space.names or "lr" in fixed):
            raise UserError(f"--space: {self.space} has an lr, and so has the command line; give one of them")
        return Space(ranges={**file_space.ranges, **ranges}, lists={**file_space.lists, **lists}), fixed

    def trials_of(self, space: Space) -> int:
        """Return the number of trials of each model."""
        wanted = self.trials
        if space.size is not None:
            return space.size if wanted is None else min(wanted, space.size)
        return DEFAULT_TRIALS if wanted is None else wanted

    def validation_images(self, train_images: int) -> int:
        """Return the number of training images held out to judge trials on: by default a tenth."""
        return self.validation_size if "validation_size" in self.model_fields_set else train_images // 10
