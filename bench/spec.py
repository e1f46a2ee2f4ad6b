"""The data types: Recipe, Job, Run, Record, Outcome. Plain typed data, no torch and no ray.

The file is long because each noun has its one definition, and all of them are here: flags, YAML keys, Parquet columns,
ids and export parameters follow from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

SCHEMA_VERSION = 2
"""Version of :class:`Record`'s columns. Raise it when a column changes its meaning or is removed."""

ID_VERSION = 2
"""Version of run ids. Raise it when the same description gives another result, so that old runs are not reused."""


TEST_FRACTION = 0.2
"""The share of the images that become the test images of a data set without a test split, by default."""


class Status(StrEnum):
    """The ways in which a run can end."""

    OK = "ok"
    FAILED = "failed"
    OOM = "oom"
    TIMEOUT = "timeout"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    """A trial of a sweep that was ended early because others were better."""


def _choice(
    default: Any, description: str, *, metavar: str | None = None, label: tuple[str, str] | None = None, **limits: Any
) -> Any:
    """Declare a field of the recipe.

    The commands make a flag and a YAML key of it, :class:`Record` a column, and every export a parameter. Labels use it
    to tell two jobs of one model apart.

    Args:
        default: the value in the published recipe of the MNIST comparison.
        description: the text for ``--help`` and the column.
        metavar: the placeholder of the value in ``--help``.
        label: (the format of a value in the label of a job, the text for None); by default the field's name and value.
        limits: further arguments of pydantic's ``Field``.
    """
    extra: dict[str, Any] = {"group": "training", "metavar": metavar, "label": label}
    return Field(default=default, description=description, json_schema_extra=extra, **limits)


Storage = Literal["memory", "mapped", "streamed"]
"""Where images are: in memory, in a file that processes map, or in picture files, decoded whenever they are read."""


class RecipeFields(BaseModel):
    """The fields of a recipe, declared once."""

    epochs: int = _choice(5, "passes over the training images", metavar="N", ge=1)
    batch_size: int = _choice(64, "images per optimiser step, over all workers", metavar="N", ge=1)
    lr: float = _choice(
        1e-3, "learning rate; with a schedule, its highest value", metavar="LR", gt=0, allow_inf_nan=False
    )
    optimizer: Literal["adam", "adamw", "sgd"] = _choice("adam", "optimiser")
    weight_decay: float = _choice(0.0, "weight decay", metavar="X", ge=0, allow_inf_nan=False)
    momentum: float = _choice(0.9, "SGD's momentum, Adam's beta1", metavar="X", ge=0, lt=1)
    beta2: float = _choice(0.999, "Adam's second beta", metavar="X", ge=0, lt=1)
    schedule: Literal["constant", "one-cycle", "cosine"] = _choice(
        "constant", "how the learning rate changes from step to step"
    )
    label_smoothing: float = _choice(
        0.0,  # Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7
        "share of each label that is spread evenly over all classes",
        metavar="X",
        ge=0,
        lt=1,
    )
    precision: Literal["fp32", "bf16", "auto"] = _choice(
        "fp32", "what matrix products are computed in; auto is bf16 where the hardware has it natively"
    )
    bn_mode: Literal["eval", "train"] = _choice("eval", "mode of a frozen backbone's batch-norm layers")
    trainable: Literal["head", "all"] = _choice(
        "head", "of a pretrained model: only its head, or all of it (fine-tuning)"
    )
    image_size: int | None = _choice(
        None,
        "height and width that images are resized to (default: what the model says)",
        metavar="PIXELS",
        label=("{} px", "own size"),
        ge=1,
        le=4096,
    )
    train_size: int | None = _choice(
        None,
        "train on so many images, drawn class by class with the seed (default: all)",
        metavar="N",
        label=("{:,} images", "all images"),
        ge=1,
    )
    validation_size: int = _choice(
        0,
        "training images held out and evaluated after each epoch (default: 0; a tenth with --target-accuracy)",
        metavar="N",
        ge=0,
    )
    augment: Literal["none", "crop-flip", "trivial", "randaugment", "random-resized-crop"] = _choice(
        "none", "how training images are changed, each anew in every epoch; a frozen backbone then runs every time"
    )
    mixup: float = _choice(
        0.0,
        "mix the images and labels of a batch, with this alpha (0: do not)",
        metavar="ALPHA",
        ge=0,
        allow_inf_nan=False,
    )
    cutmix: float = _choice(
        0.0,
        "paste parts of a batch's images into others, with this alpha (0: do not)",
        metavar="ALPHA",
        ge=0,
        allow_inf_nan=False,
    )
    warmup_epochs: int = _choice(
        0, "epochs in which the learning rate rises from 0; for constant and cosine", metavar="N", ge=0
    )
    target_accuracy: float | None = _choice(
        None, "note when the validation accuracy first reaches this share, as 0.99", metavar="SHARE", gt=0, le=1
    )
    stop_at_target: bool = _choice(False, "end the training there")
    early_stopping: int | None = _choice(
        None,
        "end the training after so many epochs without a lower validation loss, and keep the weights of the best "
        "epoch; needs --validation-size (default: train all epochs, and keep the weights of the last)",
        metavar="PATIENCE",
        label=("early stopping {}", "no early stopping"),
        ge=1,
    )


def describe_choice(name: str, value: object) -> str:
    """Return the text for a chosen value in the label of a job: 'lr 0.01', '300 images', 'weights 0f3a12bc'."""
    field = RecipeFields.model_fields.get(name)
    extra = field.json_schema_extra if field is not None else None
    if isinstance(extra, dict) and extra["label"] is not None:
        template, text_for_none = typing.cast("tuple[str, str]", extra["label"])
        return text_for_none if value is None else template.format(value)
    words, text = name.removesuffix("_sha256").replace("_", " "), str(value)
    return f"{words} {text[:8] if len(text) == 64 else text}"


class Recipe(RecipeFields):
    """The way a model is trained. The defaults are the published recipe of the MNIST comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetInfo(BaseModel):
    """The data set that was really used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    """Digest of the contents: equal digests mean equal images, labels and split."""
    train_images: int
    test_images: int
    classes: int


class ModelInput(BaseModel):
    """The form in which a model sees pictures. The defaults are those of MNIST, as published for the CNN."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(default=28, ge=1)
    """Height and width, in pixels."""
    channels: Literal[1, 3] = 1
    """1 for grey, 3 for colour; pictures are converted."""
    mean: tuple[float, ...] = (0.1307,)
    """Mean of each channel, for pixel values from 0 to 1; it is subtracted."""
    std: tuple[float, ...] = (0.3081,)
    """Standard deviation of each channel; the pixels are divided by it after ``mean`` was subtracted."""
    crop: float = Field(default=1.0, gt=0, le=1)
    """Share of the height and width that is kept of each picture: the middle of it."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """The way pictures are resized."""

    @model_validator(mode="after")
    def _one_figure_per_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need a number for each of the {self.channels} channels")
        return self

    @property
    def resized(self) -> int:
        """Return the height and width, in pixels, that a picture is resized to before its middle is cut out."""
        return round(self.image_size / self.crop)

    def columns(self) -> dict[str, object]:
        """Return the columns of :class:`Record` that describe the input."""
        mean, std = (" ".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return {
            "input_size": self.image_size,
            "input_channels": self.channels,
            "input_crop": self.crop,
            "input_interpolation": self.interpolation,
            "input_mean": mean,
            "input_std": std,
        }

    def describe(self) -> str:
        """Return the form in words: '224 px, colour, the middle 88 %, mean 0.485 0.456 0.406, std 0.229 ...'."""
        crop = "" if self.crop == 1 else f", the middle {100 * self.crop:.0f} %"
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        colour = "grey" if self.channels == 1 else "colour"
        return f"{self.image_size} px, {colour}{crop}, mean {mean}, std {std}"


class Job(BaseModel):
    """A training job: one model on one dataset with one recipe, for each of the seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    dataset: DatasetInfo
    recipe: Recipe
    input: ModelInput = ModelInput()
    weights: str = "none"
    """The source of the initial weights, in words."""
    weights_sha256: str | None = None
    workers: PositiveInt = 1
    """The number of data-parallel workers; the batch is divided among them."""
    plugin_sha256: str | None = None
    """Digest of the user's file that defines the model; None if no file does."""
    judged_on: Literal["test", "validation"] = "test"
    """The images that are evaluated. With 'validation' (a trial of a sweep) the test images are never touched."""
    sweep_id: str | None = None
    """The sweep that a trial belongs to."""
    lr_source: str | None = None
    """The sweep that found the learning rate, in words; None if no sweep did."""
    seeds: tuple[int, ...] = (0,)

    def runs(self) -> list[Run]:
        """Return one run per seed, in the order of the seeds."""
        shared = {name: getattr(self, name) for name in type(self).model_fields if name != "seeds"}
        return [Run(**shared, seed=seed) for seed in self.seeds]

    @property
    def job_id(self) -> str:
        """Return the hash of all that the seeds of the job have in common."""
        return self.runs()[0].job_id

    @property
    def inputs_key(self) -> str:
        """Return the key of what the runs read; see :attr:`Run.inputs_key`."""
        return self.runs()[0].inputs_key

    def with_recipe(self, recipe: Recipe) -> Job:
        """Return the job with another recipe, and the image size that it asks for."""
        size = recipe.image_size
        form = self.input if size is None else self.input.model_copy(update={"image_size": size})
        return self.model_copy(update={"recipe": recipe, "input": form})


class Run(BaseModel):
    """One job with one seed: the unit that is scheduled, stored, retried and counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    dataset: DatasetInfo
    recipe: Recipe
    input: ModelInput = ModelInput()
    weights: str
    weights_sha256: str | None
    workers: int
    plugin_sha256: str | None
    judged_on: Literal["test", "validation"] = "test"
    sweep_id: str | None = None
    lr_source: str | None = None
    seed: int

    @property
    def inputs_key(self) -> str:
        """Return the key of what the run reads: its model's weights, and the pictures at the size that it sees."""
        return f"{self.model} {self.input.resized}"

    @property
    def images_per_epoch(self) -> int:
        """Return the number of images trained on in each epoch."""
        available = self.dataset.train_images - self.recipe.validation_size
        return available if self.recipe.train_size is None else min(available, self.recipe.train_size)

    @property
    def job_id(self) -> str:
        """Return the hash of all that the seeds of one job have in common."""
        # Defaults are left out, so that a field added later does not change the ids of older runs.
        described = self.model_dump(mode="json", exclude={"seed", "weights", "lr_source"}, exclude_defaults=True)
        text = json.dumps({"id_version": ID_VERSION, **described}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def id(self) -> str:
        """Return a file-name-safe id; its last part is a hash of all that determines the result.

        Threads, hardware and library versions are recorded but are not part of it: the same request on
        another machine is the same run.
        """
        return f"{slug(self.model)}-{slug(self.dataset.name)}-seed{self.seed}-{self.job_id}"


def slug(name: str) -> str:
    """Return ``name`` reduced to letters, digits, '.', '_' and '-': at most 40 characters, the first not a dot."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:40] or "_"


class _Identity(BaseModel):
    schema_version: int = Field(default=SCHEMA_VERSION, description="version of these columns")
    run_id: str = Field(description="hash of all that determines the result, behind readable names")
    job_id: str = Field(description="the same without the seed: runs that differ only in the seed share it")


class _Task(BaseModel):
    model: str = Field(description="registered name of the model")
    dataset: str = Field(description="name of the data set really used")
    dataset_sha256: str = Field(description="digest of images, labels and split")
    train_images: int = Field(description="training images of the data set")
    test_images: int = Field(description="images that the test accuracy is over")
    classes: int = Field(description="number of classes")
    seed: int = Field(description="seed of initialisation, data order and dropout")


class _Input(BaseModel):
    input_size: int | None = Field(default=None, description="height and width that the model sees, pixels")
    input_channels: int | None = Field(default=None, description="1 for grey, 3 for colour")
    input_crop: float | None = Field(default=None, description="share of height and width kept, in the middle")
    input_interpolation: str | None = Field(default=None, description="how pictures are resized")
    input_mean: str | None = Field(default=None, description="mean of each channel, subtracted; pixels from 0 to 1")
    input_std: str | None = Field(default=None, description="standard deviation of each channel, divided by")


class _Origin(BaseModel):
    workers: int = Field(description="data-parallel workers")
    weights: str = Field(description="where the initial weights came from")
    weights_sha256: str | None = Field(default=None, description="digest of the weights file")
    plugin_sha256: str | None = Field(default=None, description="digest of the file that defines the model")
    judged_on: str = Field(default="test", description="test, or validation for a trial of a sweep")
    sweep_id: str | None = Field(default=None, description="the sweep that a trial belongs to")
    lr_source: str | None = Field(default=None, description="the sweep that found the learning rate, and its cost")


class Measured(BaseModel):
    """The figures of a run, from its worker or, in its place, from the driver. Unknown is null, never 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="constants")

    status: Status = Field(description="ok, failed, oom, timeout, diverged, interrupted or stopped (a trial, early)")
    reason: str | None = Field(default=None, description="why the run is not ok")
    started_at: datetime = Field(description="start of the run in its worker, UTC")
    ended_at: datetime = Field(description="end of the run in its worker, UTC")

    test_accuracy: float | None = Field(default=None, description="share of test images classified right")
    test_correct: int | None = Field(default=None, description="test images classified right")
    test_loss: float | None = Field(default=None, description="mean cross-entropy over the test images, nats")
    validation_accuracy: float | None = Field(
        default=None,
        description="share of the held-out training images classified right by the weights kept: of the last epoch, or "
        "of best_epoch",
    )
    batch_size_used: int | None = Field(
        default=None, description="images per optimiser step, after --oom-backoff halved it"
    )
    precision_used: str | None = Field(default=None, description="fp32 or bf16")
    image_storage: str | None = Field(
        default=None, description="training images: in memory, mapped from a file, or streamed (decoded in every epoch)"
    )
    epochs_done: int | None = Field(default=None, description="epochs trained")
    best_epoch: int | None = Field(
        default=None, description="with early stopping, the epoch of the lowest validation loss; its weights were kept"
    )
    images_per_epoch: int | None = Field(default=None, description="images trained on in each epoch")
    target_epoch: int | None = Field(default=None, description="the first epoch that reached target_accuracy")
    target_seconds: float | None = Field(default=None, description="training time until then, without evaluation")
    train_accuracy: float | None = Field(
        default=None, description="share classified right while training, last epoch, with dropout"
    )
    train_loss: float | None = Field(
        default=None, description="mean cross-entropy of the last epoch, with label smoothing as asked for, nats"
    )
    predictions_sha256: str | None = Field(default=None, description="digest of the predicted classes")
    initial_sha256: str | None = Field(default=None, description="digest of the weights that training began with")
    model_sha256: str | None = Field(default=None, description="digest of the trained weights")

    trainable_parameters: int | None = Field(default=None, description="parameters that were trained")
    total_parameters: int | None = Field(default=None, description="all parameters")
    macs: int | None = Field(default=None, description="multiply-accumulates to classify one image")
    setup_seconds: float | None = Field(default=None, description="building the model and loading weights")
    train_seconds: float | None = Field(
        default=None, description="training without evaluation; with feature_seconds, where features are used"
    )
    feature_seconds: float | None = Field(
        default=None, description="running a frozen backbone once over the training images; 0 if cached"
    )
    features_cached: bool | None = Field(
        default=None, description="the features came from an earlier run; null where none are used"
    )
    validation_seconds: float | None = Field(default=None, description="evaluating the held-out images, all epochs")
    test_seconds: float | None = Field(default=None, description="evaluating the test images")
    train_images_per_second: float | None = Field(default=None, description="images trained on per second")
    test_images_per_second: float | None = Field(default=None, description="test images per second")
    peak_memory_mb: float | None = Field(default=None, description="peak memory of one worker, 10^6 bytes")
    memory_kind: str | None = Field(default=None, description="what peak_memory_mb counts")

    node: str | None = Field(default=None, description="host name of the machine; of the first worker's, if several")
    device: str | None = Field(default=None, description="'cpu' or the GPU's name")
    cpu: str | None = Field(default=None, description="the processor's name")
    cpu_cores: int | None = Field(default=None, description="processors that the system shows")
    memory_gb: float | None = Field(default=None, description="memory of the machine, 10^9 bytes")
    threads: int | None = Field(default=None, description="CPU threads that each worker computed with")
    platform: str | None = Field(default=None, description="operating system")
    python_version: str | None = None
    torch_version: str | None = None
    torchvision_version: str | None = None
    ray_version: str | None = None
    bench_version: str | None = None


class Scores(BaseModel):
    """The figures of a run that follow from its predictions, from :func:`bench.reporting.scores.scores_of`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_top5_accuracy: float | None = Field(
        default=None, description="share of test images whose class is among the five most probable; from 10 classes on"
    )
    test_balanced_accuracy: float | None = Field(
        default=None, description="mean over the classes that have test images of the share of these classified right"
    )
    test_macro_f1: float | None = Field(
        default=None, description="mean over the classes that have test images of F1, from precision and recall"
    )
    test_calibration_error: float | None = Field(
        default=None, description="expected calibration error (ECE) of the predicted classes' probabilities, 15 bins"
    )
    test_imbalance: float | None = Field(
        default=None, description="images of the largest test class for each of the smallest, of classes that have any"
    )


class _Kept(BaseModel):
    attempts: int = Field(default=1, description="how often the run was started")
    contended: bool | None = Field(default=None, description="other runs shared the machine meanwhile")
    checkpoint: str | None = Field(default=None, description="trained model, relative to the results folder")
    git_commit: str | None = Field(default=None, description="commit of this harness, '+' if modified")


class Record(_Kept, Scores, Measured, _Input, _Origin, RecipeFields, _Task, _Identity):
    """The stored result of a run: one flat row. Unknown is null, never 0.

    Its columns are those of its base classes, from the last to the first.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        ser_json_inf_nan="constants",  # the loss of a run that diverged
    )


PARAMETERS = (*_Task.model_fields, *RecipeFields.model_fields, *_Origin.model_fields, *_Input.model_fields)
"""Columns of :class:`Record` that were chosen, not measured."""
DISTINGUISHING = (*RecipeFields.model_fields, "workers", "weights", "weights_sha256", "plugin_sha256")
"""Columns that may tell two jobs of the same model apart, in the order in which a label names them."""


class EpochRecord(BaseModel):
    """One epoch of one run. Accuracy and loss are those of the training batches, dropout included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str = Field(description="the run that it is an epoch of")
    epoch: int = Field(description="1 for the first")
    train_loss: float = Field(description="mean cross-entropy, with label smoothing as asked for, nats")
    train_accuracy: float = Field(description="share of training images classified right")
    seconds: float = Field(description="training time of this epoch")
    images_per_second: float = Field(description="training images per second, in this epoch")
    validation_accuracy: float | None = Field(default=None, description="share of held-out images classified right")
    validation_loss: float | None = Field(default=None, description="mean cross-entropy over them, nats")


TOP = 5
"""The number of most probable classes that are stored for each test image."""

BackendName = Literal["eager", "compile", "onnxruntime", "onnxruntime-int8", "openvino"]
"""The ways to run a trained model's inference; each is a file of the same name in bench/learning/backends."""
BEFORE_BACKENDS = "hand-written loops"
"""The back end of timings that were stored before back ends existed; it cannot be deployed."""


class Timing(BaseModel):
    """One timed sample: the seconds that one batch took, alone on the machine unless ``contended``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str = Field(description="the run whose trained model was timed")
    kind: Literal["training", "extraction", "head", "inference"] = Field(
        description="a step of the whole model; a frozen backbone's features; a step of its head on them; or answering"
    )
    backend: str = Field(description="what ran the model; 'eager' for all but inference")
    batch_size: int = Field(ge=1, description="images at once")
    sample: int = Field(description="0 for the first after the warm-up")
    seconds: float = Field(gt=0, allow_inf_nan=False, description="of this sample, device synchronised")
    reference_seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="of a training step that never changes, timed right before and after",
    )
    contended: bool = Field(description="something else ran on the machine meanwhile")
    node: str | None = Field(default=None, description="host name of the machine")
    device: str = Field(description="'cpu' or the GPU's name")
    cpu: str | None = Field(default=None, description="the processor's name")
    threads: int = Field(description="CPU threads computed with")
    precision: str = Field(description="fp32, bf16 or int8")
    peak_memory_mb: float | None = Field(default=None, ge=0, description="peak memory during these samples, 10^6 bytes")
    joules_per_image: float | None = Field(
        default=None,
        ge=0,
        description="energy to answer one image, as the processors or the GPU count it; null where they do not",
    )
    measured_at: datetime = Field(description="UTC")


class Deployment(BaseModel):
    """The result of preparing one trained model for one back end and answering every test image. One flat row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str = Field(description="the run whose trained model was prepared")
    backend: str = Field(description="what runs the model")
    status: Literal["ok", "failed"] = Field(description="failed: it could not be prepared, or did not answer")
    reason: str | None = Field(default=None, description="why it failed")
    images: int | None = Field(default=None, ge=0, description="test images answered: all of them")
    correct: int | None = Field(default=None, ge=0, description="of these, classified right")
    accuracy: float | None = Field(default=None, ge=0, le=1, description="share of test images classified right")
    agreement: float | None = Field(
        default=None, ge=0, le=1, description="share of test images given the same class as by eager"
    )
    disagreements: int | None = Field(
        default=None,
        ge=0,
        description="images given another class though eager's two largest logits are not within 1e-4",
    )
    largest_difference: float | None = Field(default=None, ge=0, description="between a logit and eager's")
    only_eager_right: int | None = Field(default=None, ge=0, description="images that only eager classified right")
    only_this_right: int | None = Field(
        default=None, ge=0, description="images that only this back end classified right"
    )
    prepare_seconds: float | None = Field(
        default=None,
        ge=0,
        description="from the trained model to the first answer of each batch size: export, compiling",
    )
    deployed_bytes: int | None = Field(default=None, ge=0, description="size of the files that are deployed")
    threads: int | None = Field(default=None, description="CPU threads computed with")
    precision: str | None = Field(default=None, description="fp32, bf16 or int8, as really used")
    device: str | None = Field(default=None, description="'cpu' or the GPU's name")
    version: str | None = Field(default=None, description="of the packages that ran it")
    prepared_at: datetime = Field(description="UTC")


@dataclass(frozen=True)
class Predictions:
    """The prediction of a model for each test image, in the order of the data set."""

    labels: NDArray[np.int16]
    """Shape [images]: the true classes."""
    predicted: NDArray[np.int16]
    """Shape [images]: the classes predicted."""
    probability: NDArray[np.float32]
    """Shape [images]: softmax probability of the predicted class."""
    top_classes: NDArray[np.int16] | None = None
    """Shape [images, 5], or [images, classes] below five classes: the most probable classes, the first is the predicted
    one; of equally probable ones the lower number first. None if they are not stored."""
    top_probabilities: NDArray[np.float32] | None = None
    """The softmax probabilities of ``top_classes``, of the same shape."""


@dataclass(frozen=True)
class Outcome:
    """The result of a run, as its worker measured it."""

    run_id: str
    measured: Measured
    epochs: list[EpochRecord] = field(default_factory=list)
    predictions: Predictions | None = None
    checkpoint: bytes | None = None
    """The trained model as a safetensors file."""
    scores: Scores | None = None
    """What follows from the predictions, of a worker that has stored them itself."""
    model_stored: bool = False
    """True if the worker has stored the trained model itself."""


@dataclass(frozen=True)
class Result:
    """All that the store keeps of a run."""

    record: Record
    epochs: Sequence[EpochRecord] = ()
    predictions: Predictions | None = None
    checkpoint: bytes | None = None
    """The trained model as a safetensors file."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run; its first worker sends it a few times a second."""

    run_id: str
    epoch: int
    """The current epoch; the first is 1."""
    epochs: int
    images_done: int
    """Training images seen so far, over all epochs and workers."""
    images_total: int
    loss: float = math.nan
    """Mean training loss of this epoch so far, nats."""
    accuracy: float = math.nan
    """Share of this epoch's training images classified right so far."""
    images_per_second: float = 0.0
    phase: Literal["features", "training", "testing"] = "training"
    """'features' while the features of a frozen backbone are extracted, 'testing' while test images are answered."""
    phase_share: float = 0.0
    """Share of the features that is extracted, or of the test images that is answered."""

    @property
    def ends_epoch(self) -> bool:
        """Return True if the epoch's last training image has been seen."""
        return self.phase == "training" and self.images_done * self.epochs >= self.epoch * self.images_total


@dataclass(frozen=True)
class Timed:
    """The result of timing trained models."""

    timings: list[Timing] = field(default_factory=list)
    deployments: list[Deployment] = field(default_factory=list)
    """A row for each model and back end, also for those that failed."""


@dataclass(frozen=True)
class TimingProgress:
    """How far the timing of trained models is."""

    prepared: int
    """Models that a back end was prepared for, each counted once for each back end."""
    rounds_left: float | None = None
    """Seconds that the rounds still take; None before one has ended."""


@dataclass(frozen=True)
class Begun:
    """The event that a worker begins a run, for the ``attempt``-th time."""

    run_id: str
    attempt: int
    at: datetime
    node_id: str
    """The Ray node that it runs on."""
    pid: int
    """The process id of the worker on that node."""


@dataclass(frozen=True)
class Saved:
    """The training state after an epoch, to resume from."""

    run_id: str
    state: bytes


@dataclass(frozen=True)
class Ended:
    """The event that a run has its outcome."""

    outcome: Outcome
    attempts: int
    """The number of times that this command started the run."""
    contended: bool
    """True if other runs shared the machine meanwhile."""


@dataclass(frozen=True)
class Notice:
    """Something to tell the user while runs are trained, in one line."""

    text: str


Event = Begun | Progress | Saved | Ended | Notice
"""An event as the driver passes it on; the last one of each run is :class:`Ended`."""
