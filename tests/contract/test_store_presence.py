"""What candidates say of themselves, on both stores and on each kind of server."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from celery_safe_leader._core.messages import Answer, ReplyStatus, Request
from celery_safe_leader._store.keys import BEAT, ElectionKeys, LedgerKeys
from tests.contract.conftest import StoreUnderTest
from tests.contract.requests import NOW, ask, campaign, observe, renew, resign
from tests.support.servers import Server
from tests.support.servers.rights import AT_FIRST, denials, user_with, words_of

MakeStore = Callable[..., StoreUnderTest]
SAYS = '{"host":"h"}'


class Saying:
    """A store whose candidate says something with each request."""

    def __init__(self, store: StoreUnderTest, who: str = "a") -> None:
        self._store = store
        self._seconds = 0.0
        store.announce(lambda: (who, SAYS), 10.0)

    def ask(self, request: Request) -> Answer:
        self._seconds += 1000.0
        return ask(self._store, replace(request, sent_at=NOW.plus(self._seconds)))

    def win(self) -> int:
        answer = self.ask(observe())
        answer = ask(self._store, campaign(answer.record.version))
        assert answer.status is ReplyStatus.ACCEPTED
        return answer.record.token


@pytest.fixture
def keys(key: str) -> ElectionKeys:
    return ElectionKeys(key, BEAT)


@pytest.fixture
def hashed(shared_server: Server) -> Any:
    """A client that decodes nothing."""
    return shared_server.client(decode_responses=False)


@pytest.fixture
def beat(make_store: MakeStore, shared_server: Server) -> Saying:
    return Saying(make_store(shared_server.url, role=BEAT))


def stamp(client: Any, seconds: float = 0.0) -> str:
    now, micros = client.time()
    return f"{int(now) * 1_000_000 + int(micros) + round(seconds * 1e6):d}"


def test_it_is_written_with_the_moment_by_redis_clock(
    beat: Saying, hashed: Any, keys: ElectionKeys
) -> None:
    before = int(stamp(hashed))
    token = beat.win()
    for request in (observe(), observe(confirm=True), renew(token)):
        beat.ask(request)
        moment, _, text = hashed.hget(keys.presences, "a").partition(b" ")
        assert before < int(moment) <= int(stamp(hashed))
        assert text == SAYS.encode()
        before = int(moment)
    assert 604_000_000 < hashed.pttl(keys.presences) <= 604_800_000


def test_it_changes_no_answer(
    make_store: MakeStore, shared_server: Server, beat: Saying, keys: ElectionKeys
) -> None:
    silent = make_store(shared_server.url, role=BEAT)
    token = beat.win()
    for request in (observe(), renew(token, "b"), renew(token + 1)):
        with_it, without = beat.ask(request), ask(silent, request)
        assert (with_it.status, with_it.record) == (without.status, without.record)
    looked = beat.ask(renew(token))
    assert looked.status is ReplyStatus.ACCEPTED
    assert looked.look is not None
    assert (looked.look.runs, looked.look.pending) == (b"", b"")
    assert ask(silent, resign(token)).status is ReplyStatus.RESIGNED


@pytest.mark.parametrize(
    "command",
    [("SET", "v"), ("RPUSH", "v"), ("SADD", "v"), ("XADD", "*", "f", "v")],
    ids=lambda command: str(command[0]),
)
def test_a_key_of_another_type_is_replaced_and_costs_no_lease(
    beat: Saying, hashed: Any, keys: ElectionKeys, command: tuple[str, ...]
) -> None:
    token = beat.win()
    hashed.delete(keys.presences)
    hashed.execute_command(command[0], keys.presences, *command[1:])
    assert beat.ask(renew(token)).status is ReplyStatus.ACCEPTED
    assert set(hashed.hkeys(keys.presences)) == {b"a"}


def test_who_says_nothing_more_is_removed_a_few_at_a_time(
    beat: Saying, hashed: Any, keys: ElectionKeys
) -> None:
    token = beat.win()
    long = "x" * 100  # so that the hash is a table, of which a scan returns a part
    hashed.hset(
        keys.presences,
        mapping={
            **{f"old {n}": f"{stamp(hashed, -601)} {long}" for n in range(200)},
            **{f"future {n}": f"{stamp(hashed, 700)} {long}" for n in range(100)},
            **{f"odd {n}": long for n in range(50)},
            **{f"odder {n}": f"1e{n} {long}" for n in range(50)},
            **{f"here {n}": f"{stamp(hashed, -500)} {long}" for n in range(200)},
        },
    )
    sizes = [hashed.hlen(keys.presences)]
    for _ in range(16 * 60):
        beat.ask(renew(token))
        sizes.append(hashed.hlen(keys.presences))
    removed = [before - after for before, after in itertools.pairwise(sizes)]
    assert max(removed) <= 40, "a few"
    assert any(removed[:16]), "once in sixteen times"
    left = {field.split()[0] for field in hashed.hkeys(keys.presences)}
    assert left == {b"a", b"here"}
    assert hashed.hlen(keys.presences) == 201


@pytest.mark.parametrize("info", [True, False], ids=["info", "no info"])
def test_the_rights_that_were_printed_first_suffice(
    make_store: MakeStore, server: Server, key: str, info: bool
) -> None:
    words = [word.replace(b"{leader:shop}", b"*") for word in words_of(AT_FIRST[0])]
    url = user_with(server, words, without="" if info else "info")
    beat = Saying(make_store(url, role=BEAT))
    assert beat.ask(renew(beat.win())).status is ReplyStatus.ACCEPTED
    assert server.client().hexists(ElectionKeys(key, BEAT).presences, "a")
    assert [each for each in denials(server.client()) if "info" not in each] == []


def limited(server: Server, *rights: str) -> str:
    words = ("ACL", "SETUSER", "limited", "reset", "on", ">pw", "+@all", *rights)
    server.client().execute_command(*words)
    server.client().execute_command("ACL", "LOG", "RESET")
    return server.url.replace("redis://", "redis://limited:pw@")


@pytest.mark.parametrize("info", ["+info", "-info"])
def test_a_user_that_may_not_write_it_leads_all_the_same_and_is_told_once(
    make_store: MakeStore,
    server: Server,
    keys: ElectionKeys,
    info: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    names = (keys.lease, keys.witness, keys.history, keys.wake, f"{{leader:{keys.key}}}:runs")
    patterns = [f"~{name}" for name in (*names, LedgerKeys(keys.key).pending)]
    beat = Saying(make_store(limited(server, info, *patterns), role=BEAT))
    token = beat.win()
    for _ in range(3):
        answer = beat.ask(renew(token))
        assert answer.status is ReplyStatus.ACCEPTED
        assert answer.look is not None, "what may be read is read"
    said = [each for each in caplog.records if "does not show this candidate" in each.message]
    assert len(said) == 1
    assert not server.client().exists(keys.presences)


@pytest.mark.parametrize("command", ["hscan", "hdel"])
def test_a_command_less_costs_no_lease(
    make_store: MakeStore,
    server: Server,
    keys: ElectionKeys,
    command: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    server.client().hset(keys.presences, "gone", "1 {}")
    beat = Saying(make_store(limited(server, f"-{command}", "~*"), role=BEAT))
    token = beat.win()
    assert beat.ask(renew(token)).status is ReplyStatus.ACCEPTED
    assert len([each for each in caplog.records if "lacks a right" in each.message]) == 1
    assert server.client().hexists(keys.presences, "a")


def test_a_server_without_memory_keeps_the_election(make_store: MakeStore, server: Server) -> None:
    beat = Saying(make_store(server.url, role=BEAT))
    token = beat.win()
    client: Any = server.client()
    client.config_set("maxmemory", "1")
    assert beat.ask(observe()).status is ReplyStatus.SEEN
    assert beat.ask(renew(token)).status is ReplyStatus.ACCEPTED
    client.config_set("maxmemory", "0")
