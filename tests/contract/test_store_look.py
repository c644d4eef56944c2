"""Renewals of a beat that look at the ledger, on both stores and on each kind of server."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from celery_safe_leader._core.messages import Answer, LedgerLook, ReplyStatus
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.pausing import pause, resume
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import BEAT, WORKER, ElectionKeys, LedgerKeys
from celery_safe_leader.errors import StoreRefusedError
from tests.contract.conftest import LIMIT, StoreUnderTest
from tests.contract.requests import NOW, ask, renew, win
from tests.support.servers import Server
from tests.support.servers.rights import AT_FIRST, denials, user_with, words_of

MakeStore = Callable[..., StoreUnderTest]
TYPES: list[tuple[str, ...]] = [
    ("SET", "v"),
    ("RPUSH", "v"),
    ("SADD", "v"),
    ("XADD", "*", "f", "v"),
]


@pytest.fixture
def ledger(shared_server: Server, key: str) -> Ledger:
    """The ledger of the key, which nobody has adopted."""
    client = make_client(shared_server.url, connect_timeout=LIMIT, read_timeout=LIMIT)
    return Ledger(client, key, BEAT, ttl=10.0, clock=time.monotonic)


@pytest.fixture
def beat(make_store: MakeStore, shared_server: Server) -> StoreUnderTest:
    return make_store(shared_server.url, role=BEAT)


@pytest.fixture
def names(key: str) -> LedgerKeys:
    return LedgerKeys(key)


def looked(answer: Answer) -> LedgerLook:
    assert answer.status is ReplyStatus.ACCEPTED
    assert answer.look is not None
    return answer.look


def limited(server: Server, *rights: str) -> str:
    """Make a user, and return the server's URL for it."""
    words = ("ACL", "SETUSER", "limited", "reset", "on", ">pw", "+@all", *rights)
    server.client().execute_command(*words)
    return server.url.replace("redis://", "redis://limited:pw@")


def test_a_renewal_shows_what_the_leader_left_in_the_ledger(
    beat: StoreUnderTest, ledger: Ledger, client: Any, names: LedgerKeys
) -> None:
    token = win(beat).token
    empty = looked(ask(beat, renew(token)))
    assert (empty.runs, empty.pending, empty.sent_at) == (b"", b"", NOW)
    ledger.adopt("a", token)
    for _ in range(2):
        now = ledger.write((), ()).now
        look = looked(ask(beat, renew(token)))
        raw = client.execute_command("HGET", names.runs, SENTINEL, NEVER_DECODE=True)
        assert look.runs == look.pending == raw
        assert ledger.is_as_left(look)
        assert now <= look.server_us < now + 60_000_000


def test_what_was_lost_or_rolled_back_does_not_look_as_it_was_left(
    beat: StoreUnderTest, ledger: Ledger, client: Any, names: LedgerKeys
) -> None:
    token = win(beat).token
    ledger.adopt("a", token)
    older = client.dump(names.runs), client.dump(names.pending)
    ledger.write((), ())
    assert ledger.is_as_left(looked(ask(beat, renew(token))))
    client.restore(names.runs, 0, older[0], replace=True)
    assert not ledger.is_as_left(looked(ask(beat, renew(token)))), "one of the two"
    client.restore(names.pending, 0, older[1], replace=True)
    assert not ledger.is_as_left(looked(ask(beat, renew(token)))), "both"
    client.delete(names.runs, names.pending)
    assert not ledger.is_as_left(looked(ask(beat, renew(token))))
    ledger.adopt("a", token, restoring=True)
    assert ledger.is_as_left(looked(ask(beat, renew(token))))


def test_a_pause_and_its_end_are_seen_though_they_leave_the_step(
    beat: StoreUnderTest, ledger: Ledger, shared_server: Server, names: LedgerKeys
) -> None:
    client = make_client(shared_server.url, connect_timeout=LIMIT, read_timeout=LIMIT)
    token = win(beat).token
    ledger.adopt("a", token)
    ledger.write((), ())
    for change in (pause, pause, resume):
        change(client, names)
        assert not ledger.is_as_left(looked(ask(beat, renew(token))))
        ledger.write((), ())
        assert ledger.is_as_left(looked(ask(beat, renew(token))))


@pytest.mark.parametrize("command", TYPES, ids=lambda command: str(command[0]))
def test_nothing_that_the_ledgers_keys_hold_costs_the_lease(
    beat: StoreUnderTest, client: Any, names: LedgerKeys, command: tuple[str, ...]
) -> None:
    token = win(beat).token
    for name in (names.runs, names.pending):
        client.execute_command(command[0], name, *command[1:])
    look = looked(ask(beat, renew(token)))
    assert "WRONGTYPE" in look.runs.decode()
    assert "WRONGTYPE" in look.pending.decode()


def test_a_sentinel_that_is_not_ours_is_shown_in_part(
    beat: StoreUnderTest, ledger: Ledger, client: Any, names: LedgerKeys
) -> None:
    token = win(beat).token
    ledger.adopt("a", token)
    for value in (b"\xff" * 1_000_000, b"", b"1 2", b"9 g 1 whole/m beat"):
        client.hset(names.runs, SENTINEL, value)
        look = looked(ask(beat, renew(token)))
        assert look.runs == value[:512]
        assert not ledger.is_as_left(look)


def test_a_record_that_is_gone_or_taken_is_answered_as_without_a_look(
    beat: StoreUnderTest, client: Any, key: str
) -> None:
    token = win(beat).token
    client.delete(ElectionKeys(key, BEAT).lease)
    assert ask(beat, renew(token)).status is ReplyStatus.VACANT
    win(beat, "b")
    taken = ask(beat, renew(token))
    assert (taken.status, taken.record.holder) == (ReplyStatus.REJECTED, "b")


@pytest.mark.parametrize("role", [WORKER, ""])
def test_other_elections_do_not_look(
    make_store: MakeStore, shared_server: Server, role: str
) -> None:
    store = make_store(shared_server.url, role=role)
    assert ask(store, renew(win(store).token)).look is None


@pytest.mark.parametrize("info", [True, False], ids=["info", "no info"])
def test_the_rights_that_were_printed_before_there_was_a_look_suffice(
    make_store: MakeStore, server: Server, info: bool
) -> None:
    words = [word.replace(b"{leader:shop}", b"*") for word in words_of(AT_FIRST[0])]
    store = make_store(user_with(server, words, without="" if info else "info"), role=BEAT)
    assert looked(ask(store, renew(win(store).token))).runs == b""
    assert [each for each in denials(server.client()) if "info" not in each] == []


@pytest.mark.parametrize("info", ["+info", "-info"])
def test_a_user_that_may_not_read_the_ledger_renews_at_once_without_a_look(
    make_store: MakeStore,
    server: Server,
    key: str,
    info: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    store = make_store(limited(server, info, f"~{ElectionKeys(key, BEAT).lease[:-5]}*"), role=BEAT)
    token = win(store).token
    for _ in range(3):
        answer = ask(store, renew(token))
        assert (answer.status, answer.look) == (ReplyStatus.ACCEPTED, None)
    told = [record for record in caplog.records if "cannot look at the ledger" in record.message]
    assert len(told) == 1
    tried = [each for each in denials(server.client()) if LedgerKeys(key).runs in each]
    assert len(tried) == 1, "it is not tried again in this tenure"
    # Whoever is elected next tries it again.
    limited(server, info, "~*")
    looked(ask(store, renew(win(store).token)))


def test_a_user_that_may_not_run_hget_renews_all_the_same(
    make_store: MakeStore, server: Server
) -> None:
    store = make_store(limited(server, "-hget", "~*"), role=BEAT)
    look = looked(ask(store, renew(win(store).token)))
    assert look.runs.startswith(b"?")


def test_a_user_that_may_renew_nothing_is_told_so(
    make_store: MakeStore, server: Server, key: str
) -> None:
    store = make_store(limited(server, "~*"), role=BEAT)
    token = win(store).token
    limited(server, f"~{LedgerKeys(key).runs}")
    with pytest.raises(StoreRefusedError, match="lacks a right that the election needs"):
        store.execute(renew(token))


def test_a_look_writes_nothing_to_the_ledger(
    beat: StoreUnderTest, ledger: Ledger, client: Any, names: LedgerKeys
) -> None:
    token = win(beat).token
    looked(ask(beat, renew(token)))
    assert not client.exists(names.runs, names.pending)
    ledger.adopt("a", token)
    before = [client.dump(name) for name in (names.runs, names.pending)]
    looked(ask(beat, renew(token)))
    assert [client.dump(name) for name in (names.runs, names.pending)] == before


def test_a_server_without_memory_renews_and_looks(make_store: MakeStore, server: Server) -> None:
    store = make_store(server.url, role=BEAT)
    token = win(store).token
    client: redis.Redis = server.client()
    client.config_set("maxmemory", "1")
    looked(ask(store, renew(token)))
