"""Who may train a run, and who is told of a lost worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bench.cluster.mailbox import Mailbox
from bench.spec import Job, Outcome, Run, Status


def runs_of(make_job: Callable[..., Job], count: int) -> list[Run]:
    return list(make_job("cnn", seeds=tuple(range(count))).runs())


def test_a_run_that_was_handed_over_is_the_other_groups(make_job: Callable[..., Job]) -> None:
    first, second, third = runs_of(make_job, 3)

    async def story() -> None:
        mailbox = Mailbox({}, 2)
        assert await mailbox.begin(first, "node", 1, first.id)
        assert await mailbox.hand_over([first.id, second.id, third.id]) == [second.id, third.id]
        assert not await mailbox.begin(second, "node", 1, first.id)
        assert await mailbox.begin(second, "node", 2, second.id)
        assert await mailbox.hand_over([second.id]) == []
        assert await mailbox.begin(first, "node", 3, first.id)  # again, after its worker was lost

    asyncio.run(story())


def test_a_lost_worker_ends_no_run_of_another_group(make_job: Callable[..., Job]) -> None:
    first, second = runs_of(make_job, 2)

    async def story() -> list[Any]:
        mailbox = Mailbox({}, 2)
        await mailbox.begin(first, "node", 1, first.id)
        await mailbox.hand_over([second.id])
        await mailbox.begin(second, "node", 2, second.id)
        await mailbox.worker_failed([first, second], Status.FAILED, "it broke")
        return await mailbox.take(0)

    ended = [event.record.run_id for event in asyncio.run(story()) if isinstance(event, Outcome)]
    assert ended == [first.id]
