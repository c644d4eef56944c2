"""Requests to script calls, and raw replies to answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import (
    Await,
    Campaign,
    LedgerLook,
    Observe,
    Renew,
    ReplyStatus,
    Resign,
)
from celery_safe_leader._core.options import MAX_TTL
from celery_safe_leader._store.codec import checked_replies, decode, encode, encode_looking
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreRefusedError

NOW = Instant(1.0, 2.0, 3.0)
KEYS = ElectionKeys("shop", "beat")
LEASE, HISTORY, WAKE, WITNESS = (
    f"{{leader:shop}}:beat:{part}" for part in ("lease", "history", "wake", "witness")
)


@pytest.mark.parametrize(
    ("request_", "script", "keys", "args", "confirm"),
    [
        (
            Observe(NOW, "n", 10.0, 7),
            "observe", (LEASE,), ("n", "10000", "7", ""), False,
        ),
        (
            Observe(NOW, "n", 10.0, 7, confirm=True),
            "observe", (LEASE, WITNESS), ("n", "10000", "7", "1"), True,
        ),
        (
            Campaign(NOW, "v", "me", "n", 1.5, 10.0, 7),
            "campaign", (LEASE, HISTORY, WAKE), (b"v", "me", "n", "1500", "10000", "7", ""), True,
        ),
        (
            Campaign(NOW, "v", "me", "n", 1.5, 10.0, 7, keep=True),
            "campaign", (LEASE, HISTORY, WAKE), (b"v", "me", "n", "1500", "10000", "7", "1"), True,
        ),
        (
            Renew(NOW, "me", 7, "n", 1.5, 10.0),
            "renew", (LEASE,), ("me", "7", "n", "1500", "10000"), True,
        ),
        (
            Resign(NOW, "me", 7, "n", "resigned"),
            "resign", (LEASE, HISTORY, WAKE), ("me", "7", "n", "resigned"), False,
        ),
    ],
)  # fmt: skip
def test_each_request_becomes_a_call(
    request_: Any, script: str, keys: Any, args: Any, confirm: bool
) -> None:
    call = encode(request_, KEYS)
    assert call.script.name == script
    assert (call.keys, call.args, call.confirm) == (keys, args, confirm)
    assert call.command == (call.script.sha, len(keys), *keys, *args)
    assert call.full_command == (call.script.text, len(keys), *keys, *args)


def test_a_renewal_that_looks_has_the_ledgers_keys_too() -> None:
    request = Renew(NOW, "me", 7, "n", 1.5, 10.0)
    call, plain = encode_looking(request, KEYS), encode(request, KEYS)
    assert call.keys == (LEASE, "{leader:shop}:runs", "{leader:shop}:pending")
    assert call.args == (*plain.args, "1")
    assert (call.script, call.confirm) == (plain.script, plain.confirm)
    prefixed = encode_looking(request, ElectionKeys("shop", "beat", "app1_"))
    assert prefixed.keys[1:] == ("app1_{leader:shop}:runs", "app1_{leader:shop}:pending")


@pytest.mark.parametrize(
    ("ttl", "ms"), [(0.05, "50"), (1.0001, "1001"), (0.1 + 0.2, "301"), (86_400.0, "86400000")]
)
def test_milliseconds_are_rounded_up(ttl: float, ms: str) -> None:
    assert encode(Observe(NOW, "n", ttl, 0), KEYS).args[1] == ms


def test_a_pause_is_no_script_call() -> None:
    with pytest.raises(TypeError, match="Await is not a script call"):
        encode(Await(NOW, 1.0), KEYS)


def test_a_reply_becomes_an_answer() -> None:
    raw = [b"accepted", b"e|e|7|n|0", b"e", b"me", b"7", b"1500", 0]
    answer = decode(raw, KEYS)
    record = answer.record
    assert (answer.status, answer.confirmed) == (ReplyStatus.ACCEPTED, True)
    assert (record.version, record.epoch, record.holder) == ("e|e|7|n|0", "e", "me")
    assert (record.token, record.ttl, record.resigned) == (7, 1.5, False)
    assert decode([*raw[:6], 1], KEYS, confirmed=False).record.resigned
    assert not decode(raw, KEYS, confirmed=False).confirmed


def test_a_look_is_handed_on_as_it_came() -> None:
    raw = [
        b"accepted",
        b"v",
        b"e",
        b"me",
        b"7",
        b"1500",
        0,
        b"1 g 5 \xff",
        b"",
        b"1700000000000001",
    ]
    answer = decode(raw, KEYS, looked_at=NOW)
    assert answer.look == LedgerLook(NOW, b"1 g 5 \xff", b"", 1_700_000_000_000_001)
    assert replace(answer, look=None) == decode(raw[:7], KEYS)


@pytest.mark.parametrize(
    "look",
    [
        [], [b"a"], [b"a", b"b"], [None, b"b", b"1"], [b"a", 1, b"1"], [b"a", b"b", b"x"],
        [b"a", b"b", b"99999999999999999"], [b"a", b"b", b"1", b"more"],
    ],
)  # fmt: skip
def test_a_look_of_another_shape_is_refused_in_words(look: list[Any]) -> None:
    raw = [b"accepted", b"v", b"e", b"me", b"7", b"1500", 0, *look]
    with pytest.raises(StoreRefusedError, match="reply has an unknown shape"):
        decode(raw, KEYS, looked_at=NOW)


def test_text_that_is_not_utf_8_goes_back_as_it_came() -> None:
    version = decode([b"seen", b"\xff|\x80", b"e", b"me", b"7", b"1", 0], KEYS).record.version
    call = encode(Campaign(NOW, version, "me", "n", 1.0, 1.0, 0), KEYS)
    assert call.args[0] == b"\xff|\x80"


@pytest.mark.parametrize("ms", [b"999999999999999", b"99999999999999"])
def test_no_record_says_that_a_lease_is_longer_than_a_day(ms: bytes) -> None:
    assert decode([b"seen", b"v", b"e", b"", b"0", ms, 0], KEYS).record.ttl == MAX_TTL


@pytest.mark.parametrize(
    "raw",
    [
        None, 1, b"OK", [], [b"seen"], [b"seen", b"v", b"e", b"me", b"7", b"1500"],
        [b"seen", b"v", b"e", b"me", b"x", b"1500", 0], [b"seen", b"v", b"e", b"me", b"7", b"", 0],
        [b"seen", b"v", b"e", b"me", None, b"1500", 0], {"status": "seen"},
        [b"seen", b"v", b"e", b"me", b"7", b"1500", 0, b"more"],
        [b"", b"v", b"e", b"me", b"7", b"1500", 0], [b"nonsense", b"v", b"e", b"me", b"7", b"1", 0],
    ],
)  # fmt: skip
def test_a_reply_of_another_shape_is_refused_in_words(raw: object) -> None:
    with pytest.raises(StoreRefusedError, match="reply has an unknown shape") as caught:
        decode(raw, KEYS)
    assert caught.value.key == LEASE


def test_a_flight_gives_the_reply_and_the_count() -> None:
    assert checked_replies([[b"x"], 2]) == ([b"x"], 2)
    assert checked_replies([[b"x"]]) == ([b"x"], None)


@pytest.mark.parametrize("place", [0, 1])
def test_an_error_in_a_flight_is_raised(place: int) -> None:
    replies: list[Any] = [[b"x"], 1]
    replies[place] = ConnectionError("gone")
    with pytest.raises(ConnectionError, match="gone"):
        checked_replies(replies)
