"""What a run gets depends on the machine alone, every run is placed once, and what can never fit is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.cluster.placement import MOST_DEFAULT_CPUS, Group, Need, Node, groups_that_fit, place
from bench.errors import DoesNotFitError
from bench.spec import Job


@pytest.fixture(scope="session")
def jobs_of(make_job: Callable[..., Job]) -> Callable[..., list[Job]]:
    """Jobs of as many models as numbers of seeds are given."""

    def jobs(*seeds: int, workers: int = 1) -> list[Job]:
        return [
            make_job(f"model{number}", workers=workers, seeds=tuple(range(count))) for number, count in enumerate(seeds)
        ]

    return jobs


def in_short(groups: Sequence[Group]) -> list[tuple[int, int, int]]:
    """(seeds, workers, CPUs of each worker) of each group."""
    return [(len(group.runs), group.need.workers, group.need.cpus) for group in groups]


def at_once(groups: Sequence[Group], nodes: Sequence[Node]) -> int:
    return min(len(groups), groups_that_fit(groups[0].need, nodes))


# --- examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cpus", "each"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (16, 4), (64, 4)])
@pytest.mark.parametrize("seeds", [[1], [1, 1], [5, 1], [1] * 10])
def test_a_run_gets_half_of_the_machine_whatever_else_is_trained(
    cpus: int, each: int, seeds: list[int], jobs_of: Callable[..., list[Job]]
) -> None:
    groups = place(jobs_of(*seeds), [Node(cpus, 0)])

    assert in_short(groups) == [(1, 1, each)] * sum(seeds)


def test_the_smallest_node_decides(jobs_of: Callable[..., list[Job]]) -> None:
    assert in_short(place(jobs_of(1), [Node(0, 0), Node(16, 0), Node(4, 0)])) == [(1, 1, 2)]


@pytest.mark.parametrize(
    ("workers", "cpus", "expected"),
    [(2, 2, [(1, 2, 1)]), (2, 8, [(1, 2, 4)]), (2, 4, [(1, 2, 2)]), (4, 4, [(1, 4, 1)])],
)
def test_the_workers_of_a_run_get_as_much_if_that_fits_and_else_one_cpu(
    workers: int, cpus: int, expected: list[tuple[int, int, int]], jobs_of: Callable[..., list[Job]]
) -> None:
    assert in_short(place(jobs_of(1, workers=workers), [Node(cpus, 0)])) == expected


def test_runs_with_several_workers_share_as_many_groups_as_fit(jobs_of: Callable[..., list[Job]]) -> None:
    groups = place(jobs_of(5, 2, workers=2), [Node(8, 0)], cpus_per_worker=1)

    assert [(group.runs[0].model, len(group.runs)) for group in groups] == [
        ("model0", 2),
        ("model1", 2),
        ("model0", 2),
        ("model0", 1),
    ]


def test_cpus_that_were_asked_for_are_given(jobs_of: Callable[..., list[Job]]) -> None:
    groups = place(jobs_of(1, 1, 1), [Node(8, 0)], cpus_per_worker=3)

    assert in_short(groups) == [(1, 1, 3)] * 3
    assert at_once(groups, [Node(8, 0)]) == 2


def test_runs_take_turns_on_one_gpu(jobs_of: Callable[..., list[Job]]) -> None:
    nodes = [Node(8, 1)]
    groups = place(jobs_of(1, 1), nodes)

    assert [group.need.gpus for group in groups] == [1, 1]
    assert at_once(groups, nodes) == 1


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1), (0.5, 2), (0.4, 2), (0.25, 4)])
def test_runs_that_ask_for_a_part_of_a_gpu_share_it(
    share: float, expected: int, jobs_of: Callable[..., list[Job]]
) -> None:
    nodes = [Node(8, 1)]
    groups = place(jobs_of(*[1] * 5), nodes, gpus_per_worker=share)

    assert at_once(groups, nodes) == expected


def test_a_run_stays_on_the_cpu_if_no_gpu_is_asked_for(jobs_of: Callable[..., list[Job]]) -> None:
    groups = place(jobs_of(1, 1), [Node(8, 2)], gpus_per_worker=0)

    assert [(group.need.cpus, group.need.gpus) for group in groups] == [(4, 0), (4, 0)]


def test_every_gpu_of_several_nodes_is_used(jobs_of: Callable[..., list[Job]]) -> None:
    nodes = [Node(8, 2), Node(8, 2)]
    groups = place(jobs_of(4, 1), nodes)

    assert at_once(groups, nodes) == 4
    assert {(group.need.cpus, group.need.gpus) for group in groups} == {(4, 1)}


@pytest.mark.parametrize(
    ("nodes", "workers", "asked", "named"),
    [
        ([Node(1, 0)], 2, {}, ["2 workers, each with 1 CPU ", "1 CPUs and 0 GPUs"]),
        ([Node(4, 0)], 1, {"cpus_per_worker": 5}, ["1 worker with 5 CPUs", "4 CPUs"]),
        ([Node(4, 0), Node(4, 0)], 1, {"cpus_per_worker": 5}, ["5 CPUs", "8 CPUs", "2 nodes", "4 CPUs"]),
        ([Node(4, 0)], 1, {"gpus_per_worker": 1.0}, ["1 GPU", "0 GPUs"]),
        ([Node(4, 1)], 2, {"gpus_per_worker": 1.0}, ["2 workers", "1 GPU", "1 GPUs"]),
        ([Node(4, 1)], 2, {}, ["2 workers", "1 GPU", "1 GPUs"]),
    ],
)
def test_what_can_never_fit_is_refused_naming_what_is_asked_and_what_there_is(
    nodes: list[Node], workers: int, asked: dict[str, Any], named: list[str], jobs_of: Callable[..., list[Job]]
) -> None:
    with pytest.raises(DoesNotFitError) as caught:
        place(jobs_of(1, workers=workers), nodes, **asked)

    message = str(caught.value)
    assert all(part in message for part in named), message
    assert all(option in message for option in ("--workers-per-job", "--cpus-per-worker", "--gpus-per-worker"))
    assert caught.value.exit_code == 3


def test_nothing_to_do_needs_no_place() -> None:
    assert place([], [Node(1, 0)]) == []


def test_jobs_take_turns_so_that_the_first_results_are_of_all_of_them(jobs_of: Callable[..., list[Job]]) -> None:
    groups = place(jobs_of(3, 1), [Node(2, 0)])

    assert [(run.model, run.seed) for group in groups for run in group.runs] == [
        ("model0", 0),
        ("model1", 0),
        ("model0", 1),
        ("model0", 2),
    ]


# --- whatever is asked for ----------------------------------------------------------------------------------------

nodes_st = st.lists(
    st.builds(Node, cpus=st.integers(0, 12).map(float), gpus=st.integers(0, 3).map(float)), min_size=1, max_size=4
)
seeds_st = st.lists(st.integers(1, 6), min_size=1, max_size=6)
asked_st = st.fixed_dictionaries(
    {
        "cpus_per_worker": st.none() | st.integers(1, 4),
        "gpus_per_worker": st.none() | st.sampled_from([0.0, 1.0, 0.5, 0.3, 0.6]),
    }
)


def is_fraction(asked: dict[str, Any]) -> bool:
    gpus = asked["gpus_per_worker"]
    return gpus is not None and gpus != int(gpus)


def rooms(need: Need, nodes: Sequence[Node]) -> int:
    """Counted one worker at a time: each takes CPUs of a node and a GPU, or a part of one GPU, of the same node."""
    total = 0
    for node in nodes:
        cpus, gpus = node.cpus, [1.0] * int(node.gpus)
        while cpus >= need.cpus and (not need.gpus or any(left >= need.gpus - 1e-9 for left in gpus)):
            cpus -= need.cpus
            if need.gpus:
                gpus[next(i for i, left in enumerate(gpus) if left >= need.gpus - 1e-9)] -= need.gpus
            total += 1
            if total > 1000:
                return total
    return total


@settings(max_examples=300)
@given(nodes=nodes_st, seeds=seeds_st, workers=st.integers(1, 3), asked=asked_st)
def test_every_run_is_placed_once_and_fits(
    nodes: list[Node], seeds: list[int], workers: int, asked: dict[str, Any], jobs_of: Callable[..., list[Job]]
) -> None:
    assume(workers == 1 or not is_fraction(asked))  # refused by the options
    jobs = jobs_of(*seeds, workers=workers)
    gpus = asked["gpus_per_worker"]
    if gpus is None:
        gpus = 1.0 if any(node.gpus for node in nodes) else 0.0
    smallest = Need(workers, asked["cpus_per_worker"] or 1, gpus)
    try:
        groups = place(jobs, nodes, **asked)
    except DoesNotFitError:
        assert rooms(smallest, nodes) < workers
        return

    placed = [run.id for group in groups for run in group.runs]
    assert sorted(placed) == sorted(run.id for job in jobs for run in job.runs())
    for group in groups:
        assert len({run.job_id for run in group.runs}) == 1
        assert group.need.workers == workers
        assert group.need.gpus == gpus
        assert group.need.cpus >= 1
        assert asked["cpus_per_worker"] in (None, group.need.cpus)
        assert rooms(group.need, nodes) >= workers


@given(nodes=nodes_st, seeds=seeds_st, others=seeds_st, workers=st.integers(1, 3), asked=asked_st)
def test_what_a_run_gets_does_not_depend_on_the_other_runs(
    nodes: list[Node],
    seeds: list[int],
    others: list[int],
    workers: int,
    asked: dict[str, Any],
    jobs_of: Callable[..., list[Job]],
) -> None:
    assume(workers == 1 or not is_fraction(asked))
    try:
        needs = {
            group.need for many in (seeds, others) for group in place(jobs_of(*many, workers=workers), nodes, **asked)
        }
    except DoesNotFitError:
        assume(False)

    (need,) = needs
    assert need.gpus or asked["cpus_per_worker"] or need.cpus <= MOST_DEFAULT_CPUS


@given(seeds=seeds_st, slots=st.integers(1, 6))
def test_a_jobs_seeds_are_spread_evenly(seeds: list[int], slots: int, jobs_of: Callable[..., list[Job]]) -> None:
    groups = place(jobs_of(*seeds, workers=2), [Node(2 * slots, 0)], cpus_per_worker=1)

    assert len(groups) >= min(slots, sum(seeds))
    for number, count in enumerate(seeds):
        sizes = [len(group.runs) for group in groups if group.runs[0].model == f"model{number}"]
        assert sum(sizes) == count
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("need", "words"),
    [
        (Need(1, 1, 0), "1 worker with 1 CPU"),
        (Need(1, 2, 0.5), "1 worker with 2 CPUs and 0.5 GPU"),
        (Need(3, 2, 1), "3 workers, each with 2 CPUs and 1 GPU"),
    ],
)
def test_a_need_in_words(need: Need, words: str) -> None:
    assert str(need) == words
