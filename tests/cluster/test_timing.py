"""One node of each kind is timed on: the largest of its kind, and the largest of all last."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from bench.cluster.placement import Node
from bench.cluster.timing import Place, one_of_each

places_st = st.lists(
    st.builds(
        Place,
        node=st.builds(Node, cpus=st.integers(1, 8).map(float), gpus=st.integers(0, 2).map(float)),
        kind=st.sampled_from("ABC"),
        node_id=st.uuids().map(str),
    )
)


def size(place: Place) -> tuple[float, float]:
    return place.node.gpus, place.node.cpus


@given(places_st)
def test_each_kind_is_there_once_by_its_largest_node_and_the_largest_of_all_is_last(places: Sequence[Place]) -> None:
    chosen = one_of_each(places)

    assert sorted(place.kind for place in chosen) == sorted({place.kind for place in places})
    for place in chosen:
        assert size(place) == max(size(other) for other in places if other.kind == place.kind)
    assert [size(place) for place in chosen] == sorted(size(place) for place in chosen)
