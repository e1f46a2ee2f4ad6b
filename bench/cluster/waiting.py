"""What is told of a cluster while a command waits: nodes that come and go, and who waits for which."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bench.cluster.placement import Need, Node, groups_that_fit, in_words

FIRST_WORD_SECONDS = 5.0
"""Seconds of waiting until it is told, where others train; the next time follows after twice as long, up to a minute
later. Where none can train it is told at once."""
_LONGEST_PAUSE_SECONDS = 60.0
_LOOK_SECONDS = 1.0


class Watch:
    """A watch on the nodes of a cluster."""

    def __init__(
        self,
        nodes: Callable[[], Sequence[Node]],
        *,
        at_most: Sequence[Node] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to watch.

        Args:
            nodes: returns the nodes that are there.
            at_most: the nodes that an autoscaler may have at once, with the others; empty without an autoscaler.
            clock: returns the time, in seconds.
        """
        self._nodes, self._at_most, self._clock = nodes, at_most, clock
        self._last: str | None = None
        self._next_look = clock()
        self._waiting_since: float | None = None
        self._next_word = 0.0

    def lines(self, need: Need, groups: int) -> list[str]:
        """Return what is to be told now: nothing, most of the time.

        Args:
            need: what each group reserves.
            groups: the number of groups that are trained or wait.
        """
        now = self._clock()
        if now < self._next_look:
            return []
        self._next_look = now + _LOOK_SECONDS
        nodes = [node for node in self._nodes() if node.cpus or node.gpus]
        there = in_words(nodes)
        changed = self._last not in (None, there)
        self._last = there
        lines = [f"the cluster now has {there}"] if changed else []
        room = groups_that_fit(need, nodes)
        waiting = groups - room
        if waiting <= 0 or (room and groups_that_fit(need, self._at_most) <= room):
            self._waiting_since = None
            return lines
        if self._waiting_since is None or changed:
            self._waiting_since, self._next_word = now, FIRST_WORD_SECONDS if room else 0.0
        passed = now - self._waiting_since
        if passed >= self._next_word:
            self._next_word = passed + min(max(passed, FIRST_WORD_SECONDS), _LONGEST_PAUSE_SECONDS)
            who = "1 run waits" if waiting == 1 else f"{waiting:,} runs wait"
            lines.append(f"waiting for nodes: {who} for {need}{'' if waiting == 1 else ' each'}; there: {there}")
        return lines
