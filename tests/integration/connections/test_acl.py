"""The rights that are printed are enough, and each of them is needed, and missed in clear words."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import kombu.messaging
import pytest
import redis
from celery import Celery, signals
from click.testing import CliRunner

from celery_safe_leader._beat.election_history import somebody_led_well
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
from celery_safe_leader._ledger.moving.contents import read_accepted, read_contents
from celery_safe_leader._ledger.moving.replacement import (
    note_accepted,
    rename_entry,
    replace_contents,
)
from celery_safe_leader._ledger.pausing import pause, resume
from celery_safe_leader._ledger.way import NotedWay, Way, note_way, read_way
from celery_safe_leader._publishing.broker_settings import QueueKeys, queue_keys
from celery_safe_leader._store.acl import CANDIDATE, OPERATOR, PROBE, TRANSACTIONAL, VIEWER
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from celery_safe_leader._store.record_view import read_record
from celery_safe_leader._store.server_now import read_epoch, read_time
from celery_safe_leader._store.sync import RedisStore
from celery_safe_leader.cli import leader, rights
from celery_safe_leader.errors import StoreRefusedError
from tests.contract.ledger_helpers import Bench
from tests.support.processes.child import ROOT
from tests.support.servers import Server
from tests.support.servers.kinds import OLDEST, all_kinds
from tests.support.servers.rights import AT_FIRST, denials, printed, user_with, words_of

KEY = "shop"
NAMES = "client|setname"
"""The right without which connections have no name in CLIENT LIST; all else is the same."""
LIMIT = 5.0
batches = pytest.mark.skipif(
    not hasattr(kombu.messaging.Producer, "batch"), reason="this kombu never goes that way"
)
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
        note_way(self.client, keys, token, Way.WRITE_AHEAD, "why")
        assert read_way(self.client, keys) == NotedWay(token, Way.WRITE_AHEAD, "why")
        ask(Resign(now, "me", token, "n", "shutdown"), ReplyStatus.RESIGNED)
        assert not somebody_led_well(self.client, keys.history, "me", token)

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
        server.client().script_flush()
        caplog.clear()
        play = Play(user_with(server, words, without=command, name=f"no-{len(command)}", db=1))
        if command == "info":
            play.everything()
            assert "the Redis user may not run INFO" in caplog.text
        elif command == "xrevrange":
            play.everything()
            assert "The history of the election cannot be read" in caplog.text
            assert "lacks a right that the election needs" in caplog.text
        elif command == NAMES:
            play.everything()
            assert caplog.text == ""
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


_RECORD = """\
redis.call('HSET', KEYS[1], 'e', '1')
redis.call('LPUSH', KEYS[2], 'message')
redis.call('PEXPIRE', KEYS[2], 60000)
redis.call('HSET', KEYS[3], 'e', 'mark')
"""
"""What transactional publication asks of Redis, in one script with all keys declared."""
_QUEUES = QueueKeys(("celery", "n[i]ght*", "läden"), "pre:")
_SUFFIXES = ("", "\x06\x163", "\x06\x169")


def record(client: redis.Redis, queue: str, key: str = KEY) -> None:
    ledger, any_client = LedgerKeys(key), client
    any_client.eval(_RECORD, 3, ledger.runs, queue, ledger.running)


def record_each(client: redis.Redis, queue: str) -> None:
    """Queue a run of each kind of priority."""
    for suffix in _SUFFIXES:
        record(client, f"{queue}{suffix}")


def probe(client: redis.Redis) -> None:
    """Leave what is read over the ledger's connection."""
    for role in ("beat", "worker"):
        client.set(ElectionKeys(KEY, role).probe, "value", ex=60)


def test_what_was_printed_before_is_still_enough_for_write_ahead(server: Server) -> None:
    assert [*words_of(AT_FIRST[0]), b"+xrevrange"] == printed(KEY)[0]
    client = client_for(user_with(server, words_of(AT_FIRST[0])))
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.lpush("celery", "message")
    for name in ("celery", LedgerKeys(KEY).running):
        with pytest.raises(redis.ResponseError):
            record(client, name)
    owner = server.client()
    assert owner.exists("celery", LedgerKeys(KEY).runs, LedgerKeys(KEY).running) == 0
    client.close()


def test_the_line_in_addition_is_enough_for_transactional_publication(server: Server) -> None:
    candidate, added, _, _ = printed(KEY, queues=_QUEUES)
    user_with(server, candidate)
    play = Play(user_with(server, added))
    for queue in _QUEUES.names:
        record_each(play.client, f"pre:{queue}")
    server.client().delete(LedgerKeys(KEY).runs)
    play.everything()
    assert denials(server.client()) == []
    for other in ("celery", "pre:celery2", "pre:night", "pre:n[i]ghtly", "pre:other"):
        with pytest.raises(redis.ResponseError):
            record(play.client, other)
        assert server.client().exists(other) == 0
    play.close()


def test_each_right_of_the_line_in_addition_is_needed(server: Server) -> None:
    candidate, added, _, _ = printed(KEY, queues=QueueKeys(("celery",)))
    rights_in_it = added[3:]
    assert rights_in_it == [
        b"~{leader:shop}:running", b"~celery", b"~celery\x06\x16*", b"+lpush",
    ]  # fmt: skip
    for right in rights_in_it:
        user_with(server, candidate)
        client = client_for(user_with(server, [word for word in added if word != right]))
        with pytest.raises(redis.ResponseError):
            record_each(client, "celery")
        client.close()


def test_a_broker_s_user_needs_the_shown_right_for_the_probe(server: Server) -> None:
    lines = rights(KEY, "redis://h", "celery-leader", queues=_QUEUES)
    shown = next(line for line in lines if "logs in as another user" in line)
    needed = [word for word in words_of(shown) if word[:1] in b"+~"]
    assert needed == [
        *(f"+{command}".encode() for command in PROBE),
        b"~{leader:shop}:beat:probe", b"~{leader:shop}:worker:probe",
    ]  # fmt: skip
    own = words_of("ACL SETUSER broker on >PASSWORD resetkeys -@all +client|setname")
    for left_out in needed:
        client = client_for(user_with(server, [*own, *(w for w in needed if w != left_out)]))
        with pytest.raises(redis.exceptions.NoPermissionError):
            probe(client)
        client.close()
    client = client_for(user_with(server, [*own, *needed]))
    probe(client)
    client.close()


def looks(client: redis.Redis, key: str = KEY) -> None:
    """Look as the command and the docs do."""
    for role in ("beat", "worker"):
        keys = ElectionKeys(key, role)
        read_record(client, keys)
        read_way(client, keys)
        any_client: Any = client
        any_client.hgetall(keys.lease)
        any_client.xrange(keys.history)
        any_client.hscan(keys.presences)
    read_time(client)
    read_epoch(client)
    names = LedgerKeys(key)
    for name in (names.runs, names.pending):
        any_client.hlen(name)
        any_client.hget(name, "e")
    any_client.hscan(names.runs)


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
    words = viewer(server)
    shown = [word.lstrip(b"%R~").decode() for word in words if b"~" in word]
    assert len(shown) == 10
    for left_out in (*(f"+{command}" for command in VIEWER if command != NAMES), *shown):
        given = [word for word in words if not word.endswith(left_out.encode())]
        assert len(given) == len(words) - 1
        client = client_for(user_with(server, given, name="less", db=1))
        with pytest.raises((redis.RedisError, StoreRefusedError)):
            looks(client)
        client.close()


def acts(client: redis.Redis) -> None:
    """Do what an operator does."""
    names, keys = LedgerKeys(KEY), ElectionKeys(KEY, "beat")
    pause(client, names, 60.0)
    rename_entry(client, names, "e", "f")
    rename_entry(client, names, "f", "e")
    there = read_contents(client, names)
    read_accepted(client, names, ["o"])
    note_accepted(client, names, {"o": "n"})
    client.hset(names.unknown, "e", 1)
    replace_contents(client, names, there, there.runs, {}, "beat")
    resume(client, names)
    client.rpush(keys.ask, "request")
    client.pexpire(keys.ask, 5000)
    client.xadd(keys.history, {"event": "paused"})
    client.pexpire(keys.history, 5000)


def operator(server: Server) -> list[bytes]:
    words = printed(KEY)[2]
    if server.kind == OLDEST:
        words = [word.replace(b"%R~", b"~") for word in words]
    return words


def test_who_operates_may_do_that_and_can_neither_publish_nor_lead(server: Server) -> None:
    owner = server.client()
    bench = Bench(server.client(decode_responses=False), KEY)
    bench.enrol(bench.ledger(), "e")
    client = client_for(user_with(server, operator(server), db=0))
    looks(client)
    acts(client)
    assert denials(owner) == []
    keys = ElectionKeys(KEY, "beat")
    refused: list[tuple[Any, ...]] = [
        ("LPUSH", "celery", "message"),
        ("RPUSH", "celery", "message"),
        ("EVAL", "return redis.call('LPUSH', KEYS[1], 'm')", 1, "celery"),
        ("DEL", LedgerKeys(KEY).runs),
        ("RENAME", LedgerKeys(KEY).runs, "celery"),
    ]
    if server.kind != OLDEST:  # where there are no keys that may be read only
        refused += [("HSET", keys.lease, "resigned", "1"), ("HSET", keys.lease, "holder", "me")]
        refused += [("UNLINK", keys.lease)]
    for command in refused:
        with pytest.raises(redis.ResponseError):
            client.execute_command(*command)
    assert owner.exists("celery") == 0
    client.close()


def test_each_right_of_who_operates_is_needed(server: Server) -> None:
    bench = Bench(server.client(decode_responses=False), KEY)
    bench.enrol(bench.ledger(), "e")
    words = operator(server)
    # What a script calls is checked inside of it, too.
    patterns = [word for word in words if word[:1] == b"~" and b":worker:" not in word]
    if server.kind == OLDEST:
        patterns = [word for word in patterns if words.count(word) == 1 and b":beat:l" not in word]
        patterns = [word for word in patterns if not re.search(b"publication|candidates", word)]
    commands = {f"+{command}".encode() for command in (*OPERATOR, "hget", "hlen", "time")}
    for left_out in (*commands, *patterns):
        given = [word for word in words if word != left_out]
        client = client_for(user_with(server, given, name="less"))
        server.client().script_flush()
        with pytest.raises((redis.RedisError, StoreRefusedError)):
            acts(client)
        client.close()


def test_the_rights_are_those_that_the_scripts_name() -> None:
    """One that a rare branch needs is not left out."""
    called = {"blpop", "client|setname", "eval", "evalsha", "hscan", "select", "wait", "xrevrange"}
    for package in ("_store", "_ledger"):
        for path in (ROOT / "celery_safe_leader" / package / "scripts").glob("*.lua"):
            if path.stem in ("rename", "replace", "stage", "unled"):
                continue  # people's: they need the operator's rights
            called |= {
                name.lower() for name in re.findall(r"redis.p?call\('(\w+)'", path.read_text())
            }
    assert set(CANDIDATE) == called - set(TRANSACTIONAL)


def test_the_docs_show_what_is_printed() -> None:
    shown = (ROOT / "docs" / "operations" / "redis-acl.md").read_text().splitlines()
    app = Celery(KEY, broker="redis://h", set_as_current=False)
    queues = queue_keys(app, f"leader.{KEY}")
    lines = rights(KEY, "redis://h", "celery-leader", queues=queues)
    assert len(printed(KEY)) == 3
    assert len(printed(KEY, queues=queues)) == 4
    assert all(f"    {line}" in shown for line in lines if not line.startswith("#"))


def test_what_is_printed_for_a_cluster_and_for_sentinels() -> None:
    for line in printed(KEY, "redis+cluster://h"):
        assert {b"+cluster|slots", b"+asking"} <= set(line), "of candidates, viewers and operators"
    at_sentinels = printed(KEY, "sentinel://h")[3]
    assert b"+sentinel|get-master-addr-by-name" in at_sentinels
    assert not any(word.startswith(b"~") for word in at_sentinels)


def test_a_cluster_that_only_the_options_name_is_one() -> None:
    app = Celery("shop", broker="amqp://h")
    app.conf.update(leader_url="redis://h", leader_options={"cluster": True})
    shown = CliRunner().invoke(leader, ["acl"], obj=SimpleNamespace(app=app))
    assert shown.exit_code == 0
    assert "+cluster|slots" in shown.output


def acl(app: Celery, *options: str) -> tuple[int, str]:
    shown = CliRunner().invoke(leader, ["acl", *options], obj=SimpleNamespace(app=app))
    assert shown.exception is None or isinstance(shown.exception, SystemExit)
    return shown.exit_code, shown.output


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery(KEY, broker="redis://h", set_as_current=False)
    yield made
    made.close()


@batches
def test_the_command_finds_the_queues_of_the_app(app: Celery) -> None:
    app.conf.update(
        leader_url="redis://other",
        task_routes={"a.*": {"queue": "routed"}},
        broker_transport_options={"global_keyprefix": "pre:"},
    )

    @signals.import_modules.connect(weak=False, sender=app)
    def import_late(**_: Any) -> None:
        app.conf.beat_schedule["late"] = {"task": "t", "options": {"queue": "late"}}

    try:
        code, output = acl(app, "--user", "me")
    finally:
        signals.import_modules.disconnect(import_late, sender=app)
    assert code == 0
    queues = QueueKeys(("celery", "late", "leader.shop", "routed"), "pre:")
    _, expected, _, _ = rights_lines("me", queues)
    assert expected in output.splitlines()
    assert "~pre:routed" in expected


def rights_lines(user: str, queues: QueueKeys | None) -> list[str]:
    lines = rights(KEY, "redis://h", user, queues=queues)
    return [line for line in lines if not line.startswith("#")]


def test_where_no_run_can_be_transactional_the_command_says_why(app: Celery) -> None:
    app.conf.update(broker_url="amqp://h", leader_url="redis://h")
    code, output = acl(app)
    assert code == 0
    assert "# Every run goes by write-ahead, which needs no more: " in output
    assert "lpush" not in output
    shown = [line for line in output.splitlines() if not line.startswith("#")]
    assert shown == rights_lines("celery-leader", None)


@batches
def test_tasks_that_cannot_be_imported_are_an_error_in_words(app: Celery) -> None:
    app.conf.imports = ["no_such_module_of_tasks"]
    code, output = acl(app)
    assert code == 2
    assert "the tasks cannot be imported: ModuleNotFoundError" in output


@pytest.mark.parametrize("command", ["acl", "status", "probe"])
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"leader_ttl": 5000}, "leader_ttl"),
        ({"broker_url": "amqp://h"}, "leader_url"),
        ({"leader_url": "http://h"}, "leader_url"),
    ],
)
def test_a_wrong_setting_ends_every_command_with_2(
    app: Celery, settings: dict[str, Any], named: str, command: str
) -> None:
    app.conf.update(settings)
    words = [command, "--ready"] if command == "probe" else [command]
    shown = CliRunner().invoke(leader, words, obj=SimpleNamespace(app=app))
    assert (shown.exit_code, named in shown.output) == (2, True), shown.output
