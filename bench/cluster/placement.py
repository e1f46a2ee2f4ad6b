"""Placement: which runs share a Ray task, and how many CPUs and GPUs it reserves. Plain arithmetic without Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import DoesNotFitError
from bench.spec import Job, Run

MOST_DEFAULT_CPUS = 4
"""The most CPUs that a worker gets by default: batches of small images have no work for more."""


@dataclass(frozen=True)
class Node:
    """One machine of the cluster."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Need:
    """The resources that a group reserves: a number of workers, and the CPUs and GPUs of each."""

    workers: int
    cpus: int
    gpus: float

    def __str__(self) -> str:
        worker = "worker" if self.workers == 1 else "workers, each"
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} {worker} with {self.cpus} CPU{'s' if self.cpus != 1 else ''}{gpus}"


@dataclass(frozen=True)
class Group:
    """Runs of one job that one Ray task trains, one after the other."""

    runs: tuple[Run, ...]
    need: Need

    @property
    def name(self) -> str:
        """Return a name that is unique among the groups of a command."""
        return self.runs[0].id


def workers_that_fit(need: Need, nodes: Sequence[Node]) -> int:
    """Return how many workers of this size the empty cluster has room for; a worker stays on one node."""
    total = 0
    for node in nodes:
        by_cpu = math.floor(node.cpus / need.cpus + 1e-9) if need.cpus else math.inf
        if need.gpus >= 1:
            by_gpu: float = math.floor(node.gpus / need.gpus + 1e-9)
        else:  # a fraction stays on one GPU
            by_gpu = math.floor(node.gpus) * math.floor(1 / need.gpus + 1e-9) if need.gpus else math.inf
        total += int(min(by_cpu, by_gpu))
    return total


def groups_that_fit(need: Need, nodes: Sequence[Node]) -> int:
    """Return how many groups with this need the empty cluster can train at the same time."""
    return workers_that_fit(need, nodes) // need.workers


def place(
    jobs: Sequence[Job],
    nodes: Sequence[Node],
    *,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
) -> list[Group]:
    """Divide runs into groups with equal needs, in the order in which they are to start.

    What a worker gets depends on the machine and the two options alone, never on the other runs of the command:
    sums over two threads differ in their last digits from those over one, and so would the trained weights.
    A run with one worker is a group of its own; runs with several workers share groups, as workers start slowly.

    Args:
        jobs: what to train; all with the same number of workers.
        nodes: the machines of the cluster.
        cpus_per_worker: None for half of the smallest node, at most MOST_DEFAULT_CPUS; with GPUs, one GPU's share.
        gpus_per_worker: None for one GPU where the cluster has any.

    Raises:
        DoesNotFitError: not even one group fits into the empty cluster.
    """
    if not jobs:
        return []
    workers = jobs[0].workers
    gpus = gpus_per_worker if gpus_per_worker is not None else (1.0 if any(node.gpus >= 1 for node in nodes) else 0.0)
    need = Need(workers, cpus_per_worker or _default_cpus(nodes, gpus), gpus)
    slots = groups_that_fit(need, nodes)
    if slots == 0 and cpus_per_worker is None:  # rather smaller workers than none
        need = Need(workers, 1, gpus)
        slots = groups_that_fit(need, nodes)
    if slots == 0:
        raise DoesNotFitError(
            f"{need} {'is' if workers == 1 else 'are'} asked for, but there {_describe(nodes)}; "
            "lower --workers-per-job, --cpus-per-worker or --gpus-per-worker"
        )
    alone = workers == 1
    parts: list[list[tuple[Run, ...]]] = (
        [[(run,) for run in job.runs()] for job in jobs] if alone else _parts(jobs, slots)
    )
    longest = max(map(len, parts))
    # jobs take turns, so that the first results cover all of them
    return [Group(runs[turn], need) for turn in range(longest) for runs in parts if turn < len(runs)]


def _default_cpus(nodes: Sequence[Node], gpus: float) -> int:
    if gpus:  # CPUs beside a GPU only feed it
        shares = [node.cpus / node.gpus * min(gpus, 1.0) for node in nodes if node.gpus >= 1]
        return max(1, math.floor(min(shares, default=1)))
    smallest = min((node.cpus for node in nodes if node.cpus >= 1), default=1)
    return max(1, min(MOST_DEFAULT_CPUS, math.floor(smallest / 2)))


def _parts(jobs: Sequence[Job], slots: int) -> list[list[tuple[Run, ...]]]:
    """Return each job's runs divided into parts, enough to keep ``slots`` busy; the largest parts first."""
    counts = [1] * len(jobs)
    while sum(counts) < slots:
        divisible = [i for i, job in enumerate(jobs) if counts[i] < len(job.seeds)]
        if not divisible:
            break
        counts[max(divisible, key=lambda i: len(jobs[i].seeds) / counts[i])] += 1
    parts = []
    for job, count in zip(jobs, counts, strict=True):
        runs, (size, longer) = job.runs(), divmod(len(job.seeds), count)
        ends = [size * (part + 1) + min(part + 1, longer) for part in range(count)]
        parts.append([tuple(runs[start:end]) for start, end in zip([0, *ends], ends, strict=False)])
    return parts


def _describe(nodes: Sequence[Node]) -> str:
    def one(node: Node) -> str:
        return f"{node.cpus:g} CPUs and {node.gpus:g} GPUs"

    if len(nodes) == 1:
        return f"are {one(nodes[0])}"
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=Node(0, 0))
    total = Node(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
    return f"are {one(total)} on {len(nodes)} nodes, {one(largest)} on the largest"
