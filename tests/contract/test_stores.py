"""Every request of the election, on both stores and on each kind of server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from celery_safe_leader._core.messages import (
    Await,
    ReplyStatus,
    Woken,
)
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreUnavailableError
from tests.contract.conftest import StoreUnderTest
from tests.contract.requests import NOW, ask, campaign, observe, renew, resign, win

MakeStore = Callable[..., StoreUnderTest]
WEEK = 7 * 24 * 3600


# Observe


def test_the_first_look_writes_a_vacancy(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    first = ask(store, observe(ttl=12.5, token=41))
    assert first.status is ReplyStatus.SEEN
    assert (first.record.holder, first.record.token, first.record.ttl) == ("", 41, 12.5)
    assert not first.record.resigned
    assert client.hget(keys.lease, "ttl") == "12500"
    assert client.ttl(keys.lease) in range(WEEK - 10, WEEK + 1)


def test_a_look_changes_nothing(store: StoreUnderTest, client: Any, keys: ElectionKeys) -> None:
    first = ask(store, observe())
    before = client.hgetall(keys.lease)
    assert ask(store, observe(ttl=99.0, token=7)) == first
    assert client.hgetall(keys.lease) == before


def test_each_vacancy_has_a_version_of_its_own(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    versions = set()
    for _ in range(3):
        versions.add(ask(store, observe()).record.version)
        client.delete(keys.lease)
    assert len(versions) == 3


def test_a_witness_is_written_on_demand(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    ask(store, observe())
    assert not client.exists(keys.witness)
    ask(store, observe(confirm=True))
    assert 0 < client.pttl(keys.witness) <= 60_000


def test_the_election_goes_away_only_long_after_a_long_lease(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    ask(store, observe(ttl=86_400.0))
    assert client.ttl(keys.lease) in range(864_000 - 10, 864_001)


# Campaign


def test_a_campaign_for_the_version_that_was_seen_wins(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    before_ms = time.time() * 1000
    record = win(store)
    assert record.holder == "a"
    assert before_ms - 1000 < record.token < time.time() * 1000 + 1000
    assert record == ask(store, observe()).record
    fields = client.hgetall(keys.lease)
    assert fields["holder"] == "a"
    assert int(fields["token"]) == record.token
    assert (fields["ttl"], fields["resigned"]) == ("10000", "0")
    assert fields["epoch"] == record.epoch


def test_a_campaign_for_another_version_changes_nothing(store: StoreUnderTest) -> None:
    seen = ask(store, observe()).record
    record = win(store)
    answer = ask(store, campaign(seen.version, "b"))
    assert (answer.status, answer.record) == (ReplyStatus.REJECTED, record)


def test_a_campaign_that_finds_nothing_leaves_a_vacancy_and_loses(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    version = ask(store, observe()).record.version
    client.delete(keys.lease)
    answer = ask(store, campaign(version, token=5))
    assert answer.status is ReplyStatus.REJECTED
    assert (answer.record.holder, answer.record.token, answer.record.ttl) == ("", 5, 20.0)


def test_a_new_token_is_above_every_token_that_is_known(store: StoreUnderTest) -> None:
    ahead = int(time.time() * 1000) + 10**9
    version = ask(store, observe()).record.version
    record = ask(store, campaign(version, token=ahead)).record
    assert record.token == ahead + 1
    assert ask(store, campaign(record.version, "b")).record.token == ahead + 2


def test_a_vacancy_that_was_taken_gets_another_name(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    ask(store, observe())
    vacant = client.hget(keys.lease, "renewal")
    win(store)
    assert client.hget(keys.lease, "renewal") != vacant


def test_the_history_says_who_was_elected(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    [(_, entry)] = client.xrange(keys.history)
    assert (entry["event"], entry["holder"]) == ("elected", "a")
    assert int(entry["token"]) == record.token
    assert abs(int(entry["at"]) - time.time() * 1000) < 60_000
    assert client.ttl(keys.history) in range(WEEK - 10, WEEK + 1)


def test_the_leader_takes_back_what_was_lost_under_its_token(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    client.delete(keys.lease)
    vacancy = ask(store, renew(record.token))
    assert (vacancy.status, vacancy.record.holder) == (ReplyStatus.VACANT, "")
    assert (vacancy.record.token, vacancy.record.ttl) == (record.token, 20.0)
    back = ask(store, campaign(vacancy.record.version, token=record.token, keep=True))
    assert back.status is ReplyStatus.ACCEPTED
    assert (back.record.holder, back.record.token) == ("a", record.token)
    assert back.record.version != vacancy.record.version
    assert [entry["event"] for _, entry in client.xrange(keys.history)] == ["elected", "restored"]


def test_nothing_but_a_vacancy_of_its_time_is_taken_back(store: StoreUnderTest) -> None:
    held = win(store, "b")
    assert (
        ask(store, campaign(held.version, token=held.token, keep=True)).status
        is ReplyStatus.REJECTED
    )


def test_a_vacancy_with_a_higher_token_is_not_taken_back(store: StoreUnderTest) -> None:
    vacancy = ask(store, observe(token=100)).record
    assert ask(store, campaign(vacancy.version, token=99, keep=True)).status is ReplyStatus.REJECTED
    assert (
        ask(store, campaign(vacancy.version, token=100, keep=True)).status is ReplyStatus.ACCEPTED
    )


# Renew


def test_a_renewal_changes_the_version_and_nothing_else(store: StoreUnderTest) -> None:
    record = win(store)
    first, second = ask(store, renew(record.token)), ask(store, renew(record.token))
    assert (first.status, second.status) == (ReplyStatus.ACCEPTED, ReplyStatus.ACCEPTED)
    assert len({record.version, first.record.version, second.record.version}) == 3
    assert (second.record.holder, second.record.token) == ("a", record.token)


@pytest.mark.parametrize("other", ["holder", "token"])
def test_only_the_holder_renews_under_its_token(store: StoreUnderTest, other: str) -> None:
    record = win(store)
    request = renew(record.token, "b") if other == "holder" else renew(record.token - 1)
    answer = ask(store, request)
    assert (answer.status, answer.record) == (ReplyStatus.REJECTED, record)


def test_a_resigned_record_is_not_renewed(store: StoreUnderTest) -> None:
    record = win(store)
    ask(store, resign(record.token))
    assert ask(store, renew(record.token)).status is ReplyStatus.REJECTED


# Resign


def test_a_resignation_is_seen_and_wakes_three(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    answer = ask(store, resign(record.token))
    assert (answer.status, answer.record.resigned) == (ReplyStatus.RESIGNED, True)
    assert answer.record.version != record.version
    assert ask(store, observe()).record == answer.record
    assert client.llen(keys.wake) == 3
    assert 0 < client.pttl(keys.wake) <= 60_000
    [_, (_, entry)] = client.xrange(keys.history)
    assert (entry["event"], entry["reason"]) == ("resigned", "resigned")


def test_a_resignation_that_comes_twice_counts_once(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    first, again = ask(store, resign(record.token)), ask(store, resign(record.token))
    assert first == again
    assert client.llen(keys.wake) == 3
    assert client.xlen(keys.history) == 2


@pytest.mark.parametrize("other", ["holder", "token"])
def test_only_the_holder_resigns_under_its_token(store: StoreUnderTest, other: str) -> None:
    record = win(store)
    request = resign(record.token, "b") if other == "holder" else resign(record.token - 1)
    answer = ask(store, request)
    assert (answer.status, answer.record) == (ReplyStatus.REJECTED, record)


def test_a_record_that_another_server_wrote_is_not_resigned(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    client.hset(keys.lease, "epoch", "elsewhere:1")
    assert ask(store, resign(record.token)).status is ReplyStatus.REJECTED
    assert client.hget(keys.lease, "resigned") == "0"


def test_resigned_on_another_server_does_not_count_as_resigned(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    ask(store, resign(record.token))
    client.hset(keys.lease, "epoch", "elsewhere:1")
    assert not ask(store, observe()).record.resigned


def test_resigning_what_is_not_there_writes_nothing(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    assert ask(store, resign(1)).status is ReplyStatus.REJECTED
    assert not client.exists(keys.lease, keys.wake, keys.history)


def test_a_new_leader_clears_the_wake_list(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    ask(store, resign(win(store).token))
    win(store, "b")
    assert not client.exists(keys.wake)


# Await


def test_a_pause_ends_when_its_time_is_over(store: StoreUnderTest) -> None:
    began = time.monotonic()
    assert store.execute(Await(NOW, 0.2)) == Woken(resigned=False)
    assert time.monotonic() - began > 0.15


def test_a_resignation_wakes_three_standbys(store: StoreUnderTest) -> None:
    ask(store, resign(win(store).token))
    woken = [store.execute(Await(NOW, timeout)) for timeout in (30.0, 30.0, 30.0, 0.05)]
    assert woken == [Woken(True), Woken(True), Woken(True), Woken(False)]


def test_a_pause_can_be_broken_off(store: StoreUnderTest) -> None:
    # By itself it would end with an answer that says that nobody resigned.
    with pytest.raises((StoreUnavailableError, asyncio.CancelledError)):
        store.break_off(Await(NOW, 60.0), after=0.2)
    assert ask(store, observe()).status is ReplyStatus.SEEN
    assert store.execute(Await(NOW, 0.05)) == Woken(resigned=False)


def test_a_resignation_in_somebody_s_favour_says_whose_until_the_next_leader(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    token = win(store).token
    named = replace(resign(token), successor="web-2:7:x")
    assert ask(store, named).record.successor == "web-2:7:x"
    seen = ask(store, observe()).record
    assert (seen.resigned, seen.successor) == (True, "web-2:7:x")
    assert 3 < client.llen(keys.wake) <= 39, "the one that is meant has to be among those woken"
    again = win(store, "b")
    assert (again.successor, client.hlen(keys.lease)) == ("", 6)
    assert ask(store, resign(again.token, "b")).record.successor == ""
