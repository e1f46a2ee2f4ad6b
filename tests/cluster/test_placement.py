"""The machine is full, nothing is booked twice, and what can never fit is refused at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.cluster.placement import Admission, Group, Need, Node, place, worth_moving
from bench.errors import DoesNotFitError
from bench.spec import Job

CPUS = {cpus: [Node(cpus, 0)] for cpus in (1, 2, 4, 8)}


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


def started_at_once(groups: Sequence[Group], nodes: Sequence[Node]) -> list[Group]:
    admission = Admission(nodes)
    return [group for group in groups if admission.admit(group.need)]


# --- examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "cpus", "expected"),
    [
        ([1], 8, [(1, 1, 8)]),
        ([1, 1], 2, [(1, 1, 1)] * 2),
        ([1, 1], 8, [(1, 1, 4)] * 2),
        ([1, 1, 1], 8, [(1, 1, 3), (1, 1, 3), (1, 1, 2)]),
        ([1] * 10, 2, [(1, 1, 1)] * 10),
        ([5], 2, [(3, 1, 1), (2, 1, 1)]),
        ([5], 1, [(5, 1, 1)]),
        ([5, 5], 2, [(5, 1, 1)] * 2),
        ([5, 1], 4, [(2, 1, 1), (2, 1, 1), (1, 1, 1), (1, 1, 1)]),
        ([2], 8, [(1, 1, 4)] * 2),
    ],
)
def test_cpus_are_shared_out(
    seeds: list[int], cpus: int, expected: list[tuple[int, int, int]], jobs_of: Callable[..., list[Job]]
) -> None:
    assert in_short(place(jobs_of(*seeds), CPUS[cpus])) == expected


@pytest.mark.parametrize(
    ("workers", "cpus", "expected"),
    [(2, 2, [(1, 2, 1)]), (2, 8, [(1, 2, 4)]), (2, 4, [(1, 2, 2)]), (4, 4, [(1, 4, 1)])],
)
def test_cpus_are_shared_out_among_the_workers_of_a_run(
    workers: int, cpus: int, expected: list[tuple[int, int, int]], jobs_of: Callable[..., list[Job]]
) -> None:
    assert in_short(place(jobs_of(1, workers=workers), CPUS[cpus])) == expected


@pytest.mark.parametrize(
    ("seeds", "nodes", "asked", "lend"),
    [
        ([1, 1], [Node(2, 0)], {}, True),
        ([1], [Node(2, 0)], {}, False),
        ([2], [Node(2, 0)], {}, True),
        ([2, 1], [Node(2, 0)], {}, False),
        ([1, 1], [Node(1, 0)], {}, False),
        ([1, 1], [Node(2, 0), Node(2, 0)], {}, False),
        ([1, 1], [Node(2, 0)], {"cpus_per_worker": 1}, False),
        ([1, 1], [Node(8, 2)], {}, False),
        ([1, 1], [Node(8, 2)], {"gpus_per_worker": 0}, True),
    ],
)
def test_runs_lend_each_other_cpus_where_nothing_waits_for_them(
    seeds: list[int], nodes: list[Node], asked: dict[str, Any], lend: bool, jobs_of: Callable[..., list[Job]]
) -> None:
    assert {group.lends for group in place(jobs_of(*seeds), nodes, **asked)} == {lend}


def test_the_workers_of_a_run_lend_nothing(jobs_of: Callable[..., list[Job]]) -> None:
    assert not any(group.lends for group in place(jobs_of(1, 1, workers=2), CPUS[8]))


def test_cpus_that_were_asked_for_are_given(jobs_of: Callable[..., list[Job]]) -> None:
    groups = place(jobs_of(1, 1, 1), CPUS[8], cpus_per_worker=3)

    assert in_short(groups) == [(1, 1, 3)] * 3
    assert len(started_at_once(groups, CPUS[8])) == 2


def test_runs_take_turns_on_one_gpu(jobs_of: Callable[..., list[Job]]) -> None:
    nodes = [Node(8, 1)]
    groups = place(jobs_of(1, 1), nodes)

    assert [group.need.gpus for group in groups] == [1, 1]
    assert len(started_at_once(groups, nodes)) == 1


@pytest.mark.parametrize(("share", "at_once"), [(1.0, 1), (0.5, 2), (0.4, 2), (0.25, 4)])
def test_runs_that_ask_for_a_part_of_a_gpu_share_it(
    share: float, at_once: int, jobs_of: Callable[..., list[Job]]
) -> None:
    nodes = [Node(8, 1)]
    groups = place(jobs_of(*[1] * 5), nodes, gpus_per_worker=share)

    assert len(started_at_once(groups, nodes)) == at_once


def test_a_run_stays_on_the_cpu_if_no_gpu_is_asked_for(jobs_of: Callable[..., list[Job]]) -> None:
    groups = place(jobs_of(1, 1), [Node(8, 2)], gpus_per_worker=0)

    assert [(group.need.cpus, group.need.gpus) for group in groups] == [(4, 0), (4, 0)]


def test_every_gpu_of_several_nodes_is_used(jobs_of: Callable[..., list[Job]]) -> None:
    nodes = [Node(8, 2), Node(8, 2)]
    groups = place(jobs_of(4, 1), nodes)

    assert len(started_at_once(groups, nodes)) == 4
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


def test_runs_keep_the_order_that_they_were_asked_for_in(jobs_of: Callable[..., list[Job]]) -> None:
    groups = place(jobs_of(5, 2), CPUS[2])

    assert [(run.model, run.seed) for group in groups for run in group.runs] == [
        *[("model0", seed) for seed in range(5)],
        *[("model1", seed) for seed in range(2)],
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


@settings(max_examples=300)
@given(
    nodes=nodes_st,
    seeds=seeds_st,
    workers=st.integers(1, 3),
    asked=asked_st,
    ended=st.lists(st.integers(0, 5), max_size=8),
)
def test_never_more_is_booked_than_there_is(
    nodes: list[Node],
    seeds: list[int],
    workers: int,
    asked: dict[str, Any],
    ended: list[int],
    jobs_of: Callable[..., list[Job]],
) -> None:
    assume(workers == 1 or not is_fraction(asked))
    try:
        waiting = place(jobs_of(*seeds, workers=workers), nodes, **asked)
    except DoesNotFitError:
        assume(False)
    admission, running = Admission(nodes), []
    for which in [*ended, None]:
        for group in [group for group in waiting if admission.admit(group.need)]:
            waiting.remove(group)
            running.append(group)
        assert running or not waiting  # something always goes on
        for kind in ("cpus", "gpus"):
            booked = sum(getattr(group.need, kind) * group.need.workers for group in running)
            assert booked <= sum(getattr(node, kind) for node in nodes) + 1e-9
        if len({group.need for group in running}) == 1:  # a worker stays on one node and on one GPU
            assert sum(group.need.workers for group in running) <= rooms(running[0].need, nodes)
        if running and which is not None:
            admission.release(running.pop(which % len(running)).need)


@given(cpus=st.integers(1, 64), seeds=seeds_st)
def test_a_machine_without_gpus_is_full(cpus: int, seeds: list[int], jobs_of: Callable[..., list[Job]]) -> None:
    """With fewer runs than CPUs, each has several; with more, each has one and the others wait."""
    groups = place(jobs_of(*seeds), [Node(cpus, 0)])

    started = started_at_once(groups, [Node(cpus, 0)])

    assert sum(group.need.cpus for group in started) == cpus
    assert max(group.need.cpus for group in groups) - min(group.need.cpus for group in groups) <= 1
    if sum(seeds) >= cpus:
        assert {group.need.cpus for group in groups} == {1}


@given(cpus=st.integers(1, 16), seeds=seeds_st)
def test_a_jobs_seeds_are_spread_evenly(cpus: int, seeds: list[int], jobs_of: Callable[..., list[Job]]) -> None:
    groups = place(jobs_of(*seeds), [Node(cpus, 0)])

    for number, count in enumerate(seeds):
        sizes = [len(group.runs) for group in groups if group.runs[0].model == f"model{number}"]
        assert sum(sizes) == count
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) <= math.ceil(cpus)


@given(
    nodes=nodes_st,
    needs=st.lists(
        st.builds(Need, workers=st.integers(1, 3), cpus=st.integers(1, 4), gpus=st.sampled_from([0.0, 0.5, 1.0])),
        max_size=20,
    ),
)
def test_what_is_released_can_be_admitted_again(nodes: list[Node], needs: list[Need]) -> None:
    admission = Admission(nodes)
    admitted = [need for need in needs if admission.admit(need)]

    for need in admitted:
        admission.release(need)

    assert [need for need in needs if admission.admit(need)] == admitted


def test_refused_needs_book_nothing() -> None:
    admission = Admission([Node(4, 1)])

    assert not admission.admit(Need(1, 5, 0))
    assert not admission.admit(Need(2, 1, 1))
    assert admission.admit(Need(2, 2, 0.5))
    assert not admission.admit(Need(1, 1, 0))


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


@given(st.integers(0, 1000), st.floats(0, 1e4), st.floats(0, 100))
def test_what_is_moved_never_makes_the_end_later(waiting: int, seconds_each: float, start_seconds: float) -> None:
    moved = worth_moving(waiting, seconds_each, start_seconds)

    assert 0 <= moved <= waiting / 2
    if moved:
        before = waiting * seconds_each
        assert max((waiting - moved) * seconds_each, start_seconds + moved * seconds_each) <= before * (1 + 1e-9)
