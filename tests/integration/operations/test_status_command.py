"""``leader status``: what it says of each state of a record, and how it ends."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from celery_safe_leader import create_safe_redis_leader
from celery_safe_leader.__main__ import main
from celery_safe_leader._ledger.pausing import pause
from celery_safe_leader._store.keys import LedgerKeys
from tests.contract.ledger_helpers import Bench
from tests.integration.operations.commands import HOSTILE, Found, Keeper, invoke
from tests.support.network.ports import free_port
from tests.support.processes import wait_until
from tests.support.servers import ExternalServer, Server
from tests.support.servers.monitor import Monitor
from tests.support.servers.rights import VIEWER_BEFORE, printed, user_with, words_of

CLOCK = "celery_safe_leader._operations.election_view.time"
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def keeper(shared_server: ExternalServer, key: str) -> Keeper:
    return Keeper(shared_server, key)


@pytest.fixture
def status(shared_server: ExternalServer, key: str) -> Callable[..., Found]:
    return lambda *words: invoke(shared_server.url, key, "status", *words)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between two looks; with them none is waited for."""
    made: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        made.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(CLOCK, SimpleNamespace(sleep=sleep, monotonic=lambda: clock[0]))
    return made


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Let something happen between two looks."""
    clock = SimpleNamespace(sleep=lambda seconds: happens(), monotonic=time.monotonic)
    monkeypatch.setattr(CLOCK, clock)


def only(found: Found) -> dict[str, Any]:
    (election,) = found.json["elections"]
    assert isinstance(election, dict)
    return election


STATES = [
    # seconds of silence, fields, looks once, state, exit code; the ttl is 60 s
    ("just renewed", 0.0, {}, True, "held", 0),
    ("less than half a ttl ago", 25.0, {}, True, "held", 0),
    ("longer ago, and never again", 35.0, {}, False, "silent", 1),
    ("a ttl and its hundredth ago", 61.0, {}, True, "silent", 1),
    ("on another server", 0.0, {"epoch": "r:i"}, False, "silent", 1),
    ("without INFO", 0.0, {"epoch": "0123"}, False, "silent", 1),
    ("by a clock that was set back", -600.0, {}, False, "silent", 1),
    ("a renewal that says nothing", 0.0, {"renewal": "x"}, False, "silent", 1),
    ("resigned", 1.0, {"resigned": "1"}, True, "resigned", 1),
    ("vacant", 1.0, {"holder": ""}, True, "vacant", 1),
]


@pytest.mark.parametrize(
    ("silent_for", "fields", "once", "state", "code"),
    [case[1:] for case in STATES],
    ids=[case[0] for case in STATES],
)
def test_what_a_record_tells(
    keeper: Keeper, status: Callable[..., Found], looks: list[float],
    silent_for: float, fields: dict[str, Any], once: bool, state: str, code: int,
) -> None:  # fmt: skip
    keeper.write(silent_for=silent_for, **fields)
    found = status("--json")
    assert (only(found)["state"], found.code) == (state, code)
    assert (not looks) == once
    quick = status("--json", "--no-wait")
    expected = (state, code) if once else ("unclear", 2)
    assert (only(quick)["state"], quick.code) == expected
    assert (only(quick)["may_lead_for"] is not None) == (expected[0] == "held")
    shown = status("--no-wait").output
    assert ("led by host:1:abc" in shown) == (expected[0] == "held")
    assert "leads (" not in shown, "nobody can say that of now"


def test_a_name_that_a_standby_gives_a_hash_of_others_is_no_renewal(
    keeper: Keeper, status: Callable[..., Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.write(ttl=300, renewal="", epoch="")
    name = f"nonce.1-{keeper.now_us()}"
    meanwhile(monkeypatch, lambda: keeper.client.hset(keeper.keys.lease, "renewal", name))
    found = status("--json")
    assert (only(found)["state"], found.code) == ("silent", 1)


def test_a_second_look_sees_that_it_is_renewed(
    keeper: Keeper, status: Callable[..., Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.write(silent_for=35.0)
    meanwhile(monkeypatch, lambda: keeper.write(silent_for=-5000.0))
    found = status("--json")
    assert (only(found)["state"], found.code) == ("held", 0)
    assert 0 < only(found)["may_lead_for"] < 60


@pytest.mark.parametrize(
    ("fields", "state"), [({"resigned": "1"}, "resigned"), ({"holder": ""}, "vacant")]
)
def test_a_second_look_sees_that_it_was_given_up(
    keeper: Keeper, status: Callable[..., Found], monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any], state: str,
) -> None:  # fmt: skip
    keeper.write(silent_for=35.0)
    meanwhile(monkeypatch, lambda: keeper.write(**fields))
    found = status("--json")
    assert (only(found)["state"], found.code) == (state, 1)


def test_nobody_ever_took_part(status: Callable[..., Found]) -> None:
    found = status()
    assert found.code == 1
    elsewhere = "since Redis was emptied; or the key, the database or the prefix is another one"
    assert f"no record: nobody has taken part {elsewhere}" in found.output
    found = status("--role", "worker")
    assert (found.code, f"no worker has taken part {elsewhere}" in found.output) == (1, True)
    assert status("--json").json["elections"] == []
    assert only(status("--json", "--role", "library"))["state"] == "absent"


def test_each_election_in_which_somebody_took_part_is_shown_and_counts(
    shared_server: ExternalServer, key: str, status: Callable[..., Found]
) -> None:
    Keeper(shared_server, key).write()
    assert [each["role"] for each in status("--json").json["elections"]] == ["beat"]
    Keeper(shared_server, key, "worker").write(resigned="1")
    Keeper(shared_server, key, "").write()
    found = status("--json")
    assert found.code == 1
    assert [each["role"] for each in found.json["elections"]] == ["beat", "worker", "library"]
    assert status("--role", "beat").code == 0
    assert status("--role", "library").code == 0
    assert status("--workers").code == 1


def test_the_schema(keeper: Keeper, status: Callable[..., Found], key: str) -> None:
    keeper.tell("elected", ago=60.0, token=1_790_000_000_000)
    keeper.write(silent_for=2.0)
    found = status("--json").json
    assert set(found) == {
        "schema", "version", "at", "key", "server", "elections", "ledger", "missing_rights",
    }  # fmt: skip
    assert (found["schema"], found["version"], found["key"]) == ("status", 1, key)
    assert found["ledger"] == {
        "election": None, "entries": 0, "unsettled": 0, "paused": False, "pause": None,
    }  # fmt: skip
    (election,) = found["elections"]
    assert set(election) == {
        "role", "state", "holder", "token", "ttl", "since", "renewed", "may_lead_for",
        "publication", "last_error", "work", "standbys", "candidates",
    }  # fmt: skip
    assert election["holder"] == "host:1:abc"
    assert election["token"] == 1_790_000_000_000
    assert election["ttl"] == 60.0
    assert election["publication"] is election["last_error"] is None
    for moment in (found["at"], election["since"], election["renewed"]):
        assert ISO.fullmatch(moment)
    assert election["since"] < election["renewed"] < found["at"]
    assert 50 < election["may_lead_for"] < 57.5


@pytest.mark.parametrize(("ago", "shown"), [(60.0, True), (7200.0, False)])
def test_a_leader_that_stood_down_not_long_ago_is_the_last_error(
    keeper: Keeper, status: Callable[..., Found], ago: float, shown: bool
) -> None:
    keeper.tell("elected", ago=ago + 9, token=7)
    keeper.tell("resigned", ago=ago, token=7, reason="stood_down:leader_queue")
    keeper.write()
    error = only(status("--json"))["last_error"]
    assert (error is not None) == shown
    output = status().output
    assert ("stood down at" in output) == ("leader_queue; its log says more" in output) == shown
    if shown:
        assert (error["holder"], error["reason"]) == ("host:1:abc", "leader_queue")
        assert ISO.fullmatch(error["at"])


def test_what_is_not_known_is_null(keeper: Keeper, status: Callable[..., Found]) -> None:
    keeper.write(resigned="1", ttl="", token="x", renewal="")
    election = only(status("--json"))
    assert [election[name] for name in ("since", "renewed", "may_lead_for", "publication")] == [
        None
    ] * 4
    assert election["token"] is None


def test_the_ledger_is_counted_without_its_sentinel(
    shared_server: ExternalServer, key: str, keeper: Keeper, status: Callable[..., Found]
) -> None:
    bench = Bench(shared_server.client(decode_responses=False), key)
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b", "c")
    ledger.write([], [bench.next("a")])
    keeper.write()
    found = status("--json")
    assert found.json["ledger"] == {
        "election": "beat", "entries": 3, "unsettled": 1, "paused": False, "pause": None,
    }  # fmt: skip
    assert "3 entries, 1 run on the way or to be settled; not paused" in status().output
    pause(bench.client, bench.names)
    keeper.tell("paused", holder="ann@desk", reason="upgrade")
    found = status("--json")
    assert found.code == 0
    paused = found.json["ledger"]["pause"]
    assert (paused["number"], paused["by"], paused["reason"]) == (1, "ann@desk", "upgrade")
    assert (paused["until"], bool(ISO.fullmatch(paused["since"]))) == (None, True)
    assert status().lines[1].startswith("PAUSED     nothing is published until it is resumed")
    assert "by ann@desk" in status().output
    bench.pause(2, keeper.now_us() - 1)
    assert status("--json").json["ledger"]["paused"] is False, "it has run out"


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_shown_as_text(
    keeper: Keeper, status: Callable[..., Found], key: str, text: str
) -> None:
    keeper.write(holder=text)
    keeper.tell("elected", holder=text)
    keeper.client.set(keeper.keys.publication, f"1790000000000 write-ahead {text}")
    shown = status()
    assert shown.code == 0
    assert "\x1b" not in shown.output
    assert len(shown.lines) <= 7
    assert max(map(len, shown.lines)) < 500
    assert "\x1b" not in status("--json").output
    assert only(status("--json"))["state"] == "held"


@pytest.mark.parametrize("words", [("status",), ("check",), ("probe", "--ready"), ("runs",)])
def test_a_server_that_is_away_is_no_answer(words: Sequence[str]) -> None:
    port = free_port()
    found = invoke(f"redis://:secret@127.0.0.1:{port}/0", "shop", *words)
    assert found.code == 2
    # Which server, rather than which command was sent to it.
    assert f"shop at redis://127.0.0.1:{port}/0: no answer from Redis" in found.output
    assert "TIME" not in found.output
    assert "secret" not in found.output


def test_a_wrong_password_is_told_with_key_and_server(shared_server: ExternalServer) -> None:
    where = shared_server.url.removeprefix("redis://")
    found = invoke(f"redis://nobody:secret@{where}", "shop", "status")
    assert found.code == 2
    assert f"shop at redis://{where}: Redis refuses the user name or password" in found.output
    assert "secret" not in found.output


@pytest.mark.parametrize(
    ("url", "key", "named"),
    [
        ("ftp://:secret@h", "shop", "--url is"),
        ("redis://:secret@h:port/0", "shop", "--url is"),
        ("redis://:sec/secret@h", "shop", "--url is"),
        ("redis://h", "two\nlines", "--key is"),
        ("redis://h", "", "--key is"),
    ],
)
def test_a_wrong_option_is_named(url: str, key: str, named: str) -> None:
    found = invoke(url, key, "status")
    assert found.code == 2
    assert named in found.output
    assert "secret" not in found.output


HINTS = [
    # words of the group, environment, how the advice calls the command
    ("--url {url} --key {key}", {}, "--url {url} --key {key} status"),
    ("--url {url} --key {key} --prefix a\\ b", {}, "--url {url} --key {key} --prefix 'a b' status"),
    ("--key {key}", {"CELERY_SAFE_LEADER_URL": "{url}"}, "--key {key} status"),
    ("--url {url}?password= --key {key}", {}, "--url … --key {key} status"),
]


@pytest.mark.parametrize(("words", "environment", "hint"), HINTS)
def test_advice_can_be_pasted_into_a_shell(
    shared_server: ExternalServer, key: str, words: str, environment: dict[str, str], hint: str
) -> None:
    names = {"url": shared_server.url, "key": key}
    env = {name: value.format(**names) for name, value in environment.items()}
    given = shlex.split(words.format(**names))
    done = CliRunner().invoke(main, [*given, "resign"], env=env)
    assert f"`python -m celery_safe_leader {hint.format(**names)}`" in done.output


def test_a_password_is_no_part_of_advice(valkey_server: Server) -> None:
    user = user_with(valkey_server, printed("shop")[2])
    assert "`python -m celery_safe_leader --url … --key shop status`" in (
        invoke(user, "shop", "resign").output
    )


@pytest.mark.parametrize(("every", "allowed"), [("0.4s", False), ("0.5s", True), ("2", True)])
def test_how_often_one_may_watch(
    every: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str | None] = []

    def show(target: object, role: str | None) -> None:
        looked.append(role)
        raise KeyboardInterrupt

    monkeypatch.setattr("celery_safe_leader._operations.watch_command._show", show)
    found = invoke("redis://h", "shop", "watch", "--every", every)
    assert (found.code, len(looked)) == ((0, 1) if allowed else (2, 0))
    assert ("at least 0.5s is allowed" in found.output) != allowed


def test_the_viewer_of_before_sees_what_it_may_and_hears_what_is_missing(
    valkey_server: Server,
) -> None:
    Keeper(valkey_server, "shop").write()
    keys = LedgerKeys("shop")
    before = user_with(valkey_server, words_of(VIEWER_BEFORE))
    found = invoke(before, "shop", "status", "--no-wait")
    assert found.code == 2, "without the clock one look does not tell"
    assert "the Redis user lacks +time +info" in found.output
    assert f"the Redis user needs +hget +hlen %R~{keys.runs} %R~{keys.pending}" in found.output
    found = invoke(before, "shop", "status", "--no-wait", "--json")
    assert (found.json["at"], found.json["ledger"]) == (None, None)
    assert found.json["missing_rights"] == ["time", "info"]
    now = user_with(valkey_server, printed("shop")[1])
    assert invoke(now, "shop", "status", "--no-wait").code == 0
    nothing = user_with(valkey_server, words_of("ACL SETUSER none on >PASSWORD -@all"))
    found = invoke(nothing, "shop", "status")
    assert found.code == 2
    assert "lacks a right" in found.output


def test_a_large_ledger_costs_no_more_requests(valkey_server: Server) -> None:
    """And none of them reads a hash or a stream as a whole."""
    keeper = Keeper(valkey_server, "shop")
    keeper.write()
    names = LedgerKeys("shop")
    for start in range(0, 100_000, 10_000):
        fields = {f"entry {n}": "1 1 1 f" for n in range(start, start + 10_000)}
        keeper.client.hset(names.runs, mapping=fields)
    monitor = Monitor(valkey_server)
    found = invoke(valkey_server.url, "shop", "status", "--json")
    assert found.json["ledger"]["entries"] == 100_000
    valkey_server.client().echo("end")
    wait_until(lambda: ["ECHO", "end"] in monitor.commands, 30, "the end")
    asked = {words[0] for words in monitor.commands}
    assert len(monitor.commands) < 40
    assert "HLEN" in asked
    assert asked.isdisjoint({"HGETALL", "HKEYS", "HVALS", "KEYS", "SCAN"})


def test_a_real_leader_is_seen_until_it_resigns(shared_server: ExternalServer, key: str) -> None:
    with create_safe_redis_leader(redis=shared_server.url, key=key, ttl=2.0, wait=0.1) as leader:
        token = leader.wait_until_leader(60)
        found = invoke(shared_server.url, key, "status", "--json")
        assert found.code == 0
        assert only(found)["token"] == token
        assert only(found)["holder"] == leader.candidate_id
        assert only(found)["since"] is not None
    found = invoke(shared_server.url, key, "status", "--json")
    assert (found.code, only(found)["state"]) == (1, "resigned")
