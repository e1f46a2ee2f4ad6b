"""The nouns: Recipe, Job, Run, Record, Outcome. Plain typed data, no torch and no ray."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

SCHEMA_VERSION = 2
"""Version of :class:`Record`'s columns. Raise it when a column changes its meaning or is removed."""

ID_VERSION = 2
"""Raise it when the same description no longer gives the same result, so that old runs are not reused."""


class Status(StrEnum):
    """How a run ended."""

    OK = "ok"
    FAILED = "failed"
    OOM = "oom"
    TIMEOUT = "timeout"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    """A trial of a sweep that was ended early because others were better."""


class Recipe(BaseModel):
    """How a model is trained. The defaults are the published recipe of the MNIST comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: PositiveInt = 5
    batch_size: PositiveInt = 64
    """Images per optimiser step, over all workers together."""
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """The learning rate; with a schedule, its highest value."""
    bn_mode: Literal["eval", "train"] = "eval"
    """Mode of a frozen backbone's batch-norm layers while the head trains."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's momentum; Adam's beta1."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's second beta."""
    schedule: Literal["constant", "one-cycle", "cosine"] = "constant"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread evenly over all classes (Szegedy et al., CVPR 2016, section 7)."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """What matrix products are computed in; auto is bf16 where the hardware has it natively."""
    trainable: Literal["head", "all"] = "head"
    """Whether pretrained backbones stay frozen."""
    image_size: PositiveInt | None = None
    """Height and width that images are resized to; None is what the model says."""
    train_size: PositiveInt | None = None
    """Train on so many images, drawn class by class with the seed; None is all."""
    validation_size: NonNegativeInt = 0
    """Training images held out, class by class, the same for every run on a data set."""
    target_accuracy: float | None = Field(default=None, gt=0, le=1)
    """Note when the validation accuracy first reaches this."""
    stop_at_target: bool = False
    """End the training there."""


class DatasetInfo(BaseModel):
    """Which data was really used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    """Digest of the contents: equal digests mean equal images, labels and split."""
    train_images: int
    test_images: int
    classes: int


class Job(BaseModel):
    """What to train: one model on one dataset with one recipe, for each of the seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    dataset: DatasetInfo
    recipe: Recipe
    weights: str = "none"
    """Where the initial weights come from, in words."""
    weights_sha256: str | None = None
    workers: PositiveInt = 1
    """Data-parallel workers; the batch is shared out among them."""
    plugin_sha256: str | None = None
    """Digest of the user's file that defines the model, if one does."""
    judged_on: Literal["test", "validation"] = "test"
    """With 'validation' (a trial of a sweep) the test images are never touched."""
    sweep_id: str | None = None
    """The sweep that a trial belongs to."""
    lr_source: str | None = None
    """Where the learning rate came from, in words, when a sweep found it."""
    seeds: tuple[int, ...] = (0,)

    def runs(self) -> list[Run]:
        """One run per seed, in the order of the seeds."""
        shared = {name: getattr(self, name) for name in type(self).model_fields if name != "seeds"}
        return [Run(**shared, seed=seed) for seed in self.seeds]


class Run(BaseModel):
    """One job with one seed: the unit that is scheduled, stored, retried and counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    dataset: DatasetInfo
    recipe: Recipe
    weights: str
    weights_sha256: str | None
    workers: int
    plugin_sha256: str | None
    judged_on: Literal["test", "validation"] = "test"
    sweep_id: str | None = None
    lr_source: str | None = None
    seed: int

    @property
    def images_per_epoch(self) -> int:
        """Images trained on in each epoch."""
        left = self.dataset.train_images - self.recipe.validation_size
        return left if self.recipe.train_size is None else min(left, self.recipe.train_size)

    @property
    def job_id(self) -> str:
        """Hash of all that the seeds of one job have in common."""
        # Defaults are left out, so that a field added later does not change the ids of older runs.
        described = self.model_dump(mode="json", exclude={"seed", "weights", "lr_source"}, exclude_defaults=True)
        text = json.dumps({"id_version": ID_VERSION, **described}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def id(self) -> str:
        """A file-name-safe id; its last part is a hash of all that determines the result.

        Threads, hardware and library versions are recorded but are not part of it: the same request on
        another machine is the same run.
        """
        return f"{slug(self.model)}-{slug(self.dataset.name)}-seed{self.seed}-{self.job_id}"


def slug(name: str) -> str:
    """``name`` reduced to letters, digits, '.', '_' and '-', at most 40 of them, never a dot first."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:40] or "_"


class Record(BaseModel):
    """What came out of a run: one flat row. Unknown is null, never 0."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        ser_json_inf_nan="constants",  # the loss of a run that diverged
    )

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of these columns")
    run_id: str = Field(description="hash of all that determines the result, behind readable names")
    job_id: str = Field(description="the same without the seed: runs that differ only in the seed share it")
    model: str = Field(description="registered name of the model")
    dataset: str = Field(description="name of the data set really used")
    dataset_sha256: str = Field(description="digest of images, labels and split")
    train_images: int = Field(description="training images of the data set")
    test_images: int = Field(description="images that the test accuracy is over")
    classes: int = Field(description="number of classes")
    seed: int = Field(description="seed of initialisation, data order and dropout")
    epochs: int = Field(description="epochs asked for")
    batch_size: int = Field(description="images per optimiser step asked for, over all workers")
    batch_size_used: int | None = Field(default=None, description="the same, after --oom-backoff halved it")
    lr: float = Field(description="learning rate; with a schedule, its highest value")
    lr_source: str | None = Field(default=None, description="the sweep that found the learning rate, and its cost")
    optimizer: str = Field(default="adam", description="adam, adamw or sgd")
    weight_decay: float = Field(default=0.0, description="weight decay")
    momentum: float = Field(default=0.9, description="SGD's momentum, Adam's beta1")
    beta2: float = Field(default=0.999, description="Adam's second beta")
    schedule: str = Field(default="constant", description="how the learning rate changes: constant, one-cycle, cosine")
    label_smoothing: float = Field(default=0.0, description="share of each label spread evenly over all classes")
    precision: str = Field(default="fp32", description="fp32, bf16 or auto, as asked for")
    precision_used: str | None = Field(default=None, description="fp32 or bf16")
    bn_mode: str = Field(description="mode of a frozen backbone's batch-norm layers")
    trainable: str = Field(default="head", description="head: a pretrained backbone stays frozen; all: it is trained")
    image_size: int | None = Field(default=None, description="height and width asked for; null is the model's own")
    train_size: int | None = Field(default=None, description="training images asked for; null is all")
    validation_size: int = Field(default=0, description="training images held out for validation")
    target_accuracy: float | None = Field(default=None, description="validation accuracy to reach")
    stop_at_target: bool = Field(default=False, description="training was to end there")
    judged_on: str = Field(default="test", description="test, or validation for a trial of a sweep")
    sweep_id: str | None = Field(default=None, description="the sweep that a trial belongs to")
    weights: str = Field(description="where the initial weights came from")
    weights_sha256: str | None = Field(default=None, description="digest of the weights file")
    plugin_sha256: str | None = Field(default=None, description="digest of the file that defines the model")
    workers: int = Field(description="data-parallel workers")

    status: Status = Field(description="ok, failed, oom, timeout, diverged, interrupted or stopped (a trial, early)")
    reason: str | None = Field(default=None, description="why the run is not ok")
    attempts: int = Field(default=1, description="how often the run was started")
    started_at: datetime = Field(description="start of the run in its worker, UTC")
    ended_at: datetime = Field(description="end of the run in its worker, UTC")

    test_accuracy: float | None = Field(default=None, description="share of test images classified right")
    test_correct: int | None = Field(default=None, description="test images classified right")
    test_loss: float | None = Field(default=None, description="mean cross-entropy over the test images, nats")
    validation_accuracy: float | None = Field(
        default=None, description="share of the held-out training images classified right after the last epoch"
    )
    epochs_done: int | None = Field(default=None, description="epochs trained")
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
    contended: bool | None = Field(default=None, description="other runs shared the machine meanwhile")
    checkpoint: str | None = Field(default=None, description="trained model, relative to the results folder")

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
    git_commit: str | None = Field(default=None, description="commit of this harness, '+' if modified")

    @classmethod
    def of(cls, run: Run, *, status: Status, started_at: datetime, ended_at: datetime, **measured: object) -> Record:
        """A record of ``run`` with what was measured; whatever is not named stays null."""
        row: dict[str, object] = {
            **{name: getattr(run, name) for name in ("job_id", "model", "seed", "weights", "weights_sha256")},
            **{name: getattr(run, name) for name in ("workers", "plugin_sha256", "judged_on", "sweep_id", "lr_source")},
            **run.recipe.model_dump(),
            "run_id": run.id,
            "dataset": run.dataset.name,
            "dataset_sha256": run.dataset.sha256,
            "train_images": run.dataset.train_images,
            "test_images": run.dataset.test_images,
            "classes": run.dataset.classes,
            "status": status,
            "started_at": started_at,
            "ended_at": ended_at,
        }
        return cls.model_validate({**row, **measured})


class EpochRecord(BaseModel):
    """One epoch of one run. Accuracy and loss are those of the training batches, dropout included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    epoch: int = Field(description="1 for the first")
    train_loss: float = Field(description="mean cross-entropy, with label smoothing as asked for, nats")
    train_accuracy: float = Field(description="share of training images classified right")
    seconds: float = Field(description="training time of this epoch")
    images_per_second: float
    validation_accuracy: float | None = Field(default=None, description="share of held-out images classified right")
    validation_loss: float | None = Field(default=None, description="mean cross-entropy over them, nats")


BackendName = Literal["eager", "compile", "onnxruntime", "onnxruntime-int8", "openvino"]
"""The ways to run a trained model's inference; each is a file of the same name in bench/learning/backends."""


class Timing(BaseModel):
    """One timed sample: so many images in so many seconds, with the machine to itself unless ``contended``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str = Field(description="the run whose trained model was timed")
    kind: Literal["training", "extraction", "head", "inference"] = Field(
        description="a step of the whole model; a frozen backbone's features; a step of its head on them; or answering"
    )
    backend: str = Field(description="what ran the model; 'eager' for all but inference")
    batch_size: int = Field(description="images at once")
    sample: int = Field(description="0 for the first after the warm-up")
    seconds: float = Field(description="of this sample, device synchronised")
    reference_seconds: float | None = Field(
        default=None, description="of a training step that never changes, timed right before and after"
    )
    contended: bool = Field(description="something else ran on the machine meanwhile")
    device: str = Field(description="'cpu' or the GPU's name")
    threads: int = Field(description="CPU threads computed with")
    precision: str = Field(description="fp32, bf16 or int8")
    peak_memory_mb: float | None = Field(default=None, description="peak memory during these samples, 10^6 bytes")
    measured_at: datetime = Field(description="UTC")


class Deployment(BaseModel):
    """One trained model prepared for one back end, which then answered every test image. One flat row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str = Field(description="the run whose trained model was prepared")
    backend: str = Field(description="what runs the model")
    status: Literal["ok", "failed"] = Field(description="failed: it could not be prepared, or did not answer")
    reason: str | None = Field(default=None, description="why it failed")
    images: int | None = Field(default=None, description="test images answered: all of them")
    correct: int | None = Field(default=None, description="of these, classified right")
    accuracy: float | None = Field(default=None, description="share of test images classified right")
    agreement: float | None = Field(default=None, description="share of test images given the same class as by eager")
    disagreements: int | None = Field(
        default=None, description="images given another class though eager's two largest logits are not within 1e-4"
    )
    largest_difference: float | None = Field(default=None, description="between a logit and eager's")
    only_eager_right: int | None = Field(default=None, description="images that only eager classified right")
    only_this_right: int | None = Field(default=None, description="images that only this back end classified right")
    prepare_seconds: float | None = Field(
        default=None, description="from the trained model to the first answer of each batch size: export, compiling"
    )
    deployed_bytes: int | None = Field(default=None, description="size of the files that are deployed")
    threads: int | None = Field(default=None, description="CPU threads computed with")
    precision: str | None = Field(default=None, description="fp32, bf16 or int8, as really used")
    device: str | None = Field(default=None, description="'cpu' or the GPU's name")
    version: str | None = Field(default=None, description="of the packages that ran it")
    prepared_at: datetime = Field(description="UTC")


@dataclass(frozen=True)
class Predictions:
    """What a model said of each test image, in the order of the data set."""

    labels: NDArray[np.int16]
    """Shape [images]: the true classes."""
    predicted: NDArray[np.int16]
    """Shape [images]: the classes predicted."""
    probability: NDArray[np.float32]
    """Shape [images]: softmax probability of the predicted class."""


@dataclass(frozen=True)
class Outcome:
    """All that a run leaves behind, as the store takes it."""

    record: Record
    epochs: list[EpochRecord] = field(default_factory=list)
    predictions: Predictions | None = None
    checkpoint: bytes | None = None
    """The trained model as a safetensors file."""


@dataclass(frozen=True)
class Progress:
    """How far a run is; sent by its first worker a few times a second."""

    run_id: str
    epoch: int
    """1 for the first."""
    epochs: int
    images_done: int
    """Training images seen so far, over all epochs and workers."""
    images_total: int
    loss: float = math.nan
    """Mean training loss of this epoch so far, nats."""
    accuracy: float = math.nan
    """Share of this epoch's training images classified right so far."""
    images_per_second: float = 0.0
    phase: Literal["features", "training"] = "training"
    """Extracting a frozen backbone's features, or training."""
    phase_share: float = 0.0
    """How much of the features is extracted."""


@dataclass(frozen=True)
class Begun:
    """A worker begins a run, for the ``attempt``-th time."""

    run_id: str
    attempt: int
    at: datetime
    node_id: str
    """Of the Ray node, and"""
    pid: int
    """the process on it."""


@dataclass(frozen=True)
class Saved:
    """The state to go on from after an epoch."""

    run_id: str
    state: bytes


Event = Begun | Progress | Saved | Outcome
"""What a run tells while it goes on; the outcome is its last word."""
