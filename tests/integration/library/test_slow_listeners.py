"""Listeners that take their time delay neither renewal nor demotion."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from celery_safe_leader import create_async_safe_redis_leader
from celery_safe_leader._core.state import State
from tests.integration.library.shells import AsyncioShell, Shell
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

Start = Callable[..., Shell]
Cancelled = asyncio.CancelledError


class Slow:
    """A listener of ``elected`` that takes its time, each library's own way, until it is let go."""

    def __init__(self, shell: Shell) -> None:
        self.called, self.ended = threading.Event(), threading.Event()
        self._may_end = threading.Event()
        is_asyncio = isinstance(shell, AsyncioShell)
        self.listener: Any = self._wait_async if is_asyncio else self._wait
        shell.leader.on("elected", self.listener)

    def _wait(self, _: Any) -> None:
        self.called.set()
        assert self._may_end.wait(60)
        self.ended.set()

    async def _wait_async(self, _: Any) -> None:
        self.called.set()
        assert await asyncio.to_thread(self._may_end.wait, 60)
        self.ended.set()

    def let_go(self) -> None:
        self._may_end.set()
        assert self.ended.wait(30)


def test_renewals_go_on_beside_a_slow_listener(
    start_candidate: Start, terms: dict[str, Any], quick_server: Server
):
    one = start_candidate(**{**terms, "ttl": 1.5})
    slow = Slow(one)
    one.elect()
    token = one.wait_until_leader(30)
    assert slow.called.wait(30)
    lease, client = f"{{leader:{terms['key']}}}:lease", quick_server.client()
    renewals = set()

    def renewed() -> bool:
        assert one.leader.fencing_token == token
        renewals.add(client.hget(lease, "renewal"))
        return len(renewals) > 5

    # Two leases' time and more.
    wait_until(renewed, 60, lambda: f"renewals, there were {len(renewals)}")
    assert not slow.ended.is_set()
    slow.let_go()


def test_leadership_ends_on_time_beside_a_slow_listener(
    start_candidate: Start, proxy: Proxy, key: str
):
    one = start_candidate(redis=proxy.url(), key=key, ttl=0.9, wait=0.2)
    slow = Slow(one)
    one.elect()
    one.wait_until_leader(30)
    assert slow.called.wait(30)
    proxy.black_hole()
    time.sleep(one.leader.remaining + 0.02)
    assert not one.leader.is_leader
    assert one.leader.fencing_token is None
    assert not slow.ended.is_set()
    slow.let_go()


def test_stop_does_not_wait_for_a_slow_listener(start_candidate: Start, terms: dict[str, Any]):
    one = start_candidate(**terms)
    slow = Slow(one)
    one.elect()
    one.wait_until_leader(30)
    assert slow.called.wait(30)
    one.stop()
    assert not slow.ended.is_set()
    assert not one.leader.is_leader
    slow.let_go()
    wait_until(lambda: one.named("demoted"), what="told once the listener was through")


def test_a_listener_may_stop_the_candidate(start_candidate: Start, terms: dict[str, Any]):
    one = start_candidate(**terms)
    if isinstance(one, AsyncioShell):
        library = one.leader

        async def resign(_: Any) -> None:
            await library.stop()  # type: ignore[attr-defined]

        one.leader.once("elected", resign)
    else:
        one.leader.once("elected", lambda _: one.stop())
    one.elect()
    wait_until(lambda: one.named("demoted"), 30)
    assert not one.leader.active
    one.elect()
    one.wait_until_leader(30)


def test_a_listener_may_shut_the_candidate_down(start_candidate: Start, terms: dict[str, Any]):
    one = start_candidate(**terms)
    if isinstance(one, AsyncioShell):
        library = one.leader

        async def end(_: Any) -> None:
            await library.shutdown()  # type: ignore[attr-defined]

        one.leader.once("elected", end)
    else:
        one.leader.once("elected", lambda _: one.shutdown())
    one.elect()
    wait_until(lambda: one.named("demoted"), 30)
    assert "closed" in repr(one.leader)


def test_tenures_are_told_in_order_and_never_two_at_a_time(
    start_candidate: Start, terms: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    one = start_candidate(**terms)
    one.leader.remove_all_listeners()
    slow = Slow(one)
    told, inside, most = list[tuple[str, int]](), list[int](), list[int]()

    def note(name: str) -> Callable[[Any], None]:
        def listener(event: Any) -> None:
            inside.append(1)
            most.append(len(inside))
            told.append((name, event.fencing_token))
            time.sleep(0.001)
            inside.pop()

        return listener

    one.leader.on("elected", note("elected"))
    one.leader.on("demoted", note("demoted"))
    tokens = []
    for _ in range(4):
        one.elect()
        tokens.append(one.wait_until_leader(30))
        assert slow.called.wait(30)
        one.stop()
        assert not one.leader.active
    assert told == []
    one.leader.off("elected", slow.listener)
    slow.let_go()
    expected = [(name, token) for token in tokens for name in ("elected", "demoted")]
    wait_until(lambda: len(told) == len(expected), 30, lambda: str(told))
    assert told == expected
    assert max(most) == 1
    assert "Traceback" not in caplog.text


class Leaving(BaseException):
    """Neither an error nor an exit."""


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, Leaving])
def test_whatever_a_listener_raises_later_events_are_told(
    start_blocking: Start, terms: dict[str, Any], kind: type[BaseException],
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    one = start_blocking(**terms)

    def leave(_: Any) -> None:
        raise kind("out of here")

    one.leader.remove_all_listeners()
    one.leader.on("elected", leave)
    one.leader.on("demoted", leave)
    one.listen()
    for turn in range(1, 3):
        one.elect()
        one.wait_until_leader(30)
        one.stop()
        wait_until(lambda n=turn: len(one.named("demoted")) == n)  # type: ignore[misc]
    assert [name for name, _, _ in one.events] == ["elected", "demoted"] * 2
    assert "a listener of elected failed" in caplog.text
    assert "out of here" in caplog.text


@pytest.mark.parametrize("later", [True, False], ids=["coroutine", "function"])
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, Leaving, Cancelled])
def test_whatever_a_listener_raises_on_an_event_loop_later_events_are_told_if_it_goes_on(
    terms: dict[str, Any], kind: type[BaseException], later: bool
):
    told: list[str] = []
    heard = asyncio.Event()
    loop = asyncio.new_event_loop()
    leader = create_async_safe_redis_leader(**terms)

    async def leave_later(_: Any) -> None:
        raise kind("out of here")

    def leave(_: Any) -> None:
        raise kind("out of here")

    leader.once("elected", leave_later if later else leave)
    leader.on("elected", lambda _: told.append("elected"))
    leader.on("elected", lambda _: heard.set())
    leader.on("demoted", lambda _: told.append("demoted"))

    async def lead() -> None:
        await leader.elect()
        await leader.wait_until_leader(30)
        await heard.wait()

    async def end() -> None:
        await leader.stop()
        await leader.elect()
        await leader.wait_until_leader(30)
        await leader.shutdown()

    try:
        task = loop.create_task(lead())
        ends_loop = issubclass(kind, (SystemExit, KeyboardInterrupt))
        if ends_loop:
            # As from any task.
            with pytest.raises(kind, match="out of here"):
                loop.run_until_complete(task)
        loop.run_until_complete(task)
        loop.run_until_complete(end())
    finally:
        loop.close()
    assert told == ["elected", "demoted"] * 2


def test_a_listener_that_does_not_return_is_named_and_the_lease_ends_on_time(
    start_candidate: Start, proxy: Proxy, key: str, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr("celery_safe_leader._runtime.teller.PATIENCE", 0.1)
    monkeypatch.setattr("celery_safe_leader._runtime.aio.PATIENCE", 0.1)
    one = start_candidate(redis=proxy.url(), key=key, ttl=0.9, wait=0.2)
    slow = Slow(one)
    one.elect()
    one.wait_until_leader(30)
    assert slow.called.wait(30)
    wait_until(lambda: "has not returned" in caplog.text)
    said = caplog.records[0].getMessage()
    assert said.startswith(f"Election {key!r}: ")
    assert "_wait" in said
    assert f" ({__file__}:" in said
    proxy.black_hole()
    # By the candidate's state, not only by the clock: no request need come back for that.
    wait_until(lambda: one.leader._candidate.state is State.STANDBY, 30)
    assert one.named("demoted") == []
    slow.let_go()
    wait_until(lambda: one.named("demoted"))
    assert caplog.text.count("has not returned") == 1
