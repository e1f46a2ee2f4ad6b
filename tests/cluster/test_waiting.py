"""Who waits for nodes is told: soon, not often, and only where nodes can help."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cluster.placement import Need, Node, groups_that_fit, in_words, with_growth
from bench.cluster.waiting import Watch

NEED = Need(1, 1, 0)


class Cluster:
    """A cluster at a time: what is told of it while time passes, with the second in front."""

    def __init__(self, at_most: Sequence[Node] = [Node(100, 0)]) -> None:
        self.now, self.nodes = 0.0, [Node(0, 0)]
        self.watch = Watch(lambda: self.nodes, at_most=at_most, clock=lambda: self.now)

    def passes(self, seconds: float, groups: int, need: Need = NEED) -> list[str]:
        told, end = [], self.now + seconds
        while self.now < end:
            told += [f"{self.now:g} {line}" for line in self.watch.lines(need, groups)]
            self.now += 0.25
        return told


def test_runs_that_wait_for_the_first_node_are_told_of_at_once_and_ever_less_often() -> None:
    told = Cluster().passes(200, 8)

    assert told[0] == "0 waiting for nodes: 8 runs wait for 1 worker with 1 CPU each; there: no nodes with CPUs"
    assert [line.split()[0] for line in told] == ["0", "5", "10", "20", "40", "80", "140"]


def test_growth_is_told_and_what_still_waits() -> None:
    cluster = Cluster()
    cluster.passes(7, 8)
    cluster.nodes = [Node(0, 0), Node(2, 0)]
    told = cluster.passes(8, 8)

    assert told == [
        "7 the cluster now has 1 node with 2 CPUs",
        "12 waiting for nodes: 6 runs wait for 1 worker with 1 CPU each; there: 1 node with 2 CPUs",
    ]


@pytest.mark.parametrize("at_most", [[], [Node(1, 0)]], ids=["no autoscaler", "grown as far as it may"])
def test_a_queue_on_a_cluster_that_cannot_grow_is_nothing_to_tell(at_most: list[Node]) -> None:
    cluster = Cluster(at_most)
    cluster.nodes = [Node(1, 0)]

    assert cluster.passes(100, 8) == []


def test_a_cluster_that_lost_its_last_node_waits_for_one_also_without_an_autoscaler() -> None:
    cluster = Cluster([])
    cluster.nodes = [Node(1, 0)]
    cluster.passes(3, 1)
    cluster.nodes = []
    told = cluster.passes(7, 1)

    assert told == [
        "3 the cluster now has no nodes with CPUs",
        "3 waiting for nodes: 1 run waits for 1 worker with 1 CPU; there: no nodes with CPUs",
        "8 waiting for nodes: 1 run waits for 1 worker with 1 CPU; there: no nodes with CPUs",
    ]


nodes_st = st.lists(st.builds(Node, cpus=st.integers(1, 8).map(float), gpus=st.integers(0, 2).map(float)), max_size=4)


@given(there=nodes_st, groups=st.integers(1, 20))
def test_what_is_told_to_wait_is_what_has_no_room(there: Sequence[Node], groups: int) -> None:
    cluster = Cluster()
    cluster.nodes = list(there)
    waiting = groups - groups_that_fit(NEED, there)

    told = cluster.passes(6, groups)

    assert (told != []) == (waiting > 0)
    if told:
        assert f"waiting for nodes: {waiting} run" in told[0]


@given(there=nodes_st, may_add=nodes_st)
def test_a_cluster_grows_to_what_is_there_and_what_may_come_without_counting_a_node_twice(
    there: Sequence[Node], may_add: Sequence[Node]
) -> None:
    grown = with_growth(there, may_add)

    for node in {*there, *may_add}:
        assert grown.count(node) == max(there.count(node), may_add.count(node))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([], "no nodes with CPUs"),
        ([Node(1, 0)], "1 node with 1 CPU"),
        ([Node(8, 1), Node(8, 1)], "2 nodes with 16 CPUs and 2 GPUs"),
    ],
)
def test_nodes_in_words(nodes: list[Node], words: str) -> None:
    assert in_words(nodes) == words
