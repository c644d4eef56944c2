"""The rights that are printed are enough, and each of them is needed, and missed in clear words."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from click.testing import CliRunner

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import (
    Answer,
    Await,
    Campaign,
    Observe,
    Renew,
    ReplyStatus,
    Request,
    Resign,
)
from celery_safe_leader._ledger.acceptance import AcceptanceOutcome, accept
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._store.acl import CANDIDATE, VIEWER
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.record_view import read_record
from celery_safe_leader._store.sync import RedisStore
from celery_safe_leader.cli import leader, rights
from celery_safe_leader.errors import StoreRefusedError
from tests.contract.ledger_helpers import Bench
from tests.support.processes.child import ROOT
from tests.support.servers import Server
from tests.support.servers.kinds import OLDEST, all_kinds
from tests.support.servers.rights import denials, printed, user_with

KEY = "shop"
LIMIT = 5.0
_ODD_KEYS = ("a b", "st*r [x]?", 'q"uote\\', "läden", "new\nline", "{brace}d", "-", "x" * 1024)


def client_for(url: str) -> redis.Redis:
    return make_client(url, connect_timeout=LIMIT, read_timeout=LIMIT)


class Play:
    """Everything that candidates and workers ask of Redis, once."""

    def __init__(self, url: str, key: str = KEY) -> None:
        self.client = client_for(url)
        self.key = key

    def close(self) -> None:
        self.client.close()

    def election(self, role: str) -> None:
        """Look, win, renew, lose the data, take them back, resign, sleep."""
        keys = ElectionKeys(self.key, role)
        store = RedisStore(self.client, self.client, keys)
        now = Instant(0.0, 0.0, 0.0)

        def ask(request: Request, status: ReplyStatus) -> Answer:
            answer = store.execute(request)
            assert isinstance(answer, Answer)
            assert answer.status is status
            return answer

        if role == "beat":  # once, since a server looks only ten times a second who waits
            RedisStore(
                self.client, self.client, keys, wait_replicas=1, confirm_timeout=0.01
            ).execute(Observe(now, "n", 1.0, 0, confirm=True))
            store.execute(Await(now, 0.01))
        seen = ask(Observe(now, "n", 1.0, 0, confirm=True), ReplyStatus.SEEN)
        version = seen.record.version
        won = ask(Campaign(now, version, "me", "n", 1.0, 1.0, 0), ReplyStatus.ACCEPTED)
        token = won.record.token
        ask(Renew(now, "me", token, "n", 1.0, 1.0), ReplyStatus.ACCEPTED)
        self.client.delete(keys.lease)
        gone = ask(Renew(now, "me", token, "n", 1.0, 1.0), ReplyStatus.VACANT)
        version = gone.record.version
        ask(Campaign(now, version, "me", "n", 1.0, 1.0, token, keep=True), ReplyStatus.ACCEPTED)
        if role == "beat":
            self.ledger(token)
        ask(Resign(now, "me", token, "n", "shutdown"), ReplyStatus.RESIGNED)

    def ledger(self, token: int) -> None:
        """Adopt, load, enrol, claim, settle, commit, merge, forget."""
        bench = Bench(self.client, self.key)
        ledger = Ledger(self.client, self.key, "beat", ttl=1.0, clock=time.monotonic)
        ledger.adopt("me", token)
        ledger.load()
        bench.enrol(ledger, "e", "gone")
        ledger.write((), (bench.next(),))
        ledger.settle((bench.claim(),))
        ledger.write((bench.commit(),), ())
        ledger.write((bench.commit(),), ())  # repeated, as after a lost reply
        ledger.write((), (bench.next(second=2, after=1, count=1),))
        ledger.adopt("me", token, restoring=True)
        ledger.merge({"e": bench.run(3, 2)}, {})
        ledger.seal()
        ledger.forget(("gone",), ("e",), grace=0)

    def workers(self) -> None:
        """Ask whether a message is the first."""
        occurrence = str(uuid.uuid4())
        for nonce, outcome in (("a", AcceptanceOutcome.FIRST), ("b", AcceptanceOutcome.OTHER)):
            answer = accept(self.client, self.key, occurrence, nonce, window=60)
            assert answer.outcome is outcome

    def everything(self) -> None:
        self.election("beat")
        self.election("worker")
        self.workers()


def test_the_printed_rights_are_enough_for_candidates(server: Server) -> None:
    url = user_with(server, printed(KEY)[0], db=1)
    play = Play(url)
    play.everything()
    play.close()
    assert denials(server.client()) == []


@pytest.fixture(params=all_kinds())
def server(request: pytest.FixtureRequest, start_server: Callable[..., Server]) -> Server:
    """The oldest kind, too: rights are said in other words there."""
    return start_server(request.param)


def test_they_are_for_any_key_and_for_that_key_only(server: Server) -> None:
    for key in _ODD_KEYS:
        play = Play(user_with(server, printed(key)[0]), key)
        play.everything()
        assert denials(server.client()) == [], key
        for other in ("shop2", "s", key + "2"):
            with pytest.raises(StoreRefusedError, match="lacks a right that the election needs"):
                accept(play.client, other, "id", "a", window=60)
        play.close()


def test_each_of_them_is_needed_and_missed_in_clear_words(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    words = printed(KEY)[0]
    assert [f"+{command}".encode() for command in CANDIDATE] == [w for w in words if w[:1] == b"+"]
    for command in CANDIDATE:
        server.client().flushall()
        caplog.clear()
        play = Play(user_with(server, words, without=command, name=f"no-{len(command)}", db=1))
        if command == "info":
            play.everything()
            assert "the Redis user may not run INFO" in caplog.text
        else:
            with pytest.raises(StoreRefusedError) as caught:
                play.everything()
            assert "lacks a right that the election needs" in str(caught.value), command
            assert "celery -A proj leader acl" in str(caught.value)
        play.close()
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_a_pattern_less_is_missed_in_clear_words(server: Server) -> None:
    words = printed(KEY)[0]
    patterns = [word for word in words if word.startswith(b"~")]
    assert len(patterns) == 7
    for pattern in patterns:
        server.client().flushall()
        left = [word for word in words if word != pattern]
        play = Play(user_with(server, left, name="less"))
        with pytest.raises(StoreRefusedError, match="lacks a right that the election needs"):
            play.everything()
        play.close()


def looks(client: redis.Redis, key: str = KEY) -> None:
    """Look as the command and the docs do."""
    for role in ("beat", "worker"):
        keys = ElectionKeys(key, role)
        read_record(client, keys)
        any_client: Any = client
        any_client.hgetall(keys.lease)
        any_client.xrange(keys.history)


def viewer(server: Server) -> list[bytes]:
    words = printed(KEY)[1]
    if server.kind == OLDEST:
        words = [word.replace(b"%R~", b"~") for word in words]
    return words


def test_who_looks_may_do_that_and_nothing_else(server: Server) -> None:
    client = client_for(user_with(server, viewer(server), db=1))
    looks(client)
    assert denials(server.client()) == []
    for command in (("HSET", f"{{leader:{KEY}}}:beat:lease", "resigned", "1"), ("KEYS", "*")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    client.close()


def test_each_right_of_who_looks_is_needed(server: Server) -> None:
    for command in VIEWER:
        url = user_with(server, viewer(server), without=command, name="less", db=1)
        client = client_for(url)
        with pytest.raises((redis.RedisError, StoreRefusedError)):
            looks(client)
        client.close()


def test_the_rights_are_those_that_the_scripts_name() -> None:
    """One that a rare branch needs is not left out."""
    called = {"blpop", "client|setname", "eval", "evalsha", "hscan", "select", "wait"}
    for package in ("_store", "_ledger"):
        for path in (ROOT / "celery_safe_leader" / package / "scripts").glob("*.lua"):
            called |= {
                name.lower() for name in re.findall(r"redis.p?call\('(\w+)'", path.read_text())
            }
    assert set(CANDIDATE) == called


def test_the_docs_show_what_is_printed() -> None:
    shown = (ROOT / "docs" / "operations" / "redis-acl.md").read_text().splitlines()
    lines = rights(KEY, "redis://h", "celery-leader")
    assert len(printed(KEY)) == 2
    assert all(f"    {line}" in shown for line in lines if not line.startswith("#"))


def test_what_is_printed_for_a_cluster_and_for_sentinels() -> None:
    assert b"+cluster|slots" in printed(KEY, "redis+cluster://h")[0]
    assert b"+asking" in printed(KEY, "redis+cluster://h")[0]
    at_sentinels = printed(KEY, "sentinel://h")[2]
    assert b"+sentinel|get-master-addr-by-name" in at_sentinels
    assert not any(word.startswith(b"~") for word in at_sentinels)


def test_a_cluster_that_only_the_options_name_is_one() -> None:
    app = Celery("shop", broker="amqp://h")
    app.conf.update(leader_url="redis://h", leader_options={"cluster": True})
    shown = CliRunner().invoke(leader, ["acl"], obj=SimpleNamespace(app=app))
    assert shown.exit_code == 0
    assert "+cluster|slots" in shown.output
