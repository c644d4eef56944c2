"""``leader resign --to``: who may be named, and that the others let it go first, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from celery_safe_leader._core.options import Options
from celery_safe_leader._store.keys import BEAT, ElectionKeys
from celery_safe_leader.leader import SafeLeader, build_leader
from tests.integration.operations.commands import Found, invoke
from tests.integration.operations.test_candidates_shown import HOLDER, Crowd
from tests.support.processes import wait_until
from tests.support.servers import ExternalServer, Server
from tests.support.servers.rights import printed, user_with

WAIT = 0.5


@pytest.fixture
def crowd(shared_server: ExternalServer, key: str) -> Crowd:
    crowd = Crowd(shared_server, key)
    crowd.write()
    crowd.say(HOLDER, token=1_790_000_000_000)
    return crowd


@pytest.fixture
def resign(shared_server: ExternalServer, key: str) -> Callable[..., Found]:
    return lambda to: invoke(shared_server.url, key, "resign", "--by", "ann", "--to", to)


def test_only_one_that_takes_part_can_be_named(
    crowd: Crowd, resign: Callable[..., Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.say("web-2:7:x", ago=12.0, every=0.2, ttl=0.2)
    crowd.say("web-3:7:x")
    crowd.say("web-3:8:y")
    for named, words in (
        ("nobody", "no candidate nobody takes part"),
        ("web-3", "is the beginning of several: web-3:"),
        ("web-2:7:x", "which is more than its ttl of 0.2 s"),
        ("\x1b[2J", "no candidate \\x1b[2J takes part"),
    ):
        found = resign(named)
        assert (found.code, words in found.output) == (1, True), found.output
        assert "Nothing was asked" in " ".join(found.output.split())
    for named in (HOLDER, "host:1"):
        found = resign(named)
        assert (found.code, "holds the lease already" in found.output) == (0, True)
    assert crowd.client.llen(crowd.keys.ask) == 0


def test_of_a_leader_and_a_standby_that_begin_alike_the_standby_is_meant(
    crowd: Crowd, resign: Callable[..., Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_safe_leader._operations.resign_command.RESIGN_WITHIN_US", 100_000)
    crowd.say("host:2:x")
    crowd.say("host:3:gone", ago=40.0)
    found = resign("host:")
    assert (found.code, f"beat {HOLDER} (token" in found.output) == (2, True), "it was asked"
    crowd.say("host:4:y")
    found = resign("host:")
    assert (found.code, "is the beginning of several: host:" in found.output) == (1, True)


def test_without_a_role_nobody_but_a_beat_or_its_worker_is_asked(
    shared_server: ExternalServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_safe_leader._operations.resign_command.RESIGN_WITHIN_US", 100_000)

    def asked(*words: str) -> tuple[int, str]:
        found = invoke(shared_server.url, key, "resign", *words)
        return found.code, " ".join(found.output.split())

    library = Crowd(shared_server, key, "")
    library.write()
    code, output = asked()
    assert (code, f"{HOLDER} leads {key}, and is a candidate of the library" in output) == (1, True)
    worker = Crowd(shared_server, key, "worker")
    worker.write(resigned="1")
    assert "a candidate of the library" in asked()[1]
    worker.write()
    code, output = asked()
    assert (code, f"no beat leads {key}. Worker {HOLDER} leads the workers" in output) == (1, True)
    assert worker.client.llen(worker.keys.ask) == 0
    code, output = asked("--role", "worker")
    assert (code, f"worker {HOLDER} (token" in output) == (2, True)
    worker.say(HOLDER, token=1_790_000_000_000, beat=True)
    code, output = asked()
    assert (code, f"worker {HOLDER} (token" in output) == (2, True), "it keeps the beat"


def test_an_operator_may_name_one(valkey_server: Server) -> None:
    crowd = Crowd(valkey_server, "shop")
    crowd.write()
    operator = user_with(valkey_server, printed("shop")[2])
    assert "no candidate x takes part" in invoke(operator, "shop", "resign", "--to", "x").output
    blind = [word for word in printed("shop")[2] if word != b"+hscan"]
    found = invoke(user_with(valkey_server, blind), "shop", "resign", "--to", "x")
    assert (found.code, "it cannot be seen who takes part" in found.output) == (2, True)


@pytest.fixture
def fleet(shared_server: ExternalServer, key: str) -> Iterator[list[SafeLeader]]:
    """Four candidates, of which the first leads; the lease outlasts the test."""
    with ExitStack() as stack:
        leaders: list[SafeLeader] = []
        for _ in range(4):
            options = Options(2.0 if not leaders else 30.0, WAIT)
            leader = build_leader(shared_server.url, ElectionKeys(key, BEAT), options, {})
            leaders.append(stack.enter_context(leader))
            leaders[0].wait_until_leader(60)
        wait_until(lambda: all(e.standing.leader for e in leaders), 30, "all have looked")
        yield leaders


def hand_over(fleet: list[SafeLeader], successor: str) -> tuple[SafeLeader, float]:
    """Let the leader resign in somebody's favour; return who leads then, and after how long."""
    (leader,) = [each for each in fleet if each.is_leader]
    began = time.monotonic()
    leader.hand_over("requested", successor)
    elected: list[SafeLeader] = []

    def led() -> bool:
        elected[:] = [each for each in fleet if each.is_leader]
        return bool(elected)

    wait_until(led, 60, "somebody leads", interval=0.005)
    took = time.monotonic() - began
    leader.elect()
    leader.campaign_in_time()
    return elected[0], took


def test_the_others_let_it_go_first(fleet: list[SafeLeader]) -> None:
    for place in (3, 1, 2, 3, 1):
        elected, _ = hand_over(fleet, fleet[place].candidate_id)
        assert elected is fleet[place]


def test_for_one_wait_and_no_longer(fleet: list[SafeLeader], shared_server: Any, key: str) -> None:
    _, took = hand_over(fleet, "dead:1:x")
    assert took >= 0.9 * WAIT
    client, lease = shared_server.client(), ElectionKeys(key, BEAT).lease
    assert client.hlen(lease) == 6, "the next leader has no successor"
    _, took = hand_over(fleet, "")
    assert client.hget(lease, "successor") is None
