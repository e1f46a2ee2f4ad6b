"""What a benchmark command takes. The command line and a YAML preset fill the same validated object."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from bench.errors import UserError, nearest
from bench.spec import BackendName, Recipe

T = TypeVar("T", bound=BaseModel)
_MOST_SEEDS = 10_000
_Count = Annotated[int, Field(ge=1)]


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
    """A field that is also a flag: ``group`` and ``metavar`` are how ``--help`` shows it.

    ``if_bare`` is what the flag means without a value; None is a flag that needs one. ``flag`` is its name where that
    is not the field's.
    """
    extra: dict[str, JsonValue] = {"group": group, "metavar": metavar, "if_bare": if_bare, "flag": flag}
    return Field(default=default, description=description, json_schema_extra=extra, **limits)


class Options(BaseModel):
    """The request, whichever way it was written. Each field is a flag (``--like-this``) and a YAML key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = option(
        ("cnn", "mobilenet"), "models to compare", group="what to compare", metavar="MODEL", min_length=1
    )
    dataset: str = option(
        "auto",
        "mnist, mnist-5k, fashion-mnist, synthetic, or auto: MNIST if it is on disk or can be downloaded "
        "within seconds, else mnist-5k",
        group="what to compare",
        metavar="NAME",
    )
    data_dir: Path | None = option(None, "folder with the data set's files", group="what to compare", metavar="DIR")
    weights: tuple[str, ...] = option(
        ("auto",),
        "initial weights of pretrained models: imagenet, bundled, none, a .pth or .safetensors file, or auto: "
        "imagenet if it is cached or can be downloaded, else bundled; MODEL=VALUE for one model only",
        group="what to compare",
        metavar="WEIGHTS",
        min_length=1,
    )
    plugin: Path | None = option(
        None, "Python file that registers models or data sets of yours", group="what to compare", metavar="FILE"
    )

    epochs: _Count = option(5, "passes over the training images", group="training", metavar="N")
    batch_size: _Count = option(64, "images per optimiser step, over all workers", group="training", metavar="N")
    lr: float = option(
        1e-3,
        "learning rate; with a schedule, its highest value",
        group="training",
        metavar="LR",
        gt=0,
        allow_inf_nan=False,
    )
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "optimiser", group="training")
    weight_decay: float = option(0.0, "weight decay", group="training", metavar="X", ge=0, allow_inf_nan=False)
    momentum: float = option(0.9, "SGD's momentum, Adam's beta1", group="training", metavar="X", ge=0, lt=1)
    beta2: float = option(0.999, "Adam's second beta", group="training", metavar="X", ge=0, lt=1)
    schedule: Literal["constant", "one-cycle", "cosine"] = option(
        "constant", "how the learning rate changes from step to step", group="training"
    )
    label_smoothing: float = option(
        0.0, "share of each label that is spread evenly over all classes", group="training", metavar="X", ge=0, lt=1
    )
    precision: Literal["fp32", "bf16", "auto"] = option(
        "fp32",
        "what matrix products are computed in; auto is bf16 where the hardware has it natively",
        group="training",
    )
    trainable: Literal["head", "all"] = option(
        "head", "of a pretrained model: only its head, or all of it (fine-tuning)", group="training"
    )
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = option(
        None,
        "height and width that images are resized to (default: what the model says)",
        group="training",
        metavar="PIXELS",
    )
    train_size: _Count | None = option(
        None,
        "train on so many images, drawn class by class with the seed (default: all)",
        group="training",
        metavar="N",
    )
    validation_size: Annotated[int, Field(ge=0)] | None = option(
        None,
        "training images held out and evaluated after each epoch (default: 0; a tenth with --target-accuracy)",
        group="training",
        metavar="N",
    )
    target_accuracy: float | None = option(
        None,
        "note when the validation accuracy first reaches this share, as 0.99",
        group="training",
        metavar="SHARE",
        gt=0,
        le=1,
    )
    stop_at_target: bool = option(False, "end the training there", group="training")
    bn_mode: Literal["eval", "train"] = option(
        "eval", "mode of a frozen backbone's batch-norm layers", group="training"
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = option(
        (0,),
        "one number: how many seeds, counted from 0; several: these seeds",
        group="training",
        metavar="N",
        min_length=1,
    )

    until_ci: float | None = option(
        None,
        "add seeds until each accuracy's 95 % interval is at most so many percentage points wide",
        group="training",
        metavar="POINTS",
        gt=0,
        allow_inf_nan=False,
    )
    max_seeds: Annotated[int, Field(ge=3)] = option(
        20, "how many seeds --until-ci may use for each model", group="training", metavar="N"
    )
    lr_from_tune: bool = option(
        False, "take each model's learning rate from the last sweep in the results folder", group="training"
    )

    workers_per_job: _Count = option(1, "data-parallel workers of each training run", group="where to run", metavar="N")
    cpus_per_worker: _Count | None = option(
        None,
        "CPUs of each worker, and threads it computes with (default: half of the smallest machine's, at most 4)",
        group="where to run",
        metavar="N",
    )
    gpus_per_worker: float | None = option(
        None,
        "GPUs of each worker; below 1 only with one worker (default: 1 where there are GPUs)",
        group="where to run",
        metavar="N",
        ge=0,
        allow_inf_nan=False,
    )
    address: str | None = option(
        None,
        "a running Ray cluster, HOST:PORT or auto (default: this machine)",
        group="where to run",
        metavar="ADDRESS",
    )

    timeout: float | None = option(
        None,
        "end a run that takes longer (default: no limit)",
        group="when things go wrong",
        metavar="SECONDS",
        gt=0,
        allow_inf_nan=False,
    )
    max_failures: Annotated[int, Field(ge=0)] = option(
        2, "how often a run is tried again after its worker or node was lost", group="when things go wrong", metavar="N"
    )
    oom_backoff: bool = option(
        False, "when memory runs out, halve the batch instead of ending the run", group="when things go wrong"
    )
    retry_failed: bool = option(
        False, "train again the runs that failed in an earlier command", group="when things go wrong"
    )

    backends: tuple[BackendName, ...] = option(
        ("eager",),
        "what runs the trained models' inference when it is timed: eager (always), compile, onnxruntime, "
        "onnxruntime-int8, openvino; each first answers all test images",
        group="results",
        metavar="NAME",
        min_length=1,
    )
    no_timing: bool = option(
        False, "do not measure speed and latency, one model at a time, after the training", group="results"
    )
    results: Path = option(Path("results"), "folder that results are written to", group="results", metavar="DIR")
    fresh: bool = option(False, "train again what the results folder already has", group="results")
    dry_run: bool = option(False, "print the plan and the placement, train nothing", group="results")
    verbose: bool = option(False, "show Ray's own messages", group="results")
    variants: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="one job each: options that differ from the rest of the file, and a model (YAML only)",
        json_schema_extra={"group": None},
    )
    question: str | None = Field(
        default=None,
        description="what the experiment is to find out (YAML only)",
        json_schema_extra={"group": None},
    )

    @field_validator("models", "weights", "seeds", "backends", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, int, float)) else value

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        values = value if isinstance(value, (list, tuple)) else [value]
        if (
            any(isinstance(one, bool) for one in values)
            and cls.model_fields[info.field_name or ""].annotation is not bool
        ):
            raise ValueError("it takes a value, not yes or no")
        return value

    @field_validator("seeds")
    @classmethod
    def _one_seed_is_a_count(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(seeds) > 1 or seeds[0] == 0:
            return seeds
        if seeds[0] > _MOST_SEEDS:
            raise ValueError(f"one number is how many seeds, and {_MOST_SEEDS:,} are the most")
        return tuple(range(seeds[0]))

    @field_validator("models", "seeds", "backends")
    @classmethod
    def _no_duplicates(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is named twice; name each once")
        return values

    @model_validator(mode="after")
    def _fractions_need_one_worker(self) -> Self:
        gpus = self.gpus_per_worker
        if gpus is not None and self.workers_per_job > 1 and gpus != int(gpus):
            raise ValueError(
                f"--gpus-per-worker {gpus:g} with --workers-per-job {self.workers_per_job}: workers that "
                "train together cannot share a GPU; use whole GPUs, or one worker"
            )
        if gpus is not None and gpus > 1:
            raise ValueError(f"--gpus-per-worker {gpus:g}: a worker uses one GPU at the most; add workers instead")
        return self

    @model_validator(mode="after")
    def _a_target_to_stop_at(self) -> Self:
        if self.stop_at_target and self.target_accuracy is None:
            raise ValueError("--stop-at-target needs --target-accuracy, as in --target-accuracy 0.99")
        if self.target_accuracy is not None and self.validation_size == 0:
            raise ValueError("--target-accuracy is judged on held-out images; leave --validation-size 0 out")
        return self

    def recipe(self, train_images: int) -> Recipe:
        """The recipe asked for, on a data set with so many training images."""
        values = {name: getattr(self, name) for name in Recipe.model_fields}
        if self.validation_size is None:
            values["validation_size"] = train_images // 10 if self.target_accuracy is not None else 0
        return Recipe.model_validate(values)

    def each_variant(self) -> list[Self]:
        """One request per variant, without variants of its own; this one alone if there are none.

        Raises:
            UserError: a variant has a key that is no option of a job, or a value that is not allowed.
        """
        if not self.variants:
            return [self]
        found = []
        valid = sorted({*Recipe.model_fields, "models", "seeds"})
        rest = self.model_dump(exclude={"variants"}, exclude_unset=True)
        for number, variant in enumerate(self.variants, start=1):
            for key in variant:
                if key not in valid:
                    raise UserError(f"variants: number {number}: unknown key {key!r}; valid: {', '.join(valid)}")
            try:
                found.append(type(self).model_validate({**rest, **variant}))
            except ValidationError as error:
                detail = error.errors()[0]
                name = f"{detail['loc'][0]}: " if detail["loc"] else ""
                raise UserError(
                    f"variants: number {number}: {name}{detail['msg'].removeprefix('Value error, ')}"
                ) from None
        return found


def flag(name: str, field: FieldInfo | None = None) -> str:
    """The flag of a field: ``batch_size`` is ``--batch-size``, unless the field says otherwise."""
    extra = field.json_schema_extra if field is not None else None
    own = extra.get("flag") if isinstance(extra, dict) else None
    return str(own) if own else "--" + name.replace("_", "-")


class _Parser(argparse.ArgumentParser):
    """argparse, with our form of error message."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _count_of(field: FieldInfo) -> int | str | None:
    """How many values a flag takes, as argparse has it: None is one, '+' a list."""
    annotation: Any = field.annotation
    if typing.get_origin(annotation) is types.UnionType:
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is not tuple:
        return None
    parts = typing.get_args(annotation)
    return "+" if Ellipsis in parts else len(parts)


def _choices(field: FieldInfo) -> tuple[str, ...] | None:
    annotation: Any = field.annotation
    if typing.get_origin(annotation) is types.UnionType:
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    return typing.get_args(annotation) if typing.get_origin(annotation) is Literal else None


def _shown(value: Any) -> str:
    return " ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def build_parser(
    schema: type[BaseModel], prog: str, description: str, epilog: str = "", *, presets: bool = True
) -> argparse.ArgumentParser:
    """A command line with one flag per field of ``schema``, and with ``presets`` ``--experiment FILE`` for YAML.

    All values stay strings: the schema is what validates, so a flag and a YAML key give the same message.
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


def parse(parser: argparse.ArgumentParser, schema: type[T], arguments: Sequence[str] | None) -> T:
    """Read command line and preset into ``schema``.

    Raises:
        UserError: an unknown flag or key, or a value that is not allowed.
    """
    found, unknown_arguments = parser.parse_known_args(arguments)
    if unknown_arguments:
        first = unknown_arguments[0]
        if first.startswith("-"):
            flags = [option for action in parser._actions for option in action.option_strings]
            raise UserError(f"unknown option {first.split('=')[0]!r}{nearest(first, flags)}; see {parser.prog} --help")
        raise UserError(f"argument {first!r} belongs to no option; see {parser.prog} --help")
    given = vars(found)
    preset_file: Path | None = given.pop("experiment", None)
    preset = read_preset(preset_file, schema) if preset_file else {}
    return validate(schema, {**preset, **given}, given_as_flags=set(given), preset_file=preset_file)


def read_preset(file: Path, schema: type[BaseModel]) -> dict[str, Any]:
    """The keys and values of a YAML preset; hyphens in keys are read as underscores.

    Raises:
        UserError: the file cannot be read, is not YAML, or has a key that is no option.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--experiment: cannot read {file}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise UserError(f"--experiment: {file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"--experiment: {file} must hold 'option: value' lines, as in 'epochs: 5'")
    preset = {str(key).replace("-", "_"): value for key, value in content.items()}
    valid = sorted(schema.model_fields)
    for key in preset:
        if key not in schema.model_fields:
            raise UserError(f"unknown key {key!r} in {file}; valid: {', '.join(valid)}{nearest(key, valid)}")
    return preset


def validate(schema: type[T], values: dict[str, Any], *, given_as_flags: set[str], preset_file: Path | None) -> T:
    """``values`` as a ``schema``.

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
