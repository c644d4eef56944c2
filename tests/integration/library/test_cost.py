"""What the election may send at most: a look, a renewal, a standby, a handover among a thousand.

How long these take is measured by ``make bench``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from benchmarks.election import handovers, requests, requests_so_far
from celery_safe_leader import create_safe_redis_leader
from tests.integration.library.shells import Shell
from tests.support.candidates.resigned import leave_resigned
from tests.support.network.proxy import Proxy
from tests.support.servers import Server

LIMIT = 20
"""Requests to Redis in a handover, however many stand by."""


def test_a_look_at_is_leader_sends_nothing(
    start_server: Callable[..., Server], key: str, start_proxy: Callable[[Server], Proxy]
):
    server = start_server()
    leave_resigned(server.url, key)
    link = start_proxy(server)
    with create_safe_redis_leader(redis=link.url(), key=key, ttl=60, wait=60) as leader:
        leader.wait_until_leader(30)
        # Renewed is only after 20 s. And a question would get no answer.
        link.black_hole()
        before = requests_so_far(server)
        assert all(leader.is_leader for _ in range(10_000))
        assert requests_so_far(server) == before
        link.heal()


def test_a_renewal_is_one_command_and_a_standby_sends_two_each_wait(
    start_candidate: Callable[..., Shell], start_server: Callable[..., Server], key: str
):
    server = start_server()
    ttl, wait, seconds = 3.0, 0.25, 4.0
    leave_resigned(server.url, key)
    leader = start_candidate(redis=server.url, key=key, ttl=ttl, wait=wait)
    leader.elect()
    leader.wait_until_leader(30)
    requests(server, ttl)  # the server learns the scripts
    began = time.monotonic()
    renewals = requests(server, seconds)
    took = time.monotonic() - began
    assert set(renewals) == {"evalsha"}, renewals
    assert 0 < renewals["evalsha"] <= took / (ttl / 3) + 1

    standby = start_candidate(redis=server.url, key=key, ttl=ttl, wait=wait)
    standby.elect()
    began = time.monotonic()
    both = requests(server, seconds)
    took = time.monotonic() - began
    assert set(both) == {"evalsha", "blpop"}, both
    assert 0 < both["blpop"] <= took / wait + 1
    # The leader renews, and the standby looks, each with one command and never more often than so.
    assert renewals["evalsha"] < both["evalsha"] <= took / (ttl / 3) + took / wait + 2
    assert leader.leader.is_leader
    assert not standby.leader.is_leader


@pytest.mark.timeout(240)
def test_a_handover_among_a_thousand_is_no_stampede(start_server: Callable[..., Server]):
    done = handovers(start_server(), 1000, wait=300.0)
    # Three are woken. Each of them looks, one is elected, and who resigned takes part again. Nobody
    # else looks by itself within the 300 s.
    for each in done:
        assert each.requests <= LIMIT, done
