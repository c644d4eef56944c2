"""An asyncio candidate whose loop ends, or whose tasks are cancelled by somebody else."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import redis.asyncio

from celery_safe_leader import (
    AsyncSafeLeader,
    DemotionReason,
    LifecycleError,
    create_async_safe_redis_leader,
)
from celery_safe_leader._store.aio import _of_the_parent
from tests.support.processes.waiting import PATIENCE
from tests.support.servers import Server


@pytest.fixture
def _closed_under_it() -> Iterator[None]:
    """Collect the connections of a loop that was closed under them: Python complains of them."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for each in gc.get_objects():
            # Not isinstance: a proxy of Celery's would look up what it stands for.
            if issubclass(type(each), redis.asyncio.Connection):
                each._reader = each._writer = None
        _of_the_parent.clear()
        gc.collect()


@pytest.fixture
def leader(terms: dict[str, Any]) -> AsyncSafeLeader:
    # So long a lease that only one who resigned is ever succeeded.
    return create_async_safe_redis_leader(**{**terms, "ttl": 120.0})


@pytest.fixture
def events(leader: AsyncSafeLeader) -> list[tuple[str, int]]:
    """What was told, by name and token."""
    told: list[tuple[str, int]] = []
    leader.on("elected", lambda event: told.append(("elected", event.fencing_token)))
    leader.on("demoted", lambda event: told.append(("demoted", event.fencing_token)))
    return told


def resigned(server: Server, key: str) -> bool:
    return server.client().hget(f"{{leader:{key}}}:lease", "resigned") == "1"


async def lead(leader: AsyncSafeLeader) -> int:
    await leader.elect()
    return await leader.wait_until_leader(PATIENCE)


def run_and_leave(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run them on a loop, and close it whatever still runs there."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # tasks were destroyed that were pending
    try:
        return [loop.run_until_complete(each) for each in coroutines]
    finally:
        loop.close()


def test_a_loop_that_ends_in_order_hands_over_without_a_shutdown(
    leader: AsyncSafeLeader, events: list[tuple[str, int]], quick_server: Server, key: str
) -> None:
    token = asyncio.run(lead(leader))
    assert not leader.is_leader
    assert not leader.active
    assert resigned(quick_server, key)
    assert events == [("elected", token), ("demoted", token)]
    # And another loop may have it again.
    again = asyncio.run(lead(leader))
    assert again > token
    assert resigned(quick_server, key)


@pytest.mark.parametrize("which", ["all", "leader", "leader:events"])
@pytest.mark.parametrize("began", [True, False], ids=["at work", "not begun"])
@pytest.mark.parametrize("leads", [True, False], ids=["leader", "standby"])
def test_tasks_that_are_cancelled_from_outside_leave_an_idle_candidate(
    terms: dict[str, Any], key: str, which: str, leads: bool, began: bool
) -> None:
    told: list[Any] = []

    async def main() -> None:
        other = create_async_safe_redis_leader(**{**terms, "ttl": 120.0})
        if not leads:
            await lead(other)
        leader = create_async_safe_redis_leader(**{**terms, "ttl": 120.0})
        leader.on("demoted", told.append)
        await leader.elect()
        if leads and began:
            await leader.wait_until_leader(PATIENCE)
        elif began:
            await asyncio.sleep(0.2)
        waiter = asyncio.create_task(leader.wait_until_leader(PATIENCE))
        runner = leader._runner
        mine = {"leader": runner._task, "leader:events": runner._listener_task}
        tasks = [task for task in mine.values() if task is not None]
        chosen = tasks if which == "all" else [mine[which]]
        for task in chosen:
            assert task is not None
            task.cancel()
        await asyncio.wait(tasks, timeout=PATIENCE)
        assert not leader.active
        assert not leader.is_leader
        if leads and began:
            assert await waiter
        else:
            with pytest.raises(LifecycleError):
                await waiter
        assert [event.reason for event in told] == [DemotionReason.RESIGNED] * (leads and began)
        await other.shutdown()
        await leader.elect()
        await leader.wait_until_leader(PATIENCE)
        await leader.shutdown()

    asyncio.run(main())


@pytest.mark.usefixtures("_closed_under_it")
def test_a_second_loop_may_have_it_after_the_first_was_closed_under_it(
    leader: AsyncSafeLeader, events: list[tuple[str, int]]
) -> None:
    (first,) = run_and_leave(lead(leader))

    async def again() -> int:
        second = await lead(leader)
        await leader.shutdown()
        return second

    (second,) = run_and_leave(again())
    assert second > first
    assert events[-2:] == [("elected", second), ("demoted", second)]
    assert ("demoted", first) in events


@pytest.mark.usefixtures("_closed_under_it")
@pytest.mark.parametrize("verb", ["stop", "shutdown"])
def test_a_second_loop_may_end_it_after_the_first_was_closed_under_it(
    leader: AsyncSafeLeader, verb: str
) -> None:
    run_and_leave(lead(leader))
    assert leader.is_leader  # by its lease, which is true
    run_and_leave(getattr(leader, verb)())
    assert not leader.is_leader
    assert not leader.active


@pytest.mark.usefixtures("_closed_under_it")
def test_on_a_second_loop_it_does_not_take_part_by_itself(leader: AsyncSafeLeader) -> None:
    run_and_leave(lead(leader))
    with pytest.raises(LifecycleError):
        run_and_leave(leader.wait_until_leader(PATIENCE))


def test_each_shutdown_returns_at_the_end_of_the_first_one(
    leader: AsyncSafeLeader, quick_server: Server, key: str
) -> None:
    async def main() -> None:
        await lead(leader)
        may_end, store = asyncio.Event(), leader._runner._store
        execute = store.execute

        async def held_up(request: Any) -> Any:
            if type(request).__name__ == "Resign":
                await may_end.wait()
            return await execute(request)

        store.execute = held_up  # type: ignore[method-assign]
        first = asyncio.create_task(leader.shutdown(timeout=PATIENCE))
        second = asyncio.create_task(leader.shutdown(timeout=0.01))
        gone = asyncio.create_task(leader.shutdown())
        done, _ = await asyncio.wait({first, second}, timeout=0.3)
        assert not leader.is_leader
        assert done == set()
        gone.cancel()
        first.cancel()  # its caller gave up; the end goes on
        may_end.set()
        await second
        assert resigned(quick_server, key)

    asyncio.run(main())


def test_who_gives_up_waiting_leaves_nothing_behind(leader: AsyncSafeLeader) -> None:
    async def main() -> None:
        await leader.elect()
        for _ in range(200):
            waiter = asyncio.create_task(leader._runner.change())
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.wait({waiter})
        assert len(leader._runner._waiters) == 0
        await leader.shutdown()

    asyncio.run(main())
