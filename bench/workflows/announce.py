"""What a benchmark is about to do, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from bench.cluster.placement import Group, Node, at_once
from bench.reporting.formats import counted, part_of, seed_list
from bench.spec import Recipe
from bench.workflows.plan import Plan

_MOST_ROWS = 50
"""The most rows of a dry run's table."""


def announced(plan: Plan, groups: Sequence[Group], nodes: Sequence[Node], *, asked_for: int, there: int) -> list[str]:
    """Return the lines that tell what is trained, and on what.

    Args:
        plan: the data and the jobs.
        groups: what is trained.
        nodes: the machines of the cluster.
        asked_for: the number of runs that are asked for.
        there: how many of them are there already.
    """
    info = plan.dataset.info
    before = f" ({there:,} of {asked_for:,} are there already)" if there else ""
    side_by_side = at_once(groups, nodes)
    cpus, gpus = (sum(getattr(node, kind) for node in nodes) for kind in ("cpus", "gpus"))
    models = ", ".join(dict.fromkeys(group.runs[0].model for group in groups)) or "nothing"
    used_images = part_of((run.images_per_epoch for job in plan.jobs for run in job.runs()), info.train_images)
    lines = [
        f"training {models} on {info.name} ({used_images} training and {info.test_images:,} test images): "
        f"{counted(sum(len(group.runs) for group in groups), 'run')}{before}, {side_by_side} at a time, "
        f"on {counted(int(cpus), 'CPU')} and {counted(int(gpus), 'GPU')}"
    ]
    used = side_by_side * groups[0].need.workers * groups[0].need.cpus if groups else cpus
    if gpus == 0 and cpus - used >= 1:
        lines.append(f"note: {used:g} of {cpus:g} CPUs are used; raise --seeds or --cpus-per-worker to use more")
    return lines


def placement(plan: Plan, groups: Sequence[Group], nodes: Sequence[Node], labels: Mapping[str, str]) -> list[str]:
    """Return the lines of a dry run: which run gets what, in the order in which they start, and the recipe."""
    first = at_once(groups, nodes)
    rows = [
        [
            labels[group.runs[0].job_id],
            seed_list([run.seed for run in group.runs]),
            group.need.workers,
            group.need.cpus,
            f"{group.need.gpus:g}",
            "at once" if number < first else "when there is room",
            group.runs[0].weights,
        ]
        for number, group in enumerate(groups[:_MOST_ROWS])
    ]
    headers = ["model", "seeds", "workers", "CPUs each", "GPUs each", "starts", "initial weights"]
    more = len(groups) - _MOST_ROWS
    return [
        "",
        tabulate(rows, headers, disable_numparse=True),
        *([f"... and {counted(more, 'more row')}"] if more > 0 else []),
        "",
        f"training: {_recipe(plan)}",
        "dry run: nothing was trained",
    ]


def _recipe(plan: Plan) -> str:
    """Return the recipes in words: the main fields, and all others that differ from the default."""
    recipes = [job.recipe.model_dump() for job in plan.jobs]
    shown = ("epochs", "batch_size", "lr", "optimizer", "bn_mode")
    named = [
        name
        for name, field in Recipe.model_fields.items()
        if name in shown or any(recipe[name] != field.default for recipe in recipes)
    ]
    return ", ".join(f"{name} {' or '.join(dict.fromkeys(str(recipe[name]) for recipe in recipes))}" for name in named)
