"""Records that hold something else than what the election writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from celery_safe_leader._core.messages import Await, ReplyStatus
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreRefusedError
from tests.contract.conftest import StoreUnderTest
from tests.contract.requests import NOW, ask, campaign, observe, renew, resign, win

MakeStore = Callable[..., StoreUnderTest]
WEEK = 7 * 24 * 3600


@pytest.mark.parametrize(
    "token", ["", "x", "-1", "-0", "-1e-400", "1e999", "nan", "9007199254740992", "1.5e3"]
)
def test_a_token_that_is_none_reads_as_0_or_as_a_whole_number(
    store: StoreUnderTest, client: Any, keys: ElectionKeys, token: str
) -> None:
    client.hset(keys.lease, mapping={"holder": "x", "token": token, "ttl": "5000"})
    record = ask(store, observe()).record
    assert record.token == (1500 if token == "1.5e3" else 0)
    assert record.ttl == 5.0


@pytest.mark.parametrize("ttl", ["", "x", "-1", "-0", "-1e-400", "1e999", "nan"])
def test_a_ttl_that_is_none_reads_as_0(
    store: StoreUnderTest, client: Any, keys: ElectionKeys, ttl: str
) -> None:
    client.hset(keys.lease, mapping={"holder": "x", "ttl": ttl})
    assert ask(store, observe()).record.ttl == 0.0
    assert win(store).holder == "a"


@pytest.mark.parametrize("fields", [{"holder": "x"}, {"token": "7"}, {"other": "y"}])
def test_a_half_filled_record_is_a_record(
    store: StoreUnderTest, client: Any, keys: ElectionKeys, fields: dict[str, str]
) -> None:
    client.hset(keys.lease, mapping=fields)
    seen = ask(store, observe()).record
    assert (seen.holder, seen.token) == (fields.get("holder", ""), int(fields.get("token", 0)))
    assert (seen.ttl, seen.resigned) == (0.0, False)
    assert client.hgetall(keys.lease).items() >= fields.items()
    answer = ask(store, campaign(seen.version))
    assert (answer.status, answer.record.holder) == (ReplyStatus.ACCEPTED, "a")


@pytest.mark.parametrize(
    "renewal",
    [None, "", "monthly", "2026-11-28", "1795890488", "\0|\r\n", "x" * 10_000 + "-1234567"],
    ids=["none", "empty", "word", "date", "number", "binary", "long"],
)
def test_hashes_of_others_are_told_apart_though_they_are_alike(
    store: StoreUnderTest, client: Any, keys: ElectionKeys, renewal: str | None
) -> None:
    extra = {} if renewal is None else {"renewal": renewal}

    def put() -> str:
        client.delete(keys.lease)
        client.hset(keys.lease, mapping={"other": "y", **extra})
        seen = ask(store, observe()).record
        assert ask(store, observe()).record == seen, "it stands still"
        return str(seen.version)

    first = put()
    won = win(store)
    second = put()
    assert first != second
    assert ask(store, campaign(first)).status is ReplyStatus.REJECTED
    assert ask(store, renew(won.token)).status is ReplyStatus.REJECTED
    client.delete(keys.lease)
    client.hset(keys.lease, mapping={"other": "y", **extra})
    assert ask(store, campaign(second)).status is ReplyStatus.REJECTED, "it came just now"


def test_a_version_goes_back_byte_for_byte(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.hset(keys.lease, mapping={"holder": b"\xff\xfe", "epoch": b"\x80|\r\n\x00"})
    seen = ask(store, observe()).record
    assert ask(store, campaign(seen.version)).status is ReplyStatus.ACCEPTED


def test_a_token_that_cannot_grow_is_refused_in_words(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.hset(keys.lease, mapping={"holder": "x", "token": str(2**52 - 1)})
    seen = ask(store, observe()).record
    assert seen.token == 2**52 - 1
    with pytest.raises(StoreRefusedError, match=r"2\^52.*delete the key") as caught:
        store.execute(campaign(seen.version))
    assert keys.lease in str(caught.value)
    assert client.hget(keys.lease, "holder") == "x"


@pytest.mark.parametrize("token", [2**52, 2**53 - 1, 2**53, 10**400])
def test_a_token_that_no_election_made_counts_as_none(
    store: StoreUnderTest, client: Any, keys: ElectionKeys, token: int
) -> None:
    client.hset(keys.lease, mapping={"holder": "x", "token": str(token)})
    seen = ask(store, observe()).record
    assert seen.token == 0
    won = ask(store, campaign(seen.version)).record
    assert abs(won.token / 1000 - time.time()) < 60


def test_megabytes_are_not_sent_with_each_look(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    much = dict.fromkeys(("holder", "renewal", "epoch", "token", "ttl"), "x" * 2**20)
    client.hset(keys.lease, mapping=much)
    seen = ask(store, observe()).record
    assert len(seen.version) < 600
    assert len(seen.holder) < 600
    assert ask(store, observe()).record == seen
    client.hset(keys.lease, "renewal", "x" * 2**20 + "y")
    assert ask(store, observe()).record.version != seen.version
    won = win(store)
    assert client.hlen(keys.lease) == 6
    assert ask(store, renew(won.token)).status is ReplyStatus.ACCEPTED


def test_the_history_holds_no_megabytes_of_others(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    win(store)
    client.hset(keys.lease, "renewal", "9" * 2**20)
    win(store, "b")
    reasons = [fields["reason"] for _, fields in client.xrange(keys.history)]
    assert len(reasons) == 2
    assert all(len(reason) < 100 for reason in reasons)


def test_what_is_in_the_way_of_the_history_gives_way(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.set(keys.history, "something else")
    won = win(store)
    client.delete(keys.history)
    client.xadd(keys.history, {"f": "v"}, id="18446744073709551615-18446744073709551615")
    assert ask(store, resign(won.token)).status is ReplyStatus.RESIGNED
    events = [fields["event"] for _, fields in client.xrange(keys.history)]
    assert events == ["resigned"]


def test_what_is_in_the_way_of_waking_gives_way_to_the_next_leader(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.set(keys.wake, "something else")
    with pytest.raises(StoreRefusedError, match="not this package's") as caught:
        store.execute(Await(NOW, 0.01))
    assert keys.wake in str(caught.value)
    win(store)
    assert not client.exists(keys.wake)


def test_a_key_of_another_type_is_refused_in_words(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.set(keys.lease, "something else")
    for request in (observe(), campaign("v"), renew(1), resign(1)):
        with pytest.raises(StoreRefusedError, match="not this package's; delete it"):
            store.execute(request)
    assert client.get(keys.lease) == "something else"
