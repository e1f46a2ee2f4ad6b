"""From options to a plan: data and weights found, models known, jobs made, everything checked before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import UserError
from bench.learning import datasets, plugins, weights
from bench.learning.datasets import Dataset
from bench.learning.models import MODELS
from bench.learning.plugins import Plugin
from bench.learning.weights import Weights
from bench.options import Options
from bench.spec import Job, Recipe


@dataclass(frozen=True)
class Plan:
    """What is to be trained, and what it reads."""

    jobs: list[Job]
    dataset: Dataset
    weights: Mapping[str, Weights | None]
    """By model; None is a random start."""
    plugin: Plugin | None


def make_plan(options: Options) -> Plan:
    """Find everything and check that it goes together.

    Raises:
        UserError: an unknown name, a missing or damaged file, weights that do not fit, a batch larger than the data.
    """
    before = set(MODELS)
    plugin = plugins.read(options.plugin) if options.plugin else None
    from_plugin = set(MODELS) - before
    specs = [MODELS.find(name) for name in options.models]
    requests = {name: weights.request_for(name, options.weights, options.models) for name in options.models}
    found = {spec.name: weights.find(requests[spec.name], spec.name, spec.sources) for spec in specs}
    dataset = datasets.load(options.dataset, options.data_dir)
    info = dataset.info
    if options.batch_size > info.train_images:
        raise UserError(
            f"--batch-size: {options.batch_size} is more than the {info.train_images:,} training images of "
            f"{info.name}; at most {info.train_images:,} is possible"
        )
    for spec in specs:
        chosen = found[spec.name]
        if chosen is not None and chosen.path in requests[spec.name]:  # a file of the user's: check it now
            from bench.learning.build import check_weights

            check_weights(spec, info.classes, chosen)
    recipe = Recipe(epochs=options.epochs, batch_size=options.batch_size, lr=options.lr, bn_mode=options.bn_mode)
    jobs = []
    for spec in specs:
        chosen = found[spec.name]
        jobs.append(
            Job(
                model=spec.name,
                dataset=info,
                recipe=recipe,
                weights=chosen.label if chosen else "none",
                weights_sha256=chosen.sha256 if chosen else None,
                workers=options.workers_per_job,
                plugin_sha256=plugin.sha256 if plugin and spec.name in from_plugin else None,
                seeds=options.seeds,
            )
        )
    return Plan(jobs, dataset, found, plugin)
