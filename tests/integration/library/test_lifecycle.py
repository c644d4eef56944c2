"""Both libraries from elect() to shutdown(), on a real server."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from celery_safe_leader import DemotionReason, LifecycleError, create_safe_redis_leader
from tests.integration.library.shells import AsyncioShell, Shell
from tests.support.candidates.resigned import leave_resigned
from tests.support.processes.waiting import wait_until
from tests.support.servers import ExternalServer, Server

Start = Callable[..., Shell]


def sockets() -> int:
    """Count this process's sockets."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return count


def reading(server: Server) -> int:
    """Count the clients that are in a blocking read."""
    return sum(client["cmd"] == "blpop" for client in server.client().client_list())


def requests_to(server: Server, key: str) -> int:
    """Count the requests of elections that a server has had, those that are blocked left out."""
    stats: Any = server.client().info("commandstats")
    return sum(
        stats[name]["calls"] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats
    )


def clients_of(server: Server, name: str = "celery-safe-leader") -> int:
    return sum(client["name"] == name for client in server.client().client_list())


def test_a_candidate_alone_is_elected_and_hands_over(
    start_candidate: Start, shared_server: ExternalServer, key: str
):
    one = start_candidate(redis=shared_server.url, key=key, ttl=2.0, wait=0.1)
    assert (one.leader.is_leader, one.leader.fencing_token, one.leader.remaining) == (
        False,
        None,
        0,
    )
    one.elect()
    began = time.monotonic()
    token = one.wait_until_leader(30)
    assert time.monotonic() - began >= 1.9, "a first election waits for a lease that may be there"
    assert one.leader.is_leader
    assert one.leader.fencing_token == token > 0
    assert 0 < one.leader.remaining <= 2.0
    assert shared_server.client().hget(f"{{leader:{key}}}:lease", "holder") == (
        one.leader.candidate_id
    )
    two = start_candidate(redis=shared_server.url, key=key, ttl=2.0, wait=300)
    two.elect()
    time.sleep(2.2)
    assert one.leader.fencing_token == token
    assert not two.leader.is_leader
    one.stop()
    assert not one.leader.is_leader
    # By itself it would look again after 300 s.
    assert two.wait_until_leader(30) > token, "the standby slept on, though it was woken"


def test_stop_and_elect_again_gives_a_higher_token(start_candidate: Start, terms: dict[str, Any]):
    # So long that a lease of its own that it waited for would be noticed.
    one = start_candidate(**{**terms, "ttl": 200.0})
    one.elect()
    tokens = [one.wait_until_leader(30)]
    for _ in range(3):
        one.stop()
        assert not one.leader.is_leader
        one.elect()
        # It resigned itself, so nobody has to be waited for.
        tokens.append(one.wait_until_leader(30))
    assert tokens == sorted(set(tokens))
    one.shutdown()
    wait_until(lambda: len(one.named("demoted")) == 4, 30, lambda: str(one.events))
    assert [name for name, *_ in one.events] == ["elected", "demoted"] * 4
    assert [event.fencing_token for event in one.named("demoted")] == tokens
    reasons = [event.reason for event in one.named("demoted")]
    assert reasons == [DemotionReason.RESIGNED] * 3 + [DemotionReason.SHUTDOWN]


def test_elect_twice_is_an_error_that_changes_nothing(
    start_candidate: Start, terms: dict[str, Any]
):
    one = start_candidate(**terms)
    one.elect()
    with pytest.raises(LifecycleError, match=r"elect\(\) was called already for 'test-"):
        one.elect()
    one.wait_until_leader(30)
    with pytest.raises(LifecycleError, match=r"elect\(\) was called already"):
        one.elect()
    assert one.leader.is_leader


def test_who_cannot_have_a_thread_takes_no_part_until_there_is_one(
    shared_server: ExternalServer, key: str, monkeypatch: pytest.MonkeyPatch
):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    leave_resigned(shared_server.url, key)
    leader = create_safe_redis_leader(redis=shared_server.url, key=key, ttl=10.0)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            leader.elect()
        assert not leader.active
    leader.elect()
    assert leader.wait_until_leader(timeout=30)
    leader.shutdown()


def test_shutdown_is_final_and_may_be_repeated(start_candidate: Start, terms: dict[str, Any]):
    one = start_candidate(**terms)
    one.elect()
    one.wait_until_leader(30)
    one.shutdown()
    one.shutdown()
    one.stop()
    assert not one.leader.is_leader
    assert not one.leader.active
    with pytest.raises(LifecycleError, match="was shut down; make a new leader object"):
        one.elect()


def test_stop_and_shutdown_of_one_that_never_took_part(
    start_candidate: Start, terms: dict[str, Any]
):
    one = start_candidate(**terms)
    one.stop()
    one.shutdown()
    assert one.events == []


def test_wait_until_leader_says_why_it_ends(start_candidate: Start, terms: dict[str, Any]):
    one, two = start_candidate(**terms), start_candidate(**terms)
    with pytest.raises(LifecycleError, match=r"does not take part in the election: call elect\(\)"):
        one.wait_until_leader(1)
    one.elect()
    one.wait_until_leader(30)
    two.elect()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not elected leader of 'test-\w+' within 0.2 s"):
        two.wait_until_leader(0.2)
    assert time.monotonic() - began >= 0.19
    with pytest.raises(TimeoutError, match="within 0 s"):
        two.wait_until_leader(0)
    assert two.leader.active, "it goes on as a candidate"
    assert one.wait_until_leader(0) == one.leader.fencing_token


@pytest.mark.parametrize("verb", ["stop", "shutdown"])
def test_an_end_wakes_those_who_wait(start_candidate: Start, terms: dict[str, Any], verb: str):
    one, two = start_candidate(**terms), start_candidate(**{**terms, "wait": 30})
    one.elect()
    one.wait_until_leader(30)
    two.elect()
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            two.wait_until_leader()
        except LifecycleError as error:
            outcome.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.3)
    getattr(two, verb)()
    waiting.join(30)  # by itself it would wait without limit
    assert not waiting.is_alive()
    assert len(outcome) == 1


def test_as_a_context_manager(start_candidate: Start, terms: dict[str, Any]):
    one = start_candidate(**terms)
    assert one.enter() is one.leader
    one.wait_until_leader(30)
    one.leave()
    assert not one.leader.is_leader
    wait_until(lambda: one.named("demoted"))
    assert one.named("demoted")[0].reason is DemotionReason.SHUTDOWN
    with pytest.raises(LifecycleError):
        one.elect()


def test_times_may_be_timedeltas(start_candidate: Start, terms: dict[str, Any]):
    one = start_candidate(
        **{**terms, "ttl": timedelta(milliseconds=2500), "wait": timedelta(milliseconds=50)}
    )
    one.elect()
    one.wait_until_leader(30)
    assert 0 < one.leader.remaining <= 2.5


def test_stop_of_a_leader_takes_a_round_trip(
    start_candidate: Start, terms: dict[str, Any], quick_server: Server
):
    # It renews only after 20 s.
    one = start_candidate(**{**terms, "ttl": 60, "wait": 60})
    one.elect()
    one.wait_until_leader(30)
    before = requests_to(quick_server, terms["key"])
    one.stop()
    assert requests_to(quick_server, terms["key"]) == before + 1
    assert not one.leader.is_leader


@pytest.mark.parametrize("verb", ["stop", "shutdown"])
def test_a_standby_in_its_blocking_read_stops_at_once(
    start_candidate: Start, terms: dict[str, Any], verb: str, quick_server: Server, key: str
):
    one = start_candidate(**{**terms, "key": f"{key}-new", "ttl": 300, "wait": 300})
    before = reading(quick_server)
    one.elect()
    wait_until(lambda: reading(quick_server) > before, what="the blocking read")
    began = time.monotonic()
    getattr(one, verb)()
    # By itself the read would end after 300 s.
    assert time.monotonic() - began < 60
    assert one.named("error") == []


def test_a_standby_that_was_stopped_can_take_part_again(
    start_candidate: Start, terms: dict[str, Any], key: str
):
    one = start_candidate(**{**terms, "key": f"{key}-new", "ttl": 2.0, "wait": 60})
    for _ in range(3):
        one.elect()
        time.sleep(0.15)
        one.stop()
    one.elect()
    one.wait_until_leader(30)
    assert one.named("error") == []


def test_a_stop_at_any_moment_ends_the_blocking_read(
    start_candidate: Start, terms: dict[str, Any], key: str
):
    # Also one that is only about to begin: it would go on for a minute, deaf to elect(), and
    # take a wake-up away from those who wait for one.
    one = start_candidate(**{**terms, "key": f"{key}-new", "ttl": 100, "wait": 60})
    idle = threading.active_count()
    seed = random.randrange(10**6)
    print(f"seed={seed}")
    moments = random.Random(seed)
    for _ in range(60):
        one.elect()
        time.sleep(moments.uniform(0, 0.006))
        one.stop()
        wait_until(lambda: threading.active_count() == idle, 30, lambda: str(threading.enumerate()))
        if isinstance(one, AsyncioShell):
            assert [name for name in one.tasks() if name == f"leader:{key}-new"] == []


def test_nothing_is_left_after_shutdown(
    start_candidate: Start, terms: dict[str, Any], quick_server: Server
):
    quick_server.client().ping()
    before = clients_of(quick_server)
    leading, standby, stopped = (start_candidate(**terms) for _ in range(3))
    threads, open_sockets = threading.active_count(), sockets()
    for one in (leading, standby, stopped):
        one.elect()
    wait_until(lambda: any(one.leader.is_leader for one in (leading, standby, stopped)), 30)
    assert sockets() > open_sockets
    stopped.stop()
    for one in (leading, standby, stopped):
        one.shutdown()
    wait_until(lambda: threading.active_count() == threads, 30, lambda: str(threading.enumerate()))
    wait_until(lambda: sockets() == open_sockets, 30, lambda: f"{sockets()} sockets")
    wait_until(lambda: clients_of(quick_server) == before, 30, "no connection at the server")
    for one in (leading, standby, stopped):
        if isinstance(one, AsyncioShell):
            assert one.tasks() == []


def test_repr_shows_election_id_and_state_and_no_secret(
    start_candidate: Start, quick_server: Server, key: str
):
    url = f"redis://user:s3cret@127.0.0.1:{quick_server.port}/0"
    one = start_candidate(redis=url, key=key, ttl=0.6)
    shown = repr(one.leader)
    assert key in shown
    assert one.leader.candidate_id in shown
    assert "idle" in shown
    assert "s3cret" not in shown
    assert f":{os.getpid()}:" in one.leader.candidate_id
