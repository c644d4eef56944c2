"""Records that hold something else than what the election writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreRefusedError
from tests.contract.conftest import StoreUnderTest
from tests.contract.requests import ask, campaign, observe, renew, resign

MakeStore = Callable[..., StoreUnderTest]
WEEK = 7 * 24 * 3600


@pytest.mark.parametrize("token", ["", "x", "-1", "1e999", "nan", "9007199254740992", "1.5e3"])
def test_a_token_that_is_none_reads_as_0_or_as_a_whole_number(
    store: StoreUnderTest, client: Any, keys: ElectionKeys, token: str
) -> None:
    client.hset(keys.lease, mapping={"holder": "x", "token": token, "ttl": "5000"})
    record = ask(store, observe()).record
    assert record.token == (1500 if token == "1.5e3" else 0)
    assert record.ttl == 5.0


@pytest.mark.parametrize("fields", [{"holder": "x"}, {"token": "7"}, {"other": "y"}])
def test_a_half_filled_record_is_a_record(
    store: StoreUnderTest, client: Any, keys: ElectionKeys, fields: dict[str, str]
) -> None:
    client.hset(keys.lease, mapping=fields)
    seen = ask(store, observe()).record
    assert (seen.holder, seen.token) == (fields.get("holder", ""), int(fields.get("token", 0)))
    assert (seen.ttl, seen.resigned) == (0.0, False)
    assert client.hgetall(keys.lease) == fields
    answer = ask(store, campaign(seen.version))
    assert (answer.status, answer.record.holder) == ("accepted", "a")


def test_a_version_goes_back_byte_for_byte(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.hset(keys.lease, mapping={"holder": b"\xff\xfe", "renewal": b"\x80|\r\n\x00"})
    seen = ask(store, observe()).record
    assert ask(store, campaign(seen.version)).status == "accepted"


def test_a_token_of_2_to_the_53_is_refused_in_words(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.hset(keys.lease, mapping={"holder": "x", "token": "9007199254740991"})
    seen = ask(store, observe()).record
    assert seen.token == 2**53 - 1
    with pytest.raises(StoreRefusedError, match=r"2\^53.*delete the key") as caught:
        store.execute(campaign(seen.version))
    assert keys.lease in str(caught.value)
    assert client.hget(keys.lease, "holder") == "x"


def test_a_key_of_another_type_is_refused_in_words(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.set(keys.lease, "something else")
    for request in (observe(), campaign("v"), renew(1), resign(1)):
        with pytest.raises(StoreRefusedError, match="not this package's; delete it"):
            store.execute(request)
    assert client.get(keys.lease) == "something else"
