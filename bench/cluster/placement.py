"""Which runs go together, how many CPUs and GPUs each gets. Plain arithmetic: nothing here imports ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import DoesNotFitError
from bench.spec import Job, Run


@dataclass(frozen=True)
class Node:
    """One machine of the cluster."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Need:
    """What a group reserves: so many workers, each with so many CPUs and GPUs."""

    workers: int
    cpus: int
    gpus: float

    def __str__(self) -> str:
        worker = "worker" if self.workers == 1 else "workers, each"
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} {worker} with {self.cpus} CPU{'s' if self.cpus != 1 else ''}{gpus}"


@dataclass(frozen=True)
class Group:
    """Runs of one job that one Ray Train run trains, one after the other."""

    runs: tuple[Run, ...]
    need: Need
    lends: bool = False
    """Whether its CPUs go to the other groups when it ends, and theirs to it: see bench.cluster.lending."""

    @property
    def name(self) -> str:
        """Unique among the groups of a command."""
        return self.runs[0].id


def workers_that_fit(need: Need, nodes: Sequence[Node]) -> int:
    """How many workers of this size the empty cluster has room for; a worker stays on one node."""
    total = 0
    for node in nodes:
        by_cpu = math.floor(node.cpus / need.cpus + 1e-9) if need.cpus else math.inf
        if need.gpus >= 1:
            by_gpu: float = math.floor(node.gpus / need.gpus + 1e-9)
        else:  # a fraction stays on one GPU
            by_gpu = math.floor(node.gpus) * math.floor(1 / need.gpus + 1e-9) if need.gpus else math.inf
        total += int(min(by_cpu, by_gpu))
    return total


def place(
    jobs: Sequence[Job],
    nodes: Sequence[Node],
    *,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
) -> list[Group]:
    """Share out the machine: as many groups at the same time as fit, a job's seeds spread over what would be idle.

    Without ``cpus_per_worker`` the CPUs are shared out so that the machine is full, and on a single one where every run
    has a place of its own from the start, they lend each other CPUs; without ``gpus_per_worker`` each worker has a GPU
    if there are any.

    Raises:
        DoesNotFitError: not even one group fits into the empty cluster.
    """
    if not jobs:
        return []
    workers = jobs[0].workers
    all_gpus = sum(node.gpus for node in nodes)
    all_cpus = sum(math.floor(node.cpus) for node in nodes)
    gpus = gpus_per_worker if gpus_per_worker is not None else (1.0 if all_gpus >= 1 else 0.0)

    slots = workers_that_fit(Need(workers, cpus_per_worker or 1, gpus), nodes) // workers
    if slots == 0:
        need = Need(workers, cpus_per_worker or 1, gpus)
        raise DoesNotFitError(
            f"{need} {'is' if workers == 1 else 'are'} asked for, but there {_describe(nodes)}; "
            "lower --workers-per-job, --cpus-per-worker or --gpus-per-worker"
        )
    at_once = min(slots, sum(len(job.seeds) for job in jobs))
    chunks = _chunks(jobs, at_once)
    lends = False
    if cpus_per_worker is not None:
        shares = [cpus_per_worker] * len(chunks)
    elif gpus:
        # the CPUs beside a GPU only feed it; a node's are shared evenly by its GPUs
        per_gpu = min(math.floor(node.cpus / node.gpus * min(gpus, 1.0)) for node in nodes if node.gpus >= 1)
        shares = [max(1, per_gpu)] * len(chunks)
    else:
        even = max(1, all_cpus // (at_once * workers))
        while even > 1 and workers_that_fit(Need(workers, even, 0.0), nodes) < at_once * workers:
            even -= 1
        left_over = (all_cpus - even * at_once * workers) // workers if len(nodes) == 1 else 0
        shares = [even + left_over // len(chunks) + (i < left_over % len(chunks)) for i in range(len(chunks))]
        # where seeds wait, they move to what became free instead
        lends = len(nodes) == 1 and workers == 1 and 1 < len(chunks) <= at_once and all(len(c) == 1 for c in chunks)
    return [Group(runs, Need(workers, cpus, gpus), lends) for runs, cpus in zip(chunks, shares, strict=True)]


def _chunks(jobs: Sequence[Job], at_once: int) -> list[tuple[Run, ...]]:
    """Each job's runs in as many parts as it takes to keep ``at_once`` places busy, largest parts of a job first."""
    parts = [1] * len(jobs)
    while sum(parts) < at_once:
        can_grow = [i for i, job in enumerate(jobs) if parts[i] < len(job.seeds)]
        if not can_grow:
            break
        parts[max(can_grow, key=lambda i: len(jobs[i].seeds) / parts[i])] += 1
    chunks = []
    for job, count in zip(jobs, parts, strict=True):
        runs = job.runs()
        size, longer = divmod(len(runs), count)
        start = 0
        for part in range(count):
            end = start + size + (part < longer)
            chunks.append(tuple(runs[start:end]))
            start = end
    return chunks


def worth_moving(waiting: int, seconds_each: float, start_seconds: float) -> int:
    """How many of a group's waiting runs another place should train, so that both end at the same time.

    Args:
        waiting: runs of the group that have not begun.
        seconds_each: what one takes.
        start_seconds: what it takes until the other place begins.
    """
    if waiting * seconds_each <= start_seconds:  # also where a run took no time at all
        return 0
    return max(0, math.floor((waiting - start_seconds / seconds_each) / 2))


def _describe(nodes: Sequence[Node]) -> str:
    def one(node: Node) -> str:
        return f"{node.cpus:g} CPUs and {node.gpus:g} GPUs"

    if len(nodes) == 1:
        return f"are {one(nodes[0])}"
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus))
    total = Node(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
    return f"are {one(total)} on {len(nodes)} nodes, {one(largest)} on the largest"


class Admission:
    """Books resources, so that a group starts only when its workers fit beside those that run."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._workers = 0
        self._free_cpus = sum(node.cpus for node in nodes)
        self._free_gpus = sum(node.gpus for node in nodes)

    def admit(self, need: Need) -> bool:
        """Book ``need`` if it is free now."""
        cpus, gpus = need.cpus * need.workers, need.gpus * need.workers
        if cpus > self._free_cpus + 1e-9 or gpus > self._free_gpus + 1e-9:
            return False
        if self._workers + need.workers > workers_that_fit(need, self._nodes):  # fractions of GPUs do not add up
            return False
        self._workers += need.workers
        self._free_cpus -= cpus
        self._free_gpus -= gpus
        return True

    def release(self, need: Need) -> None:
        """Give back what :meth:`admit` booked."""
        self._workers -= need.workers
        self._free_cpus += need.cpus * need.workers
        self._free_gpus += need.gpus * need.workers
