"""From options to a plan: find data, weights and models, make the jobs, check everything before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.config.run import Options
from bench.errors import UserError
from bench.learning import plugins
from bench.learning.data import datasets
from bench.learning.data.datasets import Dataset
from bench.learning.models import weights
from bench.learning.models.registry import MODELS, ModelSpec
from bench.learning.models.weights import Weights
from bench.learning.plugins import Plugin
from bench.spec import Job
from bench.workflows.tuned import with_tuned_values


@dataclass(frozen=True)
class Plan:
    """The jobs to train, and all that they read."""

    jobs: list[Job]
    dataset: Dataset
    weights: Mapping[str, Weights | None]
    """The initial weights by model; None is a random start."""
    plugin: Plugin | None
    notes: Sequence[str] = ()
    """Notes for the user, a line each."""


def make_plan(options: Options) -> Plan:
    """Make the jobs, find all that they read, and check that it goes together.

    Raises:
        UserError: an unknown name, a missing or damaged file, weights that do not fit, a batch larger than the data.
    """
    before = set(MODELS)
    plugin = plugins.read(options.plugin) if options.plugin else None
    from_plugin = set(MODELS) - before
    variants = options.each_variant()
    models = tuple(dict.fromkeys(name for variant in variants for name in variant.models))
    specs = {name: MODELS.find(name) for name in models}
    requests = {name: weights.request_for(name, options.weights, models) for name in models}
    initial_weights = {spec.name: weights.find(requests[spec.name], spec.name, spec.sources) for spec in specs.values()}
    dataset = datasets.load(options.dataset, options.data_dir)
    info = dataset.info
    for spec in specs.values():
        chosen = initial_weights[spec.name]
        if chosen is not None and chosen.path in requests[spec.name]:  # a file of the user's: check it now
            from bench.learning.models.build import check_weights

            check_weights(spec, info.classes, chosen)
    jobs = []
    for variant in variants:
        for name in variant.models:
            chosen = initial_weights[name]
            job = Job(
                model=name,
                dataset=info,
                recipe=variant.recipe(info.train_images),
                weights=chosen.label if chosen else "none",
                weights_sha256=chosen.sha256 if chosen else None,
                workers=options.workers_per_job,
                plugin_sha256=plugin.sha256 if plugin and name in from_plugin else None,
                seeds=variant.seeds,
            )
            check_sizes(job, specs[name])
            jobs.append(job)
    notes: list[str] = []
    if options.lr_from_tune:
        jobs, notes = with_tuned_values(jobs, options)
        for job in jobs:
            check_sizes(job, specs[job.model])
    return Plan(jobs, dataset, initial_weights, plugin, notes)


def check_sizes(job: Job, spec: ModelSpec) -> None:
    """Refuse sizes that the data set or the model does not allow.

    Raises:
        UserError: more images asked for than there are, or an image size that the model does not take.
    """
    recipe, info = job.recipe, job.dataset
    if recipe.validation_size >= info.train_images:
        raise UserError(
            f"--validation-size: {recipe.validation_size:,} of the {info.train_images:,} training images of "
            f"{info.name} leave none to train on"
        )
    available = info.train_images - recipe.validation_size
    behind = f" that {recipe.validation_size:,} held-out ones leave" if recipe.validation_size else ""
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
    size = recipe.image_size
    if size is not None and size != spec.input_size and not spec.resizable:
        able = ", ".join(sorted(name for name, other in MODELS.items() if other.resizable))
        raise UserError(
            f"--image-size: {spec.name} takes images of {spec.input_size} x {spec.input_size} pixels only; "
            f"of any size: {able or 'no model'}"
        )
