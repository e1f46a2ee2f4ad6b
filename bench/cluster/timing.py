"""Speed, measured alone: after the training, in one process that has a whole machine of the cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import ray

from bench.cluster.session import Session
from bench.cluster.tasks import first_line, gpu_or_cpu
from bench.learning.datasets import Dataset, Split
from bench.learning.plugins import Plugin
from bench.learning.weights import Weights
from bench.spec import Run, Timing

WAIT_SECONDS = 600
"""How long to wait for a free machine, and for the figures."""
_IMAGES = 8192
"""How many training images are enough to time with, unless a batch has more."""


class NotTimedError(Exception):
    """No figures: no machine became free, or a model could not be timed."""


def time_alone(
    session: Session,
    trained: Sequence[tuple[Run, bytes]],
    *,
    dataset: Dataset,
    weights: Mapping[str, Weights | None],
    plugin: Plugin | None,
) -> list[Timing]:
    """Time trained models one after the other; nothing else of this session may be running.

    Args:
        session: where.
        trained: runs with their checkpoints (safetensors files).
        dataset: that they were trained on.
        weights: by model.
        plugin: the user's file that defines a model, if there is one.

    Raises:
        NotTimedError: says why.
    """
    largest = max(session.nodes, key=lambda node: (node.gpus, node.cpus))
    images = max(_IMAGES, *(run.recipe.batch_size for run, _ in trained))
    few = Split(dataset.train.images[:images], dataset.train.labels[:images])
    part = dataclasses.replace(dataset, train=few, test=Split(few.images[:0], few.labels[:0]))
    threads = max(1, int(largest.cpus))
    task = ray.remote(num_cpus=threads, num_gpus=1 if largest.gpus >= 1 else 0, max_retries=0)(_time_models)
    used = {run.model: weights[run.model] for run, _ in trained}
    answer = task.remote(list(trained), part, used, plugin, threads)
    try:
        found: list[Timing] = ray.get(answer, timeout=WAIT_SECONDS)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(answer, force=True)
        raise NotTimedError(f"no machine with {threads} free CPUs within {WAIT_SECONDS} s") from None
    except ray.exceptions.RayError as error:
        raise NotTimedError(first_line(error)) from None
    return found


def _time_models(
    trained: Sequence[tuple[Run, bytes]],
    dataset: Dataset,
    weights: Mapping[str, Weights | None],
    plugin: Plugin | None,
    threads: int,
) -> list[Timing]:
    from bench.learning.execute import Inputs
    from bench.learning.timing import Subject, time_models

    subjects = [Subject(run, content, Inputs(dataset, weights[run.model], plugin)) for run, content in trained]
    return time_models(subjects, device=gpu_or_cpu(), threads=threads)
