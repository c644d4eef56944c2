"""Listeners that take their time delay neither renewal nor demotion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tests.integration.library.shells import AsyncioShell, Shell
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until

Start = Callable[..., Shell]


def make_slow(shell: Shell, seconds: float) -> None:
    """Add a listener of ``elected`` that takes its time, each library's own way."""
    if isinstance(shell, AsyncioShell):

        async def slow(_: Any) -> None:
            await asyncio.sleep(seconds)

        shell.leader.on("elected", slow)
    else:
        shell.leader.on("elected", lambda _: time.sleep(seconds))


def test_renewals_go_on_beside_a_slow_listener(start_candidate: Start, terms: dict[str, Any]):
    one = start_candidate(**terms)
    make_slow(one, 1.5)
    one.elect()
    token = one.wait_until_leader(5)
    ends = time.monotonic() + 1.4
    while time.monotonic() < ends:
        assert one.leader.fencing_token == token
        time.sleep(0.005)


def test_leadership_ends_on_time_beside_a_slow_listener(
    start_candidate: Start, proxy: Proxy, key: str
):
    one = start_candidate(redis=proxy.url(), key=key, ttl=0.9, wait=0.2)
    make_slow(one, 3)
    one.elect()
    one.wait_until_leader(5)
    proxy.black_hole()
    time.sleep(one.leader.remaining + 0.02)
    assert not one.leader.is_leader
    assert one.leader.fencing_token is None


def test_stop_does_not_wait_for_a_slow_listener(start_candidate: Start, terms: dict[str, Any]):
    one = start_candidate(**terms)
    make_slow(one, 1.5)
    one.elect()
    one.wait_until_leader(5)
    time.sleep(0.05)
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < 0.3
    assert not one.leader.is_leader
    wait_until(lambda: one.named("demoted"), 3, "told once the listener was through")


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
    wait_until(lambda: one.named("demoted"), 5)
    assert not one.leader.active
    one.elect()
    one.wait_until_leader(2)


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
    wait_until(lambda: one.named("demoted"), 5)
    assert "closed" in repr(one.leader)
