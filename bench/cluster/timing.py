"""Timing of trained models after the training, in one task that has a whole machine of the cluster to itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import ray

from bench.cluster.session import Session
from bench.cluster.tasks import gpu_or_cpu
from bench.errors import first_line
from bench.learning.data.datasets import Dataset, Split
from bench.learning.inputs import Inputs
from bench.spec import Run

if TYPE_CHECKING:  # the driver need not import torch
    from bench.learning.timing import Measured

WAIT_SECONDS = 600
"""Seconds to wait for a free machine and for the figures of eager mode."""
PREPARE_SECONDS = 300
"""Further seconds to wait for each model and back end, to be prepared and to answer all test images."""
FIRST_SIGN_SECONDS = 5.0
"""Seconds to the first sign of life; the next ones follow after twice the time, up to a minute later."""
_IMAGES, _BATCHES = 512, 8
"""The least number of training images, and of batches, to time with and to calibrate a quantised model on."""


class NotTimedError(Exception):
    """A failure of the timing: no machine became free, or a model could not be timed."""


def time_alone(
    session: Session,
    trained: Sequence[tuple[Run, bytes]],
    *,
    inputs: Mapping[str, Inputs],
    backends: Sequence[str],
    waiting: Callable[[float], None] = lambda seconds: None,
) -> Measured:
    """Time trained models in turns; nothing else of this session may be running.

    Args:
        session: the cluster to time on.
        trained: runs with their checkpoints (safetensors files).
        inputs: what the runs read, by :attr:`bench.spec.Run.inputs_key`.
        backends: names of back ends to time besides eager, which is always timed.
        waiting: called now and then until there are figures, with the seconds that it took so far.

    Raises:
        NotTimedError: there are no figures; the message says why.
    """
    largest = max(session.nodes, key=lambda node: (node.gpus, node.cpus))
    images = max(_IMAGES, *(_BATCHES * run.recipe.batch_size for run, _ in trained))
    used = {key: inputs[key] for key in {run.inputs_key for run, _ in trained}}
    parts = {key: replace(each, dataset=_some_of(each.dataset, images)) for key, each in used.items()}
    if not session.shares_files:
        parts = {key: replace(each, dataset=each.dataset.in_memory()) for key, each in parts.items()}
    threads = max(1, int(largest.cpus))
    task = ray.remote(num_cpus=threads, num_gpus=1 if largest.gpus >= 1 else 0, max_retries=0)(_time_models)
    answer = task.remote(list(trained), parts, tuple(backends), threads)
    seconds = WAIT_SECONDS + PREPARE_SECONDS * len(trained) * len(backends)
    start, pause = time.monotonic(), FIRST_SIGN_SECONDS
    try:
        while not ray.wait([answer], timeout=pause)[0] and (passed := time.monotonic() - start) < seconds:
            waiting(passed)
            pause = min(passed, 60.0, seconds - passed)
        measured: Measured = ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(answer, force=True)
        raise NotTimedError(
            f"{threads} CPUs of one machine did not become free, or timing did not end, within {seconds} s; "
            "the same command tries again"
        ) from None
    except ray.exceptions.RayError as error:
        raise NotTimedError(first_line(error)) from None
    return measured


def _some_of(dataset: Dataset, images: int) -> Dataset:
    """Return the data set with so many of its training images, drawn from all: a folder is often sorted by class."""
    drawn = np.random.default_rng(0).permutation(len(dataset.train.labels))[:images]
    return replace(dataset, train=Split(dataset.train.images[drawn], dataset.train.labels[drawn]))


def _time_models(
    trained: Sequence[tuple[Run, bytes]],
    inputs: Mapping[str, Inputs],
    backends: Sequence[str],
    threads: int,
) -> Measured:
    from bench.learning.timing import Subject
    from bench.learning.timing_process import time_in_a_process

    subjects = [Subject(run, content, inputs[run.inputs_key]) for run, content in trained]
    device = gpu_or_cpu()
    return time_in_a_process(subjects, backends=backends, device=device, threads=threads)
