"""What the election may cost at most: a look, a renewal, a standby, a handover among a thousand."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from benchmarks.election import cost_of_is_leader, handovers, requests
from celery_safe_leader import create_safe_redis_leader
from tests.integration.library.shells import Shell
from tests.support.servers import Server

pytestmark = pytest.mark.quiet


def test_a_look_at_is_leader_takes_less_than_two_microseconds(terms: dict[str, Any]):
    with create_safe_redis_leader(**terms) as leader:
        leader.wait_until_leader(5)
        assert cost_of_is_leader(leader) < 2e-6


def test_a_renewal_is_one_command_and_a_standby_sends_two_each_wait(
    start_candidate: Callable[..., Shell], start_server: Callable[..., Server], key: str
):
    server = start_server()
    ttl, wait, seconds = 0.9, 0.25, 3.0
    leader = start_candidate(redis=server.url, key=key, ttl=ttl, wait=wait)
    leader.elect()
    leader.wait_until_leader(5)
    requests(server, ttl)  # the server learns the scripts
    renewals = requests(server, seconds)
    assert set(renewals) == {"evalsha"}, renewals
    assert 0 < renewals["evalsha"] <= seconds / (ttl / 3) + 1

    standby = start_candidate(redis=server.url, key=key, ttl=ttl, wait=wait)
    standby.elect()
    both = requests(server, seconds)
    assert set(both) == {"evalsha", "blpop"}, both
    looks = both["evalsha"] - renewals["evalsha"]
    assert both["blpop"] <= seconds / wait + 1
    assert 0 < looks <= seconds / wait + 2
    assert leader.leader.is_leader
    assert not standby.leader.is_leader


@pytest.mark.timeout(120)
def test_a_handover_among_a_thousand_is_no_stampede(start_server: Callable[..., Server]):
    done = handovers(start_server(), 1000)
    assert median(each.seconds for each in done) <= 0.050, done
    assert median(each.server_cpu for each in done) <= 0.050, done
