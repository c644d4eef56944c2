"""Listeners of both libraries: who is called, with what, and what they cannot delay."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from celery_safe_leader import ConfigurationError, DemotionReason
from tests.integration.library.shells import Shell
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

Start = Callable[..., Shell]


def test_on_once_off_and_remove_all(start_candidate: Start, terms: dict[str, Any]):
    one = start_candidate(**terms)
    calls: list[str] = []

    def always(_: Any) -> None:
        calls.append("always")

    def never(_: Any) -> None:
        calls.append("never")

    one.leader.on("elected", always)
    one.leader.once("elected", lambda _: calls.append("once"))
    one.leader.on("elected", never)
    one.leader.off("elected", never)
    one.leader.off("elected", never)  # unknown by now, and no error
    one.elect()
    one.wait_until_leader(30)
    wait_until(lambda: calls == ["always", "once"], 30, lambda: str(calls))
    one.stop()
    one.elect()
    one.wait_until_leader(30)
    wait_until(lambda: calls == ["always", "once", "always"], 30, lambda: str(calls))
    one.leader.remove_all_listeners("elected")
    one.stop()
    wait_until(lambda: len(one.named("demoted")) == 2)
    one.leader.remove_all_listeners()
    one.elect()
    one.wait_until_leader(30)
    # Listeners are called in turn: what was not called before this one is not called at all.
    last: list[Any] = []
    one.leader.on("demoted", last.append)
    one.stop()
    wait_until(lambda: last, what="the last event")
    assert len(calls) == 3
    assert len(one.named("demoted")) == 2


def test_who_leads_instead_is_told_at_the_start_and_after_each_change(
    start_candidate: Start, terms: dict[str, Any]
):
    one, two = start_candidate(**terms), start_candidate(**terms)
    one.elect()
    first = one.wait_until_leader(30)
    two.elect()
    wait_until(lambda: two.named("new_leader"), 30)
    one.stop()
    second = two.wait_until_leader(30)
    one.elect()
    wait_until(lambda: one.named("new_leader"), 30)

    def told(shell: Shell) -> list[tuple[str, int]]:
        return [(each.holder, each.fencing_token) for each in shell.named("new_leader")]

    # Neither a vacancy, nor one who has resigned, nor itself.
    assert told(two) == [(one.leader.candidate_id, first)]
    assert told(one) == [(two.leader.candidate_id, second)]


@pytest.mark.parametrize("verb", ["on", "once", "off", "remove_all_listeners"])
def test_an_unknown_event_is_named(start_candidate: Start, terms: dict[str, Any], verb: str):
    leader = start_candidate(**terms).leader
    args = () if verb == "remove_all_listeners" else (print,)
    with pytest.raises(ConfigurationError) as caught:
        getattr(leader, verb)("electd", *args)
    assert (
        str(caught.value)
        == "event is 'electd'; it must be one of elected, demoted, new_leader, error"
    )


def test_what_cannot_be_called_is_refused(start_candidate: Start, terms: dict[str, Any]):
    leader = start_candidate(**terms).leader
    with pytest.raises(ConfigurationError, match="listener is 3; it must be a function"):
        leader.on("elected", 3)  # type: ignore[arg-type]


def test_a_listener_that_raises_is_logged_and_the_others_are_called(
    start_candidate: Start, terms: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    one = start_candidate(**terms)
    one.leader.remove_all_listeners()

    def broken(_: Any) -> None:
        raise ValueError("broken listener")

    one.leader.on("elected", broken)
    one.listen()
    one.elect()
    one.wait_until_leader(30)
    wait_until(lambda: one.named("elected"))
    time.sleep(0.7)
    assert one.leader.is_leader
    assert "a listener of elected failed" in caplog.text
    assert "broken listener" in caplog.text


def test_an_error_without_a_listener_is_logged_once_per_outage(
    start_candidate: Start, start_server: Callable[..., Server], key: str,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    server = start_server()
    one = start_candidate(redis=server.url, key=key, ttl=0.6, wait=0.1)
    one.leader.remove_all_listeners()
    server.kill()
    one.elect()
    time.sleep(0.8)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, said
    assert key in said[0]
    assert "no answer from Redis" in said[0]
    assert "trying again" in said[0]


def test_every_elected_has_its_demoted_when_the_lease_runs_out(
    start_candidate: Start, start_server: Callable[..., Server], key: str
):
    server = start_server()
    one = start_candidate(redis=server.url, key=key, ttl=1.5, wait=0.1)
    one.elect()
    for _ in range(2):
        token = one.wait_until_leader(30)
        server.pause()
        wait_until(lambda: not one.leader.is_leader, 30)
        server.resume()
        assert one.wait_until_leader(30) > token
    one.stop()
    wait_until(lambda: len(one.named("demoted")) == 3)
    pairs = [(name, e.fencing_token) for name, e, _ in one.events if name != "error"]
    assert [name for name, _ in pairs] == ["elected", "demoted"] * 3
    assert all(pairs[i][1] == pairs[i + 1][1] for i in range(0, 6, 2))
    reasons = [event.reason for event in one.named("demoted")]
    assert reasons == [DemotionReason.EXPIRED, DemotionReason.EXPIRED, DemotionReason.RESIGNED]


def test_errors_are_told_and_the_election_goes_on(
    start_candidate: Start, start_server: Callable[..., Server], key: str
):
    server = start_server()
    one = start_candidate(redis=server.url, key=key, ttl=0.6, wait=0.1)
    one.elect()
    one.wait_until_leader(30)
    server.kill()
    wait_until(lambda: not one.leader.is_leader, 30)
    wait_until(lambda: len(one.named("error")) >= 3, 30)
    assert all("no answer from Redis" in str(error) for error in one.named("error"))
    server.start()
    one.wait_until_leader(30)


def test_redis_may_be_down_at_the_start(
    start_candidate: Start, start_server: Callable[..., Server], key: str
):
    server = start_server()
    server.kill()
    one = start_candidate(redis=server.url, key=key, ttl=0.6, wait=0.1)
    one.elect()
    wait_until(lambda: len(one.named("error")) >= 2, 30)
    wait_until(lambda: len(one.named("error")) >= 10, 60)
    told = [at for name, _, at in one.events if name == "error"]
    # Whatever else the machine does, a pause lasts at least as long as it should.
    assert told[9] - told[0] >= 9 * 0.04, "it asks without a pause"
    server.start()
    one.wait_until_leader(30)


def test_a_hanging_request_does_not_keep_the_leader_leading(
    start_candidate: Start, proxy: Proxy, key: str
):
    ttl = 1.5
    one = start_candidate(redis=proxy.url(), key=key, ttl=ttl, wait=0.3)
    one.elect()
    one.wait_until_leader(30)
    time.sleep(0.2)
    proxy.black_hole()
    # In this order: what is left is read before the clock, so the deadline comes out a bit late.
    left = one.leader.remaining
    deadline = time.monotonic() + left
    assert 0 < left <= 0.99 * ttl
    led = 0
    while True:
        asked_at = time.monotonic()
        if not one.leader.is_leader:
            break
        led += 1
        assert asked_at <= deadline, "it led longer than its lease"
        time.sleep(0.001)
    assert led > 0
    assert time.monotonic() >= deadline - 0.1
    # While the request still hangs, which it does until the link is healed.
    wait_until(lambda: one.named("demoted"), what="the demotion")
    (told,) = [at for name, _, at in one.events if name == "demoted"]
    assert told >= deadline - 0.1
    assert one.named("demoted")[0].reason is DemotionReason.EXPIRED
    proxy.heal()
    one.wait_until_leader(30)
