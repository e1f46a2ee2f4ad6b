"""CPUs of a run that ends before others: used by those that train on, none used twice, as it was planned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cluster.lending import Lending, threads_by_epoch
from bench.cluster.mailbox import Mailbox
from bench.spec import Cost, Job, Outcome, Record, Run, Status


def cost(epochs: int, epoch: float = 1.0, *, before: float = 0.0, after: float = 0.0) -> Cost:
    return Cost(before, epoch, epochs, after)


@pytest.mark.parametrize(
    ("costs", "cpus", "expected"),
    [
        ({"a": cost(5), "b": cost(5)}, 1, {"a": [1] * 5, "b": [1] * 5}),
        ({"a": cost(5), "b": cost(2)}, 1, {"a": [1, 1, 2, 2, 2], "b": [1, 1]}),
        ({"a": cost(5), "b": cost(5, 0.3)}, 1, {"a": [1, 1, 2, 2, 2], "b": [1] * 5}),
        ({"a": cost(5), "b": cost(1, before=1.5)}, 1, {"a": [1, 1, 1, 2, 2], "b": [1]}),
        ({"a": cost(5), "b": cost(1, after=1.5)}, 1, {"a": [1, 1, 1, 2, 2], "b": [1]}),
        ({"a": cost(1), "b": cost(3, 0.1)}, 1, {"a": [1], "b": [1, 1, 1]}),
        ({"a": cost(3), "b": cost(1, 0.5)}, 2, {"a": [2, 4, 4], "b": [2]}),
        ({"a": cost(3), "b": cost(1, 0.5)}, 4, {"a": [4, 4, 4], "b": [4]}),
        # the one that would be last gets the CPU; then both of the two that are left
        ({"a": cost(8), "b": cost(4), "c": cost(1)}, 1, {"a": [1] + [2] * 6 + [3], "b": [1] * 4, "c": [1]}),
        # a's first epoch has the threads that it began with, so that what b leaves is of no use to it
        (
            {"a": cost(1, 5.0, before=10.0), "b": cost(1, 0.4), "c": cost(3, 2.0)},
            1,
            {"a": [1], "b": [1], "c": [1, 2, 2]},
        ),
        ({"a": cost(3), "b": Cost.nothing()}, 1, {"a": [1, 2, 2], "b": []}),
    ],
)
def test_the_run_that_would_be_last_is_given_what_another_leaves(
    costs: dict[str, Cost], cpus: int, expected: dict[str, list[int]]
) -> None:
    assert threads_by_epoch(costs, dict.fromkeys(costs, cpus)) == expected


def ends(costs: dict[str, Cost], threads: dict[str, list[int]], cpus: dict[str, int]) -> dict[str, float]:
    """When each run ends."""
    moments = {}
    for name, one in costs.items():
        used = threads[name]
        last = used[-1] if used else cpus[name]
        moments[name] = one.before / cpus[name] + sum(one.epoch / each for each in used) + one.after / last
    return moments


@given(st.data())
def test_it_never_takes_longer_and_uses_no_cpu_twice(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
    sizes = st.floats(0.01, 100.0)
    costs = {name: Cost(data.draw(sizes), data.draw(sizes), data.draw(st.integers(1, 6)), 0.0) for name in names}
    cpus = {name: data.draw(st.integers(1, 6)) for name in names}
    threads = threads_by_epoch(costs, cpus)

    assert {name: len(used) for name, used in threads.items()} == {name: one.epochs for name, one in costs.items()}
    for name, used in threads.items():
        assert used == sorted(used)
        assert used[0] == cpus[name]
        assert used[-1] <= max(4, cpus[name])
    now, before = ends(costs, threads, cpus), ends(costs, {n: [cpus[n]] * costs[n].epochs for n in names}, cpus)
    assert all(now[name] <= before[name] * (1 + 1e-9) for name in names)
    # at the end of each run, those that are not done have no more threads than there are CPUs
    for moment in now.values():
        assert sum(in_use(costs[name], threads[name], cpus[name], moment) for name in names) <= sum(cpus.values())


def in_use(one: Cost, used: list[int], cpus: int, moment: float) -> int:
    """Threads of a run shortly after a moment."""
    moment *= 1 + 1e-9
    end = one.before / cpus
    if moment <= end:
        return cpus
    for threads in used:
        end += one.epoch / threads
        if moment <= end:
            return threads
    return 0


def failed(run: Run) -> Record:
    now = datetime.now(UTC)
    return Record.of(run, status=Status.FAILED, started_at=now, ended_at=now)


def test_a_run_that_fails_before_its_cost_is_known_holds_up_nobody(make_job: Callable[..., Job]) -> None:
    first, second = (make_job(model).runs()[0] for model in ("cnn", "mobilenet"))

    async def story() -> int | None:
        mailbox = Mailbox({}, 2)
        await mailbox.lend({first.id: 1, second.id: 1})
        await mailbox.costs(first.id, cost(3))
        asked = asyncio.create_task(mailbox.threads_in(first.id, 2, 60.0))
        await asyncio.sleep(0.01)
        assert not asked.done()
        await mailbox.put(Outcome(failed(second)))
        return await asyncio.wait_for(asked, 5)

    assert asyncio.run(story()) == 2


def test_a_run_waits_only_so_long_for_one_that_hangs_and_never_again(make_job: Callable[..., Job]) -> None:
    first, second = (make_job(model).runs()[0] for model in ("cnn", "mobilenet"))

    async def story() -> list[int | None]:
        mailbox = Mailbox({}, 2)
        await mailbox.lend({first.id: 1, second.id: 1})
        await mailbox.costs(first.id, cost(5))
        await mailbox.costs(second.id, cost(1))
        waited = await mailbox.threads_in(first.id, 2, 0.05)
        at_once = await asyncio.wait_for(mailbox.threads_in(first.id, 3, 3600.0), 5)
        await mailbox.put(Outcome(failed(second)))
        return [waited, at_once, await asyncio.wait_for(mailbox.threads_in(first.id, 4, 3600.0), 5)]

    assert asyncio.run(story()) == [1, 1, 2]


@pytest.mark.parametrize("begun_again", [True, False], ids=["begun again", "ended"])
def test_what_a_lost_worker_asked_for_is_void(begun_again: bool, make_job: Callable[..., Job]) -> None:
    first, second = (make_job(model).runs()[0] for model in ("cnn", "mobilenet"))

    async def story() -> tuple[int | None, int | None]:
        mailbox = Mailbox({}, 2)
        await mailbox.lend({first.id: 1, second.id: 1})
        await mailbox.begin(first, "node", 1, first.id)
        await mailbox.costs(first.id, cost(5))
        await mailbox.costs(second.id, cost(3))
        lost = asyncio.create_task(mailbox.threads_in(first.id, 4, 3600.0))
        await asyncio.sleep(0.01)
        if begun_again:
            await mailbox.begin(first, "node", 2, first.id)
        else:
            await mailbox.put(Outcome(failed(first)))
        found = await asyncio.wait_for(lost, 5)
        return found, await asyncio.wait_for(mailbox.threads_in(second.id, 2, 3600.0), 5)

    assert asyncio.run(story()) == (None, 1)


def test_what_a_run_says_first_counts() -> None:
    """Begun again after its worker was lost, it may have fewer epochs left; the others go by what they were told."""
    lending = Lending({"a": 1, "b": 1})
    for told in (cost(3), cost(9)):
        lending.tell("b", told)
        lending.tell("stranger", told)
    assert lending.ask("a", 1) is None
    lending.tell("a", cost(5))
    lending.end("b")

    assert [lending.ask("a", epoch) for epoch in range(1, 6)] == [1, 1, 1, 2, 2]


def test_a_run_waits_for_what_another_still_uses() -> None:
    lending = Lending({"a": 1, "b": 1})
    lending.tell("a", cost(3))
    lending.tell("b", cost(1))

    assert lending.ask("a", 2) is None
    lending.begin("b")  # its worker was lost
    assert lending.ask("a", 2) is None
    lending.end("b")
    assert lending.ask("a", 2) == 2


def test_runs_that_wait_for_each_other_go_on() -> None:
    """The longest was quicker than thought and took what was meant for another, which now waits for it as it does."""
    costs = {"a": cost(5, 3.0), "b": cost(1), "c": cost(5, 3.0), "d": cost(4, 3.0)}
    lending = Lending(dict.fromkeys(costs, 1))
    for name, one in costs.items():
        lending.tell(name, one)
    lending.end("b")

    assert [lending.ask("a", epoch) for epoch in (2, 3, 4)] == [1, 1, 2]
    assert (lending.ask("c", 2), lending.ask("d", 4)) == (None, None)
    assert lending.ask("a", 5) == 4


@given(st.data())
def test_whatever_order_the_runs_end_in_all_of_them_end(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
    costs = {name: cost(data.draw(st.integers(1, 5)), data.draw(st.floats(0.1, 10.0))) for name in names}
    cpus = {name: data.draw(st.integers(1, 3)) for name in names}
    lending = Lending(cpus)
    for name, one in costs.items():
        lending.tell(name, one)
    epochs = dict.fromkeys(names, 1)
    while epochs:
        ready = []
        for name in epochs:
            epoch = epochs[name] + 1
            if epoch > costs[name].epochs or lending.ask(name, epoch) is not None:
                ready.append(name)
        assert ready, "all wait"
        name = data.draw(st.sampled_from(ready))
        if epochs[name] == costs[name].epochs:
            lending.end(name)
            del epochs[name]
        else:
            epochs[name] += 1
