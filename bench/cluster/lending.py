"""Which CPUs go where when a run ends before others. Plain arithmetic: nothing here imports ray.

Planned from what the runs cost, not from when they really end: sums over two threads differ in their last digits from
those over one, so that a seed gives the same weights again only if it changes its threads at the same place again. So a
run that ends earlier than planned leaves its CPUs idle for a while, and for one that takes longer the others wait, as
long as they have trained themselves at the most.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from bench.spec import Cost

MOST = 4
"""Threads that a run is brought to at the most: a batch of small images has no work for many."""


def threads_by_epoch(costs: Mapping[str, Cost], cpus: Mapping[str, int]) -> dict[str, list[int]]:
    """How many threads each run has in each of its epochs.

    As if all began at the same moment and twice the threads took half the time: whoever ends gives each of its CPUs to
    the run with most left to do after the epoch that it is in, which uses it from its next epoch on.

    Args:
        costs: of the runs that share a machine, by name.
        cpus: what each has at first, which is what it has in its first epoch too.
    """
    held = dict(cpus)
    threads: dict[str, list[int]] = {name: [] for name in costs}

    def left(name: str) -> float:
        """What remains of a run after the epoch that it is in, or after its first."""
        return costs[name].epoch * (costs[name].epochs - max(1, len(threads[name])))

    # (when, whether a run's next epoch begins then, the run); of the same moment first the runs that have ended
    moments = [(cost.before / cpus[name], cost.epochs > 0, name) for name, cost in costs.items()]
    heapq.heapify(moments)
    while moments:
        now, begins, name = heapq.heappop(moments)
        if begins:
            done, cost = len(threads[name]), costs[name]
            threads[name].append(held[name] if done else cpus[name])
            last = done + 1 == cost.epochs
            length = cost.epoch + (cost.after if last else 0.0)
            heapq.heappush(moments, (now + length / threads[name][-1], not last, name))
            continue
        for _ in range(held.pop(name)):
            takers = [other for other in held if held[other] < MOST and left(other) > 0]
            if takers:
                held[max(takers, key=lambda other: (left(other) / held[other], other))] += 1
    return threads


class Lending:
    """The runs of a command that lend each other CPUs: who may have what, as they tell what they cost and end."""

    def __init__(self, cpus: Mapping[str, int]) -> None:
        """Of the runs with these ids; each has so many CPUs at first."""
        self._cpus = cpus
        self._costs: dict[str, Cost] = {}
        self._used = dict(cpus)
        """Of the runs that have not ended."""
        self._waiting: set[str] = set()
        self._impatient: set[str] = set()
        """Runs that have waited long enough and never wait again."""

    def tell(self, run_id: str, cost: Cost) -> None:
        """What a run costs. What it says first counts: the others go by it."""
        if run_id in self._cpus:
            self._costs.setdefault(run_id, cost)

    def begin(self, run_id: str) -> None:
        """A worker begins a run, perhaps again."""
        if run_id in self._used:
            self._used[run_id] = self._cpus[run_id]
            self._waiting.discard(run_id)

    def end(self, run_id: str) -> None:
        """A run has ended; if it never told what it costs, it cost nothing."""
        self.tell(run_id, Cost.nothing())
        self._used.pop(run_id, None)
        self._waiting.discard(run_id)

    def ask(self, run_id: str, epoch: int) -> int | None:
        """The threads for an epoch of a run that has not ended, from 1; None while it has to wait.

        It waits until all have told what they cost, and if others take longer than planned, for their end: two threads
        that wait for each other on one CPU would be slower than none.
        """
        others = {name: used for name, used in self._used.items() if name != run_id}
        if self._costs.keys() == self._cpus.keys():
            threads = threads_by_epoch(self._costs, self._cpus)[run_id][epoch - 1]
            # if all that are left wait, then for each other, as their ends came in another order
            if threads + sum(others.values()) <= sum(self._cpus.values()) or others.keys() <= self._waiting:
                self._used[run_id] = threads
                self._waiting.discard(run_id)
                return threads
        if run_id in self._impatient:
            return self._used[run_id]
        self._waiting.add(run_id)
        return None

    def lose_patience(self, run_id: str) -> None:
        """A run has waited long enough, perhaps for one that hangs: from now on it goes on with the threads it has."""
        self._impatient.add(run_id)
        self._waiting.discard(run_id)
