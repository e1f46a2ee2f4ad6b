"""The reading of options: a command line and a YAML preset, both made from one validated model.

It uses argparse, not a library that makes a command line from the model: tyro and cyclopts were tried. Both convert
each value before pydantic sees it, so that only the first mistake is reported, and in other words than in a preset;
both mark every field as set, while presets and sweeps need to know what the user set; and neither takes a flag with an
optional value, as ``--mlflow``.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, Field, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from bench.config.home import ensure_home, expanded
from bench.errors import UserError, exit_code_of, nearest

T = TypeVar("T", bound=BaseModel)


def option(
    default: Any,
    description: str,
    *,
    group: str,
    metavar: str | None = None,
    if_bare: str | None = None,
    flag: str | None = None,
    **limits: Any,
) -> Any:
    """Declare a field that is also a flag; ``--help`` shows its ``group`` and ``metavar``.

    ``if_bare`` is the value of a flag that is given without one; with None the flag needs a value. ``flag`` is the
    flag's name where it differs from the field's; an empty string makes it a positional argument.
    """
    extra: dict[str, JsonValue] = {"group": group, "metavar": metavar, "if_bare": if_bare, "flag": flag}
    return Field(default=default, description=description, json_schema_extra=extra, **limits)


def flag(name: str, field: FieldInfo | None = None) -> str:
    """Return the flag of a field: ``--batch-size`` for ``batch_size``, unless the field names another."""
    extra = field.json_schema_extra if field is not None else None
    explicit = extra.get("flag") if isinstance(extra, dict) else None
    return str(explicit) if explicit else "--" + name.replace("_", "-")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a :class:`UserError`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _without_none(field: FieldInfo) -> Any:
    """Return the type of a field; of ``X | None``, X."""
    annotation: Any = field.annotation
    if typing.get_origin(annotation) is types.UnionType:
        return next(part for part in typing.get_args(annotation) if part is not type(None))
    return annotation


def _count_of(field: FieldInfo) -> int | str | None:
    """Return the ``nargs`` of a flag for argparse: None for one value, '+' for a list, else a number."""
    annotation = _without_none(field)
    if typing.get_origin(annotation) is not tuple:
        return None
    parts = typing.get_args(annotation)
    return "+" if Ellipsis in parts else len(parts)


def _choices(field: FieldInfo) -> tuple[str, ...] | None:
    annotation = _without_none(field)
    return typing.get_args(annotation) if typing.get_origin(annotation) is Literal else None


def _shown(value: Any) -> str:
    return " ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def build_parser(
    schema: type[BaseModel], prog: str, description: str, epilog: str = "", *, presets: bool = True
) -> argparse.ArgumentParser:
    """Return a parser with a flag per field of ``schema`` and, with ``presets``, ``--experiment FILE`` for YAML.

    All values stay strings: the schema validates them, so that a flag and a YAML key give the same message.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if presets:
        parser.add_argument(
            "--experiment", metavar="FILE", type=Path, help="YAML preset with these options as keys; flags override it"
        )
    groups: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        title = extra.get("group")
        if title is None:
            continue
        if title not in groups:
            groups[str(title)] = parser.add_argument_group(str(title))
        group = groups[str(title)]
        text = (field.description or "").replace("%", "%%")
        if not field.is_required() and field.default not in (None, False):
            text += f" (default: {_shown(field.default)})"
        if field.annotation is bool:
            group.add_argument(flag(name, field), dest=name, action="store_true", default=argparse.SUPPRESS, help=text)
            continue
        if extra.get("flag") == "":
            parser.add_argument(name, metavar=str(extra["metavar"]), nargs=_count_of(field), help=text)
            continue
        choices = _choices(field)
        metavar: Any = "{" + ",".join(choices) + "}" if choices else extra.get("metavar")
        nargs = _count_of(field)
        if isinstance(nargs, int):
            metavar = tuple(str(metavar).split())
        const = extra.get("if_bare")
        if const is not None:
            nargs = "?"
        group.add_argument(
            flag(name, field),
            dest=name,
            metavar=metavar,
            nargs=nargs,
            const=const,
            default=argparse.SUPPRESS,
            help=text,
        )
    return parser


def run_command(
    act: Callable[[T], int],
    schema: type[T],
    arguments: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    epilog: str = "",
    presets: bool = False,
) -> int:
    """Read the options of a command, act on them, and return the exit code; an error is one line on stderr."""

    def command() -> int:
        _print_any_character()
        ensure_home()
        return act(parse(build_parser(schema, prog, description, epilog, presets=presets), schema, arguments))

    return exit_code_of(command)


def _print_any_character() -> None:
    """Print characters that the terminal's encoding lacks as escapes, instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def parse(parser: argparse.ArgumentParser, schema: type[T], arguments: Sequence[str] | None) -> T:
    """Read the command line and its preset into ``schema``.

    Raises:
        UserError: an unknown flag or key, or a value that is not allowed.
    """
    namespace, unknown_arguments = parser.parse_known_args(arguments)
    if unknown_arguments:
        first = unknown_arguments[0]
        if first.startswith("-"):
            flags = re.findall(r"--[a-z][a-z0-9-]*", parser.format_usage())
            raise UserError(f"unknown option {first.split('=')[0]!r}{nearest(first, flags)}; see {parser.prog} --help")
        raise UserError(f"argument {first!r} belongs to no option; see {parser.prog} --help")
    given = expanded(vars(namespace))
    preset_file: Path | None = given.pop("experiment", None)
    preset = read_preset(preset_file, schema) if preset_file else {}
    return validate(schema, {**preset, **given}, given_as_flags=set(given), preset_file=preset_file)


def read_yaml(file: Path, option: str) -> Any:
    """Return the content of a YAML file that ``option`` names.

    Raises:
        UserError: the file cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: cannot read {file}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise UserError(f"{option}: {file} is not valid YAML: {' '.join(str(error).split())}") from None


def read_preset(file: Path, schema: type[BaseModel]) -> dict[str, Any]:
    """Read the keys and values of a YAML preset; hyphens in keys become underscores.

    Raises:
        UserError: the file cannot be read, is not YAML, or has a key that is no option.
    """
    content = read_yaml(file, "--experiment")
    if not isinstance(content, dict):
        raise UserError(f"--experiment: {file} must hold 'option: value' lines, as in 'epochs: 5'")
    preset = {str(key).replace("-", "_"): expanded(value) for key, value in content.items()}
    valid = sorted(schema.model_fields)
    for key in preset:
        if key not in schema.model_fields:
            raise UserError(f"unknown key {key!r} in {file}; valid: {', '.join(valid)}{nearest(key, valid)}")
    return preset


def validate(schema: type[T], values: dict[str, Any], *, given_as_flags: set[str], preset_file: Path | None) -> T:
    """Validate ``values`` and return them as a ``schema``.

    Raises:
        UserError: names the option, the value, and what would be right.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            message = detail["msg"].removeprefix("Value error, ")
            if not detail["loc"]:
                problems.append(message)
                continue
            name = str(detail["loc"][0])
            named = flag(name, schema.model_fields.get(name))
            if detail["type"] == "missing":
                problems.append(f"{named} is needed")
                continue
            source = named if name in given_as_flags or preset_file is None else f"{name} in {preset_file}"
            value = detail["input"]
            problems.append(f"{source}: {_shown(value)!r} is not allowed: {message[:1].lower() + message[1:]}")
        raise UserError("; ".join(dict.fromkeys(problems))) from None
