"""The search space of a sweep: ranges and lists of values, and points drawn from them."""

from __future__ import annotations

import itertools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.config.command_line import read_yaml
from bench.errors import UserError, nearest
from bench.spec import Recipe

Value = float | int | str | bool | None
Values = dict[str, Value]
"""One point of a space: a value for each swept field."""

_NOT_SWEPT = {
    "validation_size": "it is what trials are judged on; --validation-size sets it",
    "target_accuracy": "a sweep looks for the best, not for the first to be good enough",
    "stop_at_target": "a sweep looks for the best, not for the first to be good enough",
    "early_stopping": "a winner is retrained on all training images, so that none are held out to stop by",
}
_DIGITS = 4
"""The number of significant digits of a value drawn from a range."""
_MOST_DRAWS = 1000
"""The number of repeated points in a row after which all points are taken to be drawn."""


class Range(BaseModel):
    """The values from ``low`` to ``high``, both included; with ``log``, spread evenly over the logarithm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}; give the lower one first")
        if self.low == self.high:
            raise ValueError(
                f"the range from {self.low:g} to {self.high:g} is empty; name a single value without range"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm; start above 0")
        return self

    def at(self, place: float) -> float:
        """Return the value at a place between 0 (low) and 1 (high), rounded to four significant digits."""
        if self.log:
            return self.rounded(self.low * (self.high / self.low) ** place)
        return self.rounded(self.low + (self.high - self.low) * place)

    def rounded(self, value: float) -> float:
        """Return the value rounded to four significant digits, but not out of the range."""
        return min(self.high, max(self.low, float(f"{value:.{_DIGITS}g}")))

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', log-uniform' if self.log else ''}"


class Space(BaseModel):
    """The fields of a recipe that a sweep varies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranges: dict[str, Range] = {}
    lists: dict[str, tuple[Value, ...]] = {}

    @property
    def names(self) -> list[str]:
        """Return the swept fields: the learning rate first, then in the order of the recipe."""
        fields = sorted(Recipe.model_fields, key=lambda name: name != "lr")
        return [name for name in fields if name in self.ranges or name in self.lists]

    @property
    def is_grid(self) -> bool:
        """Return whether there are only lists, so that every combination can be tried."""
        return not self.ranges

    @property
    def size(self) -> int | None:
        """Return the number of points; None with a range."""
        return math.prod(len(values) for values in self.lists.values()) if self.is_grid else None

    def draw(self, seed: int) -> Iterator[Values]:
        """Yield different points until none are left, in an order that depends only on ``seed``.

        With a range, each point is uniform over the space, and together they are spread evenly: a scrambled Halton
        sequence (Owen, A randomized Halton algorithm in R, 2017), since a few independent draws leave wide gaps
        (Bergstra and Bengio, Random Search for Hyper-Parameter Optimization, JMLR 2012, section 4).
        """
        if self.is_grid:
            points = self._grid()
            for position in np.random.default_rng(seed).permutation(len(points)):
                yield points[position]
            return
        from scipy.stats import qmc  # takes a second to import

        places = qmc.Halton(len(self.names), scramble=True, seed=np.random.default_rng(seed))
        seen: set[tuple[Value, ...]] = set()
        repeats = 0
        while repeats < _MOST_DRAWS:
            (drawn,) = places.random(1)
            point = {name: self._at(name, float(place)) for name, place in zip(self.names, drawn, strict=True)}
            key = tuple(point.values())
            repeats = repeats + 1 if key in seen else 0
            if key not in seen:
                seen.add(key)
                yield point

    def _at(self, name: str, place: float) -> Value:
        if name in self.lists:
            values = self.lists[name]
            return values[min(int(place * len(values)), len(values) - 1)]
        return self.fitting(name, self.ranges[name].at(place))

    def fitting(self, name: str, value: float) -> float | int:
        """Return a value from a range as the recipe takes it: a whole number where the field is a count."""
        return round(value) if int in _kinds(name) else self.ranges[name].rounded(value)

    def _grid(self) -> list[Values]:
        names = self.names
        return [dict(zip(names, point, strict=True)) for point in itertools.product(*(self.lists[n] for n in names))]

    def extremes(self) -> Iterator[Values]:
        """Yield each end of each range and each value of each list, as a point with this field only."""
        for name, limits in self.ranges.items():
            for end in (limits.low, limits.high):
                yield {name: self.fitting(name, end)}
        for name, values in self.lists.items():
            yield from ({name: value} for value in values)

    def describe(self) -> str:
        """Return the space in words: 'lr 0.0001 to 0.1, log-uniform; batch_size 32, 64'."""
        words = {name: str(limits) for name, limits in self.ranges.items()}
        words |= {name: ", ".join(map(_shown, values)) for name, values in self.lists.items()}
        return "; ".join(f"{name} {words[name]}" for name in self.names)


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_values(values: Mapping[str, Value]) -> str:
    """Return a point in words: 'lr 0.0021, batch_size 64'."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in values.items())


def _kinds(name: str) -> set[Any]:
    """Return the types that a field of the recipe takes: of ``int | None``, int and NoneType."""
    annotation: Any = Recipe.model_fields[name].annotation
    return set(typing.get_args(annotation)) if isinstance(annotation, types.UnionType) else {annotation}


def read_space(file: Path) -> tuple[Space, Values]:
    """Read a space file and return (the space, the fixed values).

    A list is tried value by value, a mapping is a range, and any other value is fixed.

    Raises:
        UserError: the file cannot be read, names no field of the recipe, or has an empty range or a wrong value.
    """
    content = read_yaml(file, "--space")
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"--space: {file} must hold training options, as in 'lr: {{low: 0.0001, high: 0.1, log: true}}' or "
            "'batch_size: [32, 64]'"
        )
    return parse_space({str(name).replace("-", "_"): value for name, value in content.items()}, f"--space: {file}")


def parse_space(content: Mapping[str, Any], source: str) -> tuple[Space, Values]:
    """Return (the space, the fixed values) from the content of a space file; ``source`` begins every error message.

    Raises:
        UserError: as :func:`read_space`.
    """
    ranges: dict[str, Range] = {}
    lists: dict[str, tuple[Value, ...]] = {}
    fixed: Values = {}
    for name, value in content.items():
        _check_field(name, source)
        if isinstance(value, dict):
            ranges[name] = _range(name, value, source)
        elif isinstance(value, list):
            listed = _list(name, value, source)
            if len(listed) > 1:
                lists[name] = listed
            else:
                fixed[name] = listed[0]
        else:
            fixed[name] = _checked(name, value, source)
    if not ranges and not lists:
        raise UserError(f"{source}: nothing varies; give a range or a list, as in 'lr: [0.001, 0.01]'")
    return Space(ranges=ranges, lists=lists), fixed


def _check_field(name: str, source: str) -> None:
    if name in _NOT_SWEPT:
        raise UserError(f"{source}: {name} cannot be swept: {_NOT_SWEPT[name]}")
    valid = sorted(Recipe.model_fields.keys() - _NOT_SWEPT)
    if name not in valid:
        raise UserError(f"{source}: unknown field {name!r}; valid: {', '.join(valid)}{nearest(name, valid)}")


def _range(name: str, value: dict[str, Any], source: str) -> Range:
    try:
        limits = Range.model_validate(value)
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        example = "; a range is {low: 0.0001, high: 0.1, log: true}, log is optional"
        reason = f"{where[0]}: {_reason(error)}{example}" if where else _reason(error)
        raise UserError(f"{source}: {name}: {reason}") from None
    if not _kinds(name) & {int, float}:
        raise UserError(f"{source}: {name}: a range needs numbers; name values, as in [{', '.join(_examples(name))}]")
    for end in (limits.low, limits.high):
        _checked(name, end, source)
    return limits


def _reason(error: ValidationError) -> str:
    message = error.errors()[0]["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _examples(name: str) -> list[str]:
    literal = [kind for kind in _kinds(name) if typing.get_origin(kind) is typing.Literal]
    return [str(value) for kind in literal for value in typing.get_args(kind)] or ["true", "false"]


def _list(name: str, values: list[Any], source: str) -> tuple[Value, ...]:
    if not values:
        raise UserError(f"{source}: {name}: the list is empty; name at least one value")
    checked = [_checked(name, value, source) for value in values]
    for value in checked:
        if checked.count(value) > 1:
            raise UserError(f"{source}: {name}: {_shown(value)} is named twice; name each once")
    return tuple(checked)


def _checked(name: str, value: Any, source: str) -> Value:
    """Return ``value`` as the recipe takes it."""
    if isinstance(value, bool) and bool not in _kinds(name):
        raise UserError(f"{source}: {name}: {value!r} is not allowed: it takes a value, not yes or no")
    try:
        checked: Value = getattr(Recipe.model_validate({name: value}), name)
    except ValidationError as error:
        raise UserError(f"{source}: {name}: {value!r} is not allowed: {_reason(error)}") from None
    return checked
