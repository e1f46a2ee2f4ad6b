"""The options of ``bench.run``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from bench.config.choice import ChoiceFields
from bench.config.command_line import option
from bench.errors import UserError
from bench.spec import TEST_FRACTION, BackendName, Recipe, RecipeFields
from bench.storage import PlaceOption

_MOST_SEEDS = 10_000
_NODES = re.compile(r"(?P<count>[1-9]\d{0,4})x(?P<cpus>[1-9]\d*)(,(?P<gpus>\d+))?")
_Count = Annotated[int, Field(ge=1)]


class _Candidates(BaseModel):
    models: tuple[str, ...] = option(
        ("cnn", "mobilenet"),
        "models to compare: cnn, strided-cnn, mobilenet, torchvision/NAME, timm/NAME, or FILE.py:NAME for a function "
        "of yours that takes the number of classes and returns a module",
        group="what to compare",
        metavar="MODEL",
        min_length=1,
    )
    dataset: str = option(
        "auto",
        "mnist, mnist-5k, fashion-mnist, synthetic, torchvision/NAME, folder:DIR (a sub-folder for each class), "
        "npz:FILE, csv:FILE, hf:DIR_OR_NAME, FILE.py:NAME, or auto: MNIST if it is on disk or can be downloaded within "
        "seconds, else mnist-5k",
        group="what to compare",
        metavar="NAME",
    )
    data_dir: PlaceOption | None = option(
        None, "folder or URL with the data set's files", group="what to compare", metavar="DIR"
    )
    test_fraction: float = option(
        TEST_FRACTION,
        "fraction of each class's images to draw as the test split, if the data set has none",
        group="what to compare",
        metavar="SHARE",
        gt=0,
        lt=1,
    )
    skip_unreadable: int = option(
        0, "skip up to N pictures that cannot be read", group="what to compare", metavar="N", ge=0
    )
    weights: tuple[str, ...] = option(
        ("auto",),
        "initial weights: pretrained (on disk, downloaded, or from a package that ships them), none, a .pth or "
        ".safetensors file, or auto: pretrained if available, else random; MODEL=VALUE for one model only",
        group="what to compare",
        metavar="WEIGHTS",
        min_length=1,
    )


class Options(ChoiceFields, RecipeFields, _Candidates):
    """The options of ``bench.run``. Each field is a flag (``--like-this``) and a YAML key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = option(
        (0,),
        "one number N: the seeds 0 to N-1; several numbers: exactly these seeds",
        group="training",
        metavar="N",
        min_length=1,
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = option(
        None, "one seed, exactly this, instead of --seeds", group="training", metavar="N"
    )

    until_ci: float | None = option(
        None,
        "add seeds until each accuracy is known to POINTS percentage points (width of its 95 % confidence interval)",
        group="training",
        metavar="POINTS",
        gt=0,
        allow_inf_nan=False,
    )
    max_seeds: Annotated[int, Field(ge=3)] = option(
        20, "the most seeds that --until-ci may use for each model", group="training", metavar="N"
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

    autoscaler: tuple[str, ...] = option(
        (),
        "nodes that the autoscaler of the cluster at --address may have at once, COUNTxCPUS or COUNTxCPUS,GPUS: "
        "runs that need them wait for them",
        group="where to run",
        metavar="NODES",
    )

    timeout: float | None = option(
        None,
        "stop a run that takes longer than this (default: no limit)",
        group="when things go wrong",
        metavar="SECONDS",
        gt=0,
        allow_inf_nan=False,
    )
    max_failures: Annotated[int, Field(ge=0)] = option(
        2, "how many times to retry a run whose worker or node was lost", group="when things go wrong", metavar="N"
    )
    oom_backoff: bool = option(
        False, "when memory runs out, halve the batch size instead of failing the run", group="when things go wrong"
    )
    retry_failed: bool = option(
        False, "train again the runs that failed in an earlier command", group="when things go wrong"
    )

    backends: tuple[BackendName, ...] = option(
        ("eager",),
        "inference back ends to time the trained models on: eager (always included), compile, onnxruntime, "
        "onnxruntime-int8, openvino; each first classifies all test images",
        group="results",
        metavar="NAME",
        min_length=1,
    )
    no_timing: bool = option(False, "skip the measurement of speed and latency after the training", group="results")
    results: PlaceOption = option(
        Path("results"), "folder that results are written to, or s3://BUCKET/PREFIX", group="results", metavar="DIR"
    )
    fresh: bool = option(False, "train again the runs that the results folder already has", group="results")
    dry_run: bool = option(False, "print the plan and the placement, train nothing", group="results")
    verbose: bool = option(False, "show Ray's own messages", group="results")
    variants: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="one job each: options that differ from the rest of the file, and a model (YAML only)",
        json_schema_extra={"group": None},
    )
    question: str | None = Field(
        default=None,
        description="the question that the experiment answers (YAML only)",
        json_schema_extra={"group": None},
    )

    @field_validator("models", "weights", "seeds", "backends", "autoscaler", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, int, float)) else value

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        values = value if isinstance(value, (list, tuple)) else [value]
        if (
            any(isinstance(item, bool) for item in values)
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
            raise ValueError(
                f"one number is the number of seeds, which is at most {_MOST_SEEDS:,}; for the seed {seeds[0]} write "
                f"--seed {seeds[0]}"
            )
        return tuple(range(seeds[0]))

    @field_validator("models", "seeds", "backends")
    @classmethod
    def _no_duplicates(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is named twice; name each once")
        return values

    @field_validator("autoscaler")
    @classmethod
    def _nodes_in_numbers(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not _NODES.fullmatch(value):
                raise ValueError(f"{value!r} is not COUNTxCPUS or COUNTxCPUS,GPUS, as 4x8 or 2x16,1")
        return values

    @model_validator(mode="after")
    def _an_autoscaler_is_of_a_cluster(self) -> Self:
        if self.autoscaler and self.address is None:
            raise ValueError("--autoscaler tells what the cluster at --address may add; give --address too")
        return self

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
    def _one_way_to_name_seeds(self) -> Self:
        if self.seed is not None and "seeds" in self.model_fields_set:
            raise ValueError(f"--seed {self.seed} is one seed, and --seeds names others; give one of the two")
        return self

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        """Return the seeds to train with."""
        return self.seeds if self.seed is None else (self.seed,)

    @model_validator(mode="after")
    def _a_warm_up_that_fits(self) -> Self:
        if self.warmup_epochs and self.schedule == "one-cycle":
            raise ValueError("--warmup-epochs: one-cycle has a warm-up of its own; use --schedule cosine or constant")
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(f"--warmup-epochs {self.warmup_epochs} leaves none of the {self.epochs} epochs")
        return self

    @model_validator(mode="after")
    def _a_target_to_stop_at(self) -> Self:
        if self.stop_at_target and self.target_accuracy is None:
            raise ValueError("--stop-at-target needs --target-accuracy, as in --target-accuracy 0.99")
        if (
            self.target_accuracy is not None
            and self.validation_size == 0
            and "validation_size" in self.model_fields_set
        ):
            raise ValueError("--target-accuracy is judged on held-out images; leave --validation-size 0 out")
        return self

    @model_validator(mode="after")
    def _a_loss_to_stop_by(self) -> Self:
        if self.early_stopping is not None and self.validation_size == 0 and self.target_accuracy is None:
            raise ValueError("--early-stopping is judged on held-out training images; give --validation-size N")
        return self

    def nodes_to_add(self) -> list[tuple[float, float]]:
        """Return (CPUs, GPUs) of each node that ``--autoscaler`` names."""
        parts = [match for value in self.autoscaler if (match := _NODES.fullmatch(value))]
        return [
            (float(match["cpus"]), float(match["gpus"] or 0)) for match in parts for _ in range(int(match["count"]))
        ]

    def recipe(self, train_images: int) -> Recipe:
        """Return the requested recipe for a data set with ``train_images`` training images."""
        values = {name: getattr(self, name) for name in Recipe.model_fields}
        if self.target_accuracy is not None and "validation_size" not in self.model_fields_set:
            values["validation_size"] = max(1, train_images // 10)
        return Recipe.model_validate(values)

    def each_variant(self) -> list[Self]:
        """Return one set of options for each variant, each without variants; only these options if there are none.

        Raises:
            UserError: a variant has a key other than models, seeds and the recipe's, or a value that is not allowed.
        """
        if not self.variants:
            return [self]
        requests = []
        valid = sorted({*Recipe.model_fields, "models", "seeds"})
        rest = self.model_dump(exclude={"variants"}, exclude_unset=True)
        for number, variant in enumerate(self.variants, start=1):
            for key in variant:
                if key not in valid:
                    raise UserError(f"variants: number {number}: unknown key {key!r}; valid: {', '.join(valid)}")
            try:
                requests.append(type(self).model_validate({**rest, **variant}))
            except ValidationError as error:
                detail = error.errors()[0]
                name = f"{detail['loc'][0]}: " if detail["loc"] else ""
                raise UserError(
                    f"variants: number {number}: {name}{detail['msg'].removeprefix('Value error, ')}"
                ) from None
        return requests
