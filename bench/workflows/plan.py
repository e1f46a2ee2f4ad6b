"""Turn options into a plan: find data, weights and models, make the jobs, and check everything before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.config.run import Options
from bench.errors import UserError
from bench.learning import cache
from bench.learning.data import datasets
from bench.learning.data.datasets import Dataset, Reading
from bench.learning.data.statistics import mean_and_std
from bench.learning.inputs import Inputs
from bench.learning.models import weights
from bench.learning.models.architecture import Architecture
from bench.learning.models.registry import find
from bench.learning.models.weights import Weights, Wish
from bench.learning.user_code import UserCode
from bench.spec import Job, ModelInput, Recipe
from bench.workflows.tuned import with_tuned_values

_MOST_USUAL_SEEDS = 20
"""A larger number of seeds is noted, as it may be meant as a seed."""
_MANY_SEEDS = "{0:,} seeds of each; --seeds {0} is a count; for the seed {0} write --seed {0}"


@dataclass(frozen=True)
class Plan:
    """The jobs to train, and the data, weights and user code that they need."""

    jobs: list[Job]
    dataset: Dataset
    inputs: Mapping[str, Inputs]
    """The inputs of the runs, by :attr:`bench.spec.Run.inputs_key`."""
    notes: Sequence[str] = ()
    """Notes for the user, one line each."""


@dataclass(frozen=True)
class _Candidate:
    """A requested model, with the user code that defines it and its initial weights, if any."""

    architecture: Architecture
    code: UserCode | None
    wish: Wish
    """The value of ``--weights`` that holds for it."""
    weights: Weights | None


def make_plan(options: Options) -> Plan:
    """Make the jobs, load the data and weights that they need, and check that all of it is compatible.

    Raises:
        UserError: a name is unknown, a file is missing or damaged, weights do not fit their model, a model cannot be
            trained, or a size in the options is not possible (:func:`check_sizes`).
    """
    variants = options.each_variant()
    names = tuple(dict.fromkeys(name for variant in variants for name in variant.models))
    notes: list[str] = []
    candidates = {name: _candidate(name, options, names, notes) for name in names}
    dataset = datasets.load(
        options.dataset,
        options.data_dir,
        reading=Reading(test_fraction=options.test_fraction, skip_unreadable=options.skip_unreadable),
    )
    jobs: list[Job] = []
    inputs: dict[str, Inputs] = {}
    views: dict[int, Dataset] = {}
    for variant in variants:
        for name in variant.models:
            candidate, recipe = candidates[name], variant.recipe(dataset.info.train_images)
            form, view = _input_of(candidate, recipe, dataset, views)
            chosen, code = candidate.weights, candidate.code
            job = Job(
                model=name,
                dataset=dataset.info,
                recipe=recipe,
                input=form,
                weights=chosen.label if chosen else "none",
                weights_sha256=chosen.sha256 if chosen else None,
                workers=options.workers_per_job,
                plugin_sha256=code.sha256 if code else None,
                seeds=variant.chosen_seeds,
            )
            check_sizes(job, candidate.architecture)
            jobs.append(job)
            inputs[job.inputs_key] = Inputs(view, chosen, code)
    notes += [_MANY_SEEDS.format(count) for count in _large_counts(variants)]
    notes += _untrusted()
    stored = [view.storage_note for view in {id(view): view for view in views.values()}.values()]
    notes += [note for note in stored if note is not None]
    jobs = _checked(jobs, candidates)
    if options.lr_from_tune:
        jobs, tuned = with_tuned_values(jobs, options)
        notes += tuned
        for job in jobs:
            check_sizes(job, candidates[job.model].architecture)
    return Plan(jobs, dataset, inputs, notes)


def _untrusted() -> list[str]:
    """Return a note if files in the cache cannot be trusted, so that they are made anew and not kept."""
    folders = [cache.cache_dir() / name for name in ("features", "decoded")]
    reasons = dict.fromkeys(reason for folder in folders if (reason := cache.refusal(folder)) is not None)
    return [f"features and decoded pictures are not kept: {reason} (BENCH_CACHE)" for reason in list(reasons)[:1]]


def _large_counts(variants: Sequence[Options]) -> list[int]:
    """Return the numbers of seeds that are so large that a single seed may have been meant."""
    counts = {len(variant.seeds) for variant in variants if variant.seeds == tuple(range(len(variant.seeds)))}
    return sorted(count for count in counts if count > _MOST_USUAL_SEEDS)


def _candidate(name: str, options: Options, names: Sequence[str], notes: list[str]) -> _Candidate:
    code = UserCode.read(name, "--models") if UserCode.is_named_by(name) else None
    architecture = find(name, code)
    wish = weights.wish_for(name, options.weights, names)
    chosen = weights.find(wish, name, architecture.sources)
    if chosen is None and wish.value == "auto" and architecture.sources:
        notes.append(
            f"{name} starts from random weights: its pretrained weights are not on disk and cannot be downloaded "
            "(give a file with --weights)"
        )
    return _Candidate(architecture, code, wish, chosen)


def _input_of(
    candidate: _Candidate, recipe: Recipe, dataset: Dataset, views: dict[int, Dataset]
) -> tuple[ModelInput, Dataset]:
    """Return (the form of the model's input, the data set read at the size for it).

    What the model does not specify is taken from the data: image size, number of channels, and the mean and standard
    deviation of the training images. ``--image-size`` overrides the model's image size.

    Args:
        candidate: the model.
        recipe: the recipe of the job.
        dataset: the data set, as loaded.
        views: the data set by the size it was read at, in pixels; a new size is added.
    """
    wants = dict(candidate.architecture.wants(candidate.weights is not None))
    size = recipe.image_size or wants.get("image_size") or candidate.architecture.fit(dataset.size)
    channels = wants.get("channels", dataset.channels)
    resized = round(size / wants.get("crop", 1.0))
    if resized not in views:
        views[resized] = dataset.at(resized)
    view = views[resized]
    if "mean" not in wants:
        wants["mean"], wants["std"] = mean_and_std(view.train.images, channels)
    return ModelInput.model_validate({**wants, "image_size": size, "channels": channels}), view


def _checked(jobs: list[Job], candidates: Mapping[str, _Candidate]) -> list[Job]:
    """Try out every model that is not built in or starts from a user's weights file; return the jobs.

    A job whose model brings pretrained weights by itself gets their digest.

    Raises:
        UserError: a model cannot be trained, or its weights do not fit.
    """
    tried: dict[str, str | None] = {}
    checked = []
    for job in jobs:
        candidate, key = candidates[job.model], job.inputs_key
        if key not in tried and (not candidate.architecture.built_in or candidate.wish.is_file):
            from bench.learning.models.trial import try_out  # imports torch

            tried[key] = try_out(candidate.architecture.spec(job.input), job.dataset.classes, candidate.weights)
        brought = tried.get(key)
        own = {} if brought is None else {"weights": "its own", "weights_sha256": brought}
        checked.append(job.model_copy(update=own))
    return checked


def check_sizes(job: Job, architecture: Architecture) -> None:
    """Check that the data set has enough images for the job, and that the model accepts the image size.

    Raises:
        UserError: --validation-size, --train-size or --batch-size asks for more images than there are, or the model
            does not accept the image size.
    """
    recipe, info = job.recipe, job.dataset
    if recipe.validation_size >= info.train_images:
        raise UserError(
            f"--validation-size: {recipe.validation_size:,} held-out images leave none to train on: {info.name} has "
            f"{info.train_images:,} training images"
        )
    available = info.train_images - recipe.validation_size
    behind = f" that remain after {recipe.validation_size:,} are held out" if recipe.validation_size else ""
    images = f"the {available:,} training images of {info.name}{behind}"
    if recipe.train_size is not None and recipe.train_size > available:
        raise UserError(f"--train-size: {recipe.train_size:,} is more than {images}")
    (run, *_) = job.runs()
    if recipe.batch_size > run.images_per_epoch:
        if recipe.train_size is not None:
            images = f"the {recipe.train_size:,} images of --train-size"
        raise UserError(
            f"--batch-size: {recipe.batch_size} is more than {images}; at most {run.images_per_epoch:,} is possible"
        )
    if job.input.image_size < architecture.least_size:
        raise UserError(
            f"--image-size: {job.model} takes images of at least {architecture.least_size} pixels, not of "
            f"{job.input.image_size} pixels"
        )
    asked = architecture.wants(job.weights_sha256 is not None).get("image_size")
    if recipe.image_size is not None and recipe.image_size != asked and not architecture.resizable:
        only = f"{asked} x {asked} pixels only" if asked else "their own size only"
        raise UserError(f"--image-size: {job.model} takes images of {only}")
