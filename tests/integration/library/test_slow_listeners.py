"""Listeners that take their time delay neither renewal nor demotion."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.integration.library.shells import AsyncioShell, Shell
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

Start = Callable[..., Shell]


class Slow:
    """A listener of ``elected`` that takes its time, each library's own way, until it is let go."""

    def __init__(self, shell: Shell) -> None:
        self.called, self.ended = threading.Event(), threading.Event()
        self._may_end = threading.Event()
        is_asyncio = isinstance(shell, AsyncioShell)
        shell.leader.on("elected", self._wait_async if is_asyncio else self._wait)

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
