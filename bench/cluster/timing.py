"""Timing of trained models after the training, on a node of each kind that the task has to itself.

Other nodes, and other commands on them, go on meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.cluster.placement import Node
from bench.cluster.session import Session, node_of
from bench.cluster.tasks import gpu_or_cpu
from bench.errors import first_line
from bench.learning.cpus import cpu_name
from bench.learning.data.datasets import Dataset, Split
from bench.learning.inputs import Inputs
from bench.spec import Run, Timed, TimingProgress

WAIT_SECONDS = 600
"""Seconds to wait for a free machine and for the figures of eager mode."""
PREPARE_SECONDS = 300
"""Further seconds to wait for each model and back end, to be prepared and to answer all test images."""
ASK_SECONDS = 60
"""Seconds to wait for each node's answer to which processor it has."""
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
    report: Callable[[TimingProgress], None] = lambda progress: None,
    failed: Callable[[str], None] = lambda reason: None,
) -> Timed:
    """Time trained models in turns, on one node of each kind of device; each is reserved whole.

    Args:
        session: the cluster to time on.
        trained: runs with their checkpoints (safetensors files).
        inputs: what the runs read, by :attr:`bench.spec.Run.inputs_key`.
        backends: names of back ends to time besides eager, which is always timed.
        waiting: called now and then until there are figures, with the seconds that it took so far.
        report: called with the progress of the timing on a node, about once a second.
        failed: called with the reason if there are figures of some kinds of device, but not of one.

    Raises:
        NotTimedError: there are no figures; the message says why.
    """
    images = max(_IMAGES, *(_BATCHES * run.recipe.batch_size for run, _ in trained))
    used = {key: inputs[key] for key in {run.inputs_key for run, _ in trained}}
    parts = {key: replace(each, dataset=_some_of(each.dataset, images)) for key, each in used.items()}
    if not session.shares_files:
        parts = {key: replace(each, dataset=each.dataset.in_memory()) for key, each in parts.items()}
    work = ray.put((list(trained), parts, tuple(backends)))
    seconds = WAIT_SECONDS + PREPARE_SECONDS * len(trained) * len(backends)
    figures: list[Timed] = []
    reasons: list[str] = []
    for place in places(session):
        try:
            figures.append(_time_at(place, work, seconds, waiting, report))
        except NotTimedError as error:
            reasons.append(f"on {place.kind}: {error}" if place.kind else str(error))
    if not figures:
        raise NotTimedError("; ".join(reasons))
    for reason in reasons:
        failed(reason)
    whole = figures[0]
    for more in figures[1:]:
        whole.timings.extend(more.timings)
        whole.deployments.extend(more.deployments)
    return whole


@dataclass(frozen=True)
class Place:
    """A node to time on; the timing reserves all of its CPUs and, if it has any, one GPU."""

    node: Node
    kind: str = ""
    """The name of its GPU or, without any, of its processor; empty if it was not asked for."""
    node_id: str | None = None
    """None for any node with so much."""


def one_of_each(candidates: Sequence[Place]) -> list[Place]:
    """Return the largest node of each kind; the largest of all last, as a report shows what was timed last."""
    by_size = sorted(candidates, key=lambda place: (place.node.gpus, place.node.cpus))
    largest = {place.kind: place for place in by_size}
    return [place for place in by_size if largest[place.kind] is place]


def places(session: Session) -> list[Place]:
    """Return the nodes to time on: one of each kind of GPU, in a cluster with GPUs, else one of each processor."""
    largest = max(session.nodes, key=lambda node: (node.gpus, node.cpus))
    on_gpu = largest.gpus >= 1
    alive = [] if session.shares_files else [each for each in ray.nodes() if each["Alive"]]
    nodes = {each["NodeID"]: node_of(each) for each in alive}
    suited = {key: node for key, node in nodes.items() if node.cpus >= 1 and (node.gpus >= 1) == on_gpu}
    if len(suited) < 2:  # a cluster that has shrunk to nothing grows again
        return [Place(largest)]
    kinds = _gpus(alive) if on_gpu else _processors(list(suited))
    return one_of_each([Place(node, kinds[key], key) for key, node in suited.items() if key in kinds]) or [
        Place(largest)
    ]


def _gpus(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the name of the GPU of each node, by node id; Ray labels nodes with it."""
    return {each["NodeID"]: each.get("Labels", {}).get("ray.io/accelerator-type", "GPU") for each in nodes}


def _processors(node_ids: Sequence[str]) -> dict[str, str]:
    """Return the name of the processor of each node that answers soon, by node id."""
    ask = ray.remote(num_cpus=0, max_retries=0)(cpu_name)
    asked = {ask.options(scheduling_strategy=_on(node_id)).remote(): node_id for node_id in node_ids}
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ASK_SECONDS)
    kinds = {}
    for reference in answered:
        with contextlib.suppress(ray.exceptions.RayError):  # the node has just been lost
            kinds[asked[reference]] = str(ray.get(reference))
    return kinds


def _on(node_id: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id, soft=True)  # an autoscaler may remove it


def _time_at(
    place: Place,
    work: ray.ObjectRef,
    seconds: float,
    waiting: Callable[[float], None],
    report: Callable[[TimingProgress], None],
) -> Timed:
    """Time at a place; wait up to ``seconds``.

    Raises:
        NotTimedError: there are no figures; the message says why.
    """
    threads = max(1, int(place.node.cpus))
    needs = {"num_cpus": threads, "num_gpus": 1 if place.node.gpus >= 1 else 0}
    task = ray.remote(**needs, max_retries=0, num_returns="streaming")(_time_models)
    options = {} if place.node_id is None else {"scheduling_strategy": _on(place.node_id)}
    answers = task.options(**options).remote(work, threads)
    start, next_sign = time.monotonic(), FIRST_SIGN_SECONDS
    try:
        while (passed := time.monotonic() - start) < seconds:
            if passed >= next_sign:
                waiting(passed)
                next_sign = passed + min(passed, 60.0)
            if ray.wait([answers], timeout=max(0.0, min(next_sign, seconds) - passed))[0]:
                answer: TimingProgress | Timed = ray.get(next(answers))
                if not isinstance(answer, TimingProgress):
                    return answer
                report(answer)
    except ray.exceptions.RayError as error:
        raise NotTimedError(first_line(error)) from None
    ray.cancel(answers, force=True)
    raise NotTimedError(
        f"{threads} CPUs of one machine did not become free, or timing did not end, within {seconds} s; "
        "the same command tries again"
    )


def _some_of(dataset: Dataset, images: int) -> Dataset:
    """Return the data set with so many of its training images, drawn from all: a folder is often sorted by class."""
    drawn = np.random.default_rng(0).permutation(len(dataset.train.labels))[:images]
    return replace(dataset, train=Split(dataset.train.images[drawn], dataset.train.labels[drawn]))


def _time_models(
    work: tuple[list[tuple[Run, bytes]], dict[str, Inputs], tuple[str, ...]], threads: int
) -> Iterator[TimingProgress | Timed]:
    """Yield the progress of the timing and, last, its result."""
    from bench.learning.timing import Subject
    from bench.learning.timing_process import time_in_a_process

    trained, inputs, backends = work
    subjects = [Subject(run, content, inputs[run.inputs_key]) for run, content in trained]
    yield from time_in_a_process(subjects, backends=backends, device=gpu_or_cpu(), threads=threads)
