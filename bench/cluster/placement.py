"""Placement: which runs share a Ray task, and how many CPUs and GPUs it reserves. Plain arithmetic without Ray."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import DoesNotFitError
from bench.spec import Job, Run

MOST_DEFAULT_CPUS = 4
"""The most CPUs that a worker gets by default: batches of small images cannot keep more busy."""


@dataclass(frozen=True)
class Node:
    """One machine of the cluster."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


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
        """Return a name that no other group of the command has."""
        return self.runs[0].id


def in_words(nodes: Sequence[Node]) -> str:
    """Return how many nodes there are, with how many CPUs and GPUs in all."""
    if not nodes:
        return "no nodes with CPUs"
    cpus, gpus = (sum(getattr(node, kind) for node in nodes) for kind in ("cpus", "gpus"))
    count = "1 node" if len(nodes) == 1 else f"{len(nodes):,} nodes"
    parts = [
        f"{amount:,g} {kind}{'' if amount == 1 else 's'}" for amount, kind in ((cpus, "CPU"), (gpus, "GPU")) if amount
    ]
    return f"{count} with {' and '.join(parts)}"


def with_growth(there: Sequence[Node], may_add: Sequence[Node]) -> list[Node]:
    """Return the nodes of a cluster when it has grown as far as it may.

    Args:
        there: the nodes that there are.
        may_add: all nodes that an autoscaler may have at once; of these, some may be there.
    """
    remaining = list(may_add)
    for node in there:
        if node in remaining:
            remaining.remove(node)
    return [*there, *remaining]


def groups_that_fit(need: Need, nodes: Sequence[Node]) -> int:
    """Return how many groups with this need the empty cluster can train at once; a worker stays on one node."""
    workers = 0
    for node in nodes:
        fitting = math.floor(node.cpus / need.cpus + 1e-9)
        if need.gpus >= 1:
            fitting = min(fitting, math.floor(node.gpus / need.gpus + 1e-9))
        elif need.gpus:  # a fraction stays on one GPU
            fitting = min(fitting, math.floor(node.gpus) * math.floor(1 / need.gpus + 1e-9))
        workers += fitting
    return workers // need.workers


def at_once(groups: Sequence[Group], nodes: Sequence[Node]) -> int:
    """Return how many of these groups, which have equal needs, the empty cluster trains at the same time."""
    return min(len(groups), groups_that_fit(groups[0].need, nodes)) if groups else 0


def place(
    jobs: Sequence[Job],
    nodes: Sequence[Node],
    *,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    remedy: str = "",
) -> list[Group]:
    """Divide runs into groups with equal needs, in the order in which they are to start.

    What a worker gets depends on the machine and the two options alone, never on the other runs of the command: with
    another number of threads the last digits of sums change, and so would the trained weights.
    A run with one worker is a group by itself; runs with several workers share groups, as workers start slowly.

    Args:
        jobs: what to train; all with the same number of workers.
        nodes: the machines of the cluster.
        cpus_per_worker: None for half of the smallest node, at most MOST_DEFAULT_CPUS; with GPUs, one GPU's share.
        gpus_per_worker: None for one GPU where the cluster has any.
        remedy: what else would help if the cluster has no room, for the message.

    Raises:
        DoesNotFitError: the empty cluster has no room for a single group.
    """
    if not jobs:
        return []
    workers = jobs[0].workers
    gpus = gpus_per_worker if gpus_per_worker is not None else (1.0 if any(node.gpus >= 1 for node in nodes) else 0.0)
    need = Need(workers, cpus_per_worker or _default_cpus(nodes, gpus), gpus)
    if not groups_that_fit(need, nodes) and cpus_per_worker is None:  # rather smaller workers than none
        need = Need(workers, 1, gpus)
    slots = groups_that_fit(need, nodes)
    if slots == 0:
        raise DoesNotFitError(
            f"{need} {'is' if workers == 1 else 'are'} asked for, but there {_describe(nodes)}; "
            f"lower --workers-per-job, --cpus-per-worker or --gpus-per-worker{remedy}"
        )
    parts = _parts(jobs, slots) if workers > 1 else [[(run,) for run in job.runs()] for job in jobs]
    # jobs take turns, so that the first results cover all of them
    return [Group(runs, need) for turn in itertools.zip_longest(*parts) for runs in turn if runs]


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
    parts: list[list[tuple[Run, ...]]] = []
    for job, count in zip(jobs, counts, strict=True):
        runs = job.runs()
        parts.append([tuple(runs[i] for i in part) for part in np.array_split(range(len(runs)), count)])
    return parts


def _describe(nodes: Sequence[Node]) -> str:
    if len(nodes) == 1:
        return f"are {nodes[0]}"
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=Node(0, 0))
    total = Node(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
    return f"are {total} on {len(nodes)} nodes, {largest} on the largest"
