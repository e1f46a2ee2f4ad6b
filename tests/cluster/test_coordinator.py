"""Who may train a run, and how a run ends whose worker cannot say so."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bench.cluster import shared, tasks
from bench.cluster.coordinator import Coordinator
from bench.cluster.tasks import RayContext, report_seconds
from bench.spec import Job, Outcome, Progress, Run, Saved, Status


def runs_of(make_job: Callable[..., Job], count: int) -> list[Run]:
    return list(make_job("cnn", seeds=tuple(range(count))).runs())


def outcomes(events: list[Any]) -> dict[str, tuple[Status, str | None]]:
    return {
        event.run_id: (event.measured.status, event.measured.reason) for event in events if isinstance(event, Outcome)
    }


def test_a_run_whose_worker_is_lost_begins_again_until_its_failures_are_used_up(make_job: Callable[..., Job]) -> None:
    (run,) = runs_of(make_job, 1)

    async def story() -> list[Any]:
        coordinator = Coordinator({}, max_failures=2)
        assert [await coordinator.begin(run, "node", pid) for pid in range(5)] == [True, True, True, False, False]
        return await coordinator.take(0)

    events = asyncio.run(story())
    assert [event.attempt for event in events if not isinstance(event, Outcome)] == [1, 2, 3]
    status, reason = outcomes(events)[run.id]
    assert status is Status.FAILED
    assert reason == "its worker was lost, 3 times: the process died, or its machine did"


def test_a_worker_that_asks_twice_makes_one_attempt(make_job: Callable[..., Job]) -> None:
    (run,) = runs_of(make_job, 1)

    async def story() -> list[Any]:
        coordinator = Coordinator({}, max_failures=0)
        assert [await coordinator.begin(run, "node", 7) for _ in range(3)] == [True, True, True]
        return await coordinator.take(0)

    assert [event.attempt for event in asyncio.run(story())] == [1]


def test_a_run_has_one_outcome_and_does_not_begin_after_it(make_job: Callable[..., Job]) -> None:
    (run,) = runs_of(make_job, 1)

    async def story() -> list[Any]:
        coordinator = Coordinator({}, 2)
        await coordinator.begin(run, "node", 1)
        await coordinator.end(run, Status.TIMEOUT, "too long")
        await coordinator.end(run, Status.FAILED, "its worker was killed")
        assert not await coordinator.begin(run, "node", 2)
        assert await coordinator.status(run.id) is Status.TIMEOUT
        return await coordinator.take(0)

    assert outcomes(asyncio.run(story())) == {run.id: (Status.TIMEOUT, "too long")}


def test_what_was_being_trained_ends_and_the_other_runs_of_the_group_go_on(make_job: Callable[..., Job]) -> None:
    first, second, third = runs_of(make_job, 3)

    async def story() -> tuple[list[Run], list[Any]]:
        coordinator = Coordinator({}, 2)
        await coordinator.begin(first, "node", 1)
        await coordinator.end(first, Status.OK, "")
        await coordinator.begin(second, "node", 1)
        await coordinator.end_active([first, second, third], Status.OOM, "no memory")
        return await coordinator.unfinished([first, second, third]), await coordinator.take(0)

    unfinished, events = asyncio.run(story())
    assert unfinished == [third]
    assert outcomes(events)[second.id] == (Status.OOM, "no memory")


def test_a_group_that_never_began_ends_its_first_run_so_that_it_cannot_go_round_for_ever(
    make_job: Callable[..., Job],
) -> None:
    first, second = runs_of(make_job, 2)

    async def story() -> list[Run]:
        coordinator = Coordinator({}, 2)
        await coordinator.end_active([first, second], Status.OOM, "no memory")
        return await coordinator.unfinished([first, second])

    assert asyncio.run(story()) == [second]


def test_nothing_begins_after_the_command_is_ending(make_job: Callable[..., Job]) -> None:
    (run,) = runs_of(make_job, 1)

    async def story() -> bool:
        coordinator = Coordinator({}, 2)
        await coordinator.close()
        return await coordinator.begin(run, "node", 1)

    assert not asyncio.run(story())


def test_of_a_run_s_progress_in_an_epoch_the_driver_takes_the_latest() -> None:
    def at(run: str, epoch: int, images: int) -> Progress:
        return Progress(run, epoch, 2, images, 200)

    async def story() -> list[Any]:
        coordinator = Coordinator({}, 2)
        for event in (
            at("a", 1, 10),
            at("b", 1, 5),
            at("a", 1, 100),
            Saved("a", b"state"),
            at("a", 2, 110),
            at("a", 2, 120),
            at("a", 2, 200),
            replace(at("a", 2, 200), phase="testing"),
        ):
            await coordinator.put(event)
        return await coordinator.take(0)

    last = [at("a", 2, 200), replace(at("a", 2, 200), phase="testing")]
    assert asyncio.run(story()) == [at("b", 1, 5), at("a", 1, 100), Saved("a", b"state"), *last]


def test_the_end_of_an_epoch_is_not_lost_when_older_progress_arrives_after_it() -> None:
    def at(images: int) -> Progress:
        return Progress("a", 1, 2, images, 200)

    async def story() -> list[Any]:
        coordinator = Coordinator({}, 2)
        for event in (at(50), at(100), at(90)):
            await coordinator.put(event)
        return await coordinator.take(0)

    assert at(100) in asyncio.run(story())


def test_a_worker_waits_until_the_end_of_an_epoch_has_arrived_and_for_no_other_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited_for: list[Any] = []
    monkeypatch.setattr(tasks, "asked", lambda method, *arguments: waited_for.extend(arguments))
    sent: list[Any] = []
    coordinator = types.SimpleNamespace(put=types.SimpleNamespace(remote=sent.append))
    context = RayContext(coordinator, rank=0, world_size=1, device="cpu", threads=1, report_seconds=1)
    middle, end = Progress("a", 1, 2, 50, 200), Progress("a", 1, 2, 100, 200)

    for progress in (middle, end, replace(end, phase="testing")):
        context.report(progress)

    assert waited_for == [end]
    assert sent == [middle, replace(end, phase="testing")]


def test_the_more_workers_report_the_rarer_each_does() -> None:
    assert [report_seconds(count) for count in (1, 100, 250, 1000, 10_000)] == [0.5, 0.5, 0.5, 2.0, 20.0]


class Kept:
    """Storage that a worker writes to itself, for as long as it works."""

    def __init__(self, works: bool) -> None:
        self.works, self.states = works, {"a run": b"stored"}

    def save(self, run_id: str, state: bytes) -> bool:
        if self.works:
            self.states[run_id] = state
        return self.works

    def load(self, run_id: str) -> bytes | None:
        return self.states.get(run_id)

    def keep(self, run: Run, outcome: Outcome) -> Outcome:
        return outcome


class Remote:
    """A coordinator that answers at once."""

    def __init__(self) -> None:
        self.sent: dict[str, bytes] = {}
        self.put = self.state = self
        self.remote = lambda about: self.sent.get(about) if isinstance(about, str) else self._take(about)

    def _take(self, saved: Any) -> None:
        self.sent[saved.run_id] = saved.state


@pytest.mark.parametrize("works", [True, False], ids=["storage that works", "storage that does not"])
def test_a_state_goes_to_the_storage_and_only_if_that_fails_to_the_coordinator(
    works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "asked", lambda method, *arguments: method.remote(*arguments))
    coordinator, storage = Remote(), Kept(works)
    context = RayContext(coordinator, rank=0, world_size=1, device="cpu", threads=1, report_seconds=1, storage=storage)
    assert context.load("a run") == b"stored"

    context.save("a run", b"later")

    assert coordinator.sent == ({} if works else {"a run": b"later"})
    assert context.load("a run") == b"later"
    assert context.load("another run") is None


def test_a_call_that_is_not_answered_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, float]] = []

    def answer(reference: str, seconds: float) -> str:
        calls.append((reference, seconds))
        if len(calls) < 3:
            raise TimeoutError
        return reference

    monkeypatch.setattr(shared, "answer_of", answer)

    assert shared.asked(types.SimpleNamespace(remote=lambda word: word), "begin") == "begin"
    assert calls == [("begin", 30.0), ("begin", 60.0), ("begin", 120.0)]
