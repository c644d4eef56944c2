"""What ``leader status`` shows of those who take part, as they say of themselves."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celery_safe_leader import create_async_safe_redis_leader, create_safe_redis_leader
from celery_safe_leader._core.state import State
from celery_safe_leader._operations.presence_view import Due, WorkView
from celery_safe_leader._operations.status_command import _work_lines
from celery_safe_leader._runtime.thread import ThreadRunner
from celery_safe_leader._store.keys import ElectionKeys
from tests.integration.operations.commands import HOSTILE, Found, Keeper, invoke
from tests.support.processes import wait_until
from tests.support.servers import ExternalServer, Server
from tests.support.servers.monitor import Monitor
from tests.support.servers.rights import VIEWER_BEFORE, printed, url_of, user_with, words_of

HOLDER = "host:1:abc"


class Crowd(Keeper):
    """A record, and candidates that are not there."""

    def say(self, name: str | bytes, *, ago: Any = 0.0, **fields: Any) -> None:
        """Write what a candidate said so many seconds ago."""
        said = {
            "host": "web-1", "pid": 7, "release": "0.1.0", "celery": "5.6.0", "ttl": 10.0,
            "age": 90.0, "token": None, **fields,
        }  # fmt: skip
        self.put(name, f"{self.now_us() - round(ago * 1e6)} {json.dumps(said)}")

    def put(self, name: str | bytes, value: str | bytes) -> None:
        self.client.hset(self.keys.presences, name, value)


@pytest.fixture
def crowd(shared_server: ExternalServer, key: str) -> Crowd:
    crowd = Crowd(shared_server, key)
    crowd.write()
    return crowd


@pytest.fixture
def status(shared_server: ExternalServer, key: str) -> Callable[..., Found]:
    return lambda *words: invoke(shared_server.url, key, "status", *words)


def only(found: Found) -> dict[str, Any]:
    (election,) = found.json["elections"]
    assert isinstance(election, dict)
    return election


def test_candidates_are_shown_with_what_they_say(
    crowd: Crowd, status: Callable[..., Found]
) -> None:
    work = {
        "entries": 120, "unsettled": 1, "published": 1234, "given_up": 2, "missed": 0,
        "lateness": 0.0041, "way": "transactional",
        "next": [[1_790_000_000_000_000, "gone"], [4_102_444_800_000_000, "poll-orders"]],
    }  # fmt: skip
    crowd.say(HOLDER, ago=3.0, token=1_790_000_000_000, work=work, scheduler="LeaderScheduler")
    crowd.say("b:7:x", ago=1.0, error="no answer from Redis", error_age=4.0, ticked=0.4)
    crowd.say("c:7:x", ago=2.0, ticked=75.0)
    crowd.say("d:7:x", ago=31.0)
    crowd.say("e:7:x", ago=601.0)
    election = only(status("--json"))
    assert election["standbys"] == 2
    shown = {each["id"]: each for each in election["candidates"]}
    assert {name: each["state"] for name, each in shown.items()} == {
        HOLDER: "leader", "b:7:x": "standby", "c:7:x": "standby", "d:7:x": "silent",
    }  # fmt: skip
    b = shown["b:7:x"]
    assert (b["host"], b["pid"], b["release"], b["celery"]) == ("web-1", 7, "0.1.0", "5.6.0")
    assert b["last_error"]["error"] == "no answer from Redis"
    assert b["since"] < b["last_error"]["at"] < b["seen"]
    assert [shown[name]["stuck"] for name in ("b:7:x", "c:7:x")] == [False, True]
    assert election["work"] == {
        "at": shown[HOLDER]["seen"],
        "entries": 120, "unsettled": 1, "published": 1234, "missed": 0, "given_up": 2,
        "lateness": 0.0041, "publication": "transactional",
        "next": [
            {"entry": "gone", "at": "2026-09-21T14:13:20.000Z"},
            {"entry": "poll-orders", "at": "2100-01-01T00:00:00.000Z"},
        ],
        "consumes": None, "running": None,
    }  # fmt: skip
    output = status().output
    assert re.search(r"this tenure, as of 3\.\d s ago: 1,234 runs published, the latest", output)
    assert "0.004 s late; 2 runs that could" in output
    assert "next: gone due, poll-orders 2100-01-01 00:00:00" in output
    assert "2 standbys" in output
    assert "c:7:x looks STUCK: its loop has not turned for 1 min 15 s" in output
    assert "d:7:x: no sign of life for 31." in output
    assert "e:7:x" not in output


MIDNIGHT_US = 1_795_737_600_000_000
"""2026-11-27 00:00:00 UTC."""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (23 * 3600, "due"),
        (86_399, "23:59:59"),
        (86_400, "2026-11-28 00:00:00"),
        (27 * 86_400, "2026-12-24 00:00:00"),
    ],
)
def test_the_next_moment_has_its_date_unless_it_is_today(seconds: int, shown: str) -> None:
    now_us = MIDNIGHT_US + int(23.5 * 3_600_000_000)
    work = WorkView(published=1, next=(Due("a", MIDNIGHT_US + seconds * 1_000_000),))
    assert list(_work_lines(work, now_us))[-1] == f"next: a {shown}"


def test_what_another_tenure_did_is_not_shown_as_this_one_s(
    crowd: Crowd, status: Callable[..., Found]
) -> None:
    crowd.say(HOLDER, token=1_780_000_000_000, work={"published": 5})
    assert only(status("--json"))["work"] is None
    assert "this tenure" not in status().output


@pytest.mark.parametrize("next_leader", [None, "b:7:x"])
def test_a_leader_that_resigned_is_no_standby_until_it_says_so(
    crowd: Crowd, status: Callable[..., Found], shared_server: ExternalServer, key: str,
    next_leader: str | None,
) -> None:  # fmt: skip
    crowd.say(HOLDER, ago=1.0, token=1_790_000_000_000)
    crowd.say("b:7:x", ago=1.0)
    crowd.say("c:7:x", ago=1.0)
    if next_leader is None:
        crowd.write(resigned="1")
    else:
        crowd.write(holder=next_leader, token=1_790_000_000_001)
    left = 2 if next_leader is None else 1
    election = only(status("--json"))
    assert election["standbys"] == left
    states = {each["id"]: each["state"] for each in election["candidates"]}
    assert states[HOLDER] == "former"
    output = status().output
    assert f"{left} standby" in output
    assert f"{HOLDER}: led, and leads no more; no sign of life for 1." in output
    checked = invoke(shared_server.url, key, "check", "--json").json["findings"]
    assert f"{left} standby" in " ".join(each["text"] for each in checked)
    crowd.say(HOLDER)
    election = only(status("--json"))
    assert election["standbys"] == left + 1
    assert "leads no more" not in status().output


@pytest.mark.parametrize("scheduler", ["LeaderDatabaseScheduler", "LeaderRedBeatScheduler"])
def test_a_leader_over_a_store_of_its_own_needs_to_note_no_way(
    crowd: Crowd, status: Callable[..., Found], scheduler: str
) -> None:
    crowd.say(HOLDER, token=1_790_000_000_000, scheduler=scheduler)
    output = status().output
    assert f"publication: by {scheduler}: it sends each run" in output
    assert "unknown" not in output.partition("ledger")[0]
    assert only(status("--json"))["publication"] is None


@pytest.mark.parametrize(("ago", "state"), [(1.0, "former"), (9.0, "standby")])
def test_one_that_was_elected_and_resigned_since_it_was_seen_is_no_standby(
    crowd: Crowd, status: Callable[..., Found], ago: float, state: str
) -> None:
    crowd.say("b:7:x", ago=5.0)
    crowd.tell("resigned", ago=ago, holder="b:7:x", token=1_789_999_999_999, reason="shutdown")
    election = only(status("--json"))
    assert [each["state"] for each in election["candidates"]] == [state]
    assert election["standbys"] == (state == "standby")
    assert ("b:7:x: led, and leads no more" in status().output) == (state == "former")


def test_a_worker_says_whether_it_consumes(
    shared_server: ExternalServer, key: str, status: Callable[..., Found]
) -> None:
    crowd = Crowd(shared_server, key, "worker")
    crowd.write()
    work = {"consumes": False, "running": 1}
    crowd.say(HOLDER, token=1_790_000_000_000, work=work, node="celery@web-1", beat=False)
    election = only(status("--json"))
    assert {name: election["work"][name] for name in work} == work
    assert election["work"]["published"] is None
    assert election["candidates"][0]["embedded_beat_runs"] is False
    assert "does NOT consume the leader queue; 1 leader-only task running" in status().output


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_shown_as_text(crowd: Crowd, status: Callable[..., Found], text: str) -> None:
    named = [[1_790_000_000_000_000, text]]
    texts = dict.fromkeys(("host", "release", "celery", "scheduler", "node", "error"), text)
    crowd.say(HOLDER, token=1_790_000_000_000, error_age=1.0, work={"published": 1, "next": named})
    crowd.say(text, **{**texts, "error_age": 1.0})
    found = status()
    assert found.code == 0
    assert "\x1b" not in found.output
    assert max(map(len, found.lines)) < 700
    assert len(found.lines) < 12
    shown = status("--json")
    assert "\x1b" not in shown.output
    assert len(only(shown)["candidates"]) == 2


ODD = [
    b"", b"x", b"1", b"99999999999999999999 {}", b"%d", b"%d {", b"%d []", b"%d null", b"%d 7",
    b'%d {"ttl":"x","age":-1,"pid":1.5,"token":true,"error":{},"work":[],"ticked":1e999}',
    b'%d {"ttl":1e400,"work":{"next":{},"published":"9"}}', b'%d {"work":{"next":[[1],[2,3],7]}}',
    b"%d " + b"[" * 100_000, b"%d \xff\xfe",
]  # fmt: skip


def test_values_of_any_shape_cost_nothing_but_themselves(
    crowd: Crowd, status: Callable[..., Found]
) -> None:
    now = str(crowd.now_us()).encode()
    for number, value in enumerate(ODD):
        crowd.put(f"odd:{number}", value.replace(b"%d", now))
    crowd.put(b"\xff\xfe", now + b" {}")
    crowd.put(b"cursor", b"7")
    crowd.say("b:7:x")
    found = status("--json")
    assert found.code == 0
    assert "b:7:x" in {each["id"] for each in only(found)["candidates"]}
    assert status().code == 0


def test_a_key_of_another_type_is_nobody(crowd: Crowd, status: Callable[..., Found]) -> None:
    crowd.client.set(crowd.keys.presences, "x")
    found = status("--json")
    assert (found.code, only(found)["candidates"]) == (0, [])


def test_ten_thousand_are_read_in_pieces_and_twenty_of_them_named(valkey_server: Server) -> None:
    crowd = Crowd(valkey_server, "shop")
    crowd.write()
    stamp = crowd.now_us()
    long = json.dumps({"ttl": 60.0, "host": "h" * 100})
    for start in range(0, 10_000, 1000):
        values = {f"host:{n}:x": f"{stamp} {long}" for n in range(start, start + 1000)}
        crowd.client.hset(crowd.keys.presences, mapping=values)
    monitor = Monitor(valkey_server)
    found = invoke(valkey_server.url, "shop", "status")
    assert "10,000 standbys" in found.output
    assert "… and 9,980 more; --json lists all" in found.output
    assert len(found.lines) < 32
    valkey_server.client().echo("end")
    wait_until(lambda: ["ECHO", "end"] in monitor.commands, 30, "the end")
    asked = [words[0] for words in monitor.commands]
    assert "HGETALL" not in asked
    assert asked.count("HSCAN") >= 50


def test_the_viewer_of_before_hears_what_is_missing(valkey_server: Server) -> None:
    Keeper(valkey_server, "shop").write()
    keys = ElectionKeys("shop", "beat")
    before = user_with(valkey_server, words_of(VIEWER_BEFORE))
    found = invoke(before, "shop", "status", "--no-wait")
    needs = f"candidates: unknown; the Redis user needs +hscan %R~{keys.presences}"
    assert needs in found.output
    assert only(invoke(before, "shop", "status", "--no-wait", "--json"))["candidates"] is None
    now = user_with(valkey_server, printed("shop")[1])
    assert only(invoke(now, "shop", "status", "--json"))["candidates"] == []


def test_real_candidates_say_who_they_are(shared_server: ExternalServer, key: str) -> None:
    def make() -> Any:
        return create_safe_redis_leader(redis=shared_server.url, key=key, ttl=1.0, wait=0.1)

    def shown() -> dict[str, Any]:
        return only(invoke(shared_server.url, key, "status", "--json"))

    with make() as leader:
        token = leader.wait_until_leader(60)
        leader.describe(lambda: {"work": {"published": 3}})
        with make() as standby:
            wait_until(lambda: shown()["standbys"] == 1, 30, "a standby")
            wait_until(lambda: shown()["work"], 30, "what it did")
            states = {each["id"]: each["state"] for each in shown()["candidates"]}
            assert states == {leader.candidate_id: "leader", standby.candidate_id: "standby"}
            assert shown()["token"] == token
            seen = shown()["candidates"][0]["seen"]
            wait_until(lambda: shown()["candidates"][0]["seen"] > seen, 30, "the next sign of life")


def test_who_leaves_is_taken_off_the_list_at_once(shared_server: ExternalServer, key: str) -> None:
    client: Any = shared_server.client()

    def listed() -> set[str]:
        return set(client.hkeys(ElectionKeys(key, "").presences))

    options: Any = {"redis": shared_server.url, "key": key, "ttl": 10.0, "wait": 0.1}
    leader, standby = (create_safe_redis_leader(**options) for _ in range(2))
    with leader, standby:
        ids = {leader.candidate_id, standby.candidate_id}
        wait_until(lambda: listed() == ids, 30, "both on the list")
        standby.stop()
        wait_until(lambda: listed() == {leader.candidate_id}, 30, "the end of one that only stops")
        standby.elect()
        wait_until(lambda: listed() == ids, 30, "it again")
        standby.shutdown()
        assert listed() == {leader.candidate_id}
        leader.wait_until_leader(60)
    assert listed() == set()


@pytest.mark.parametrize("ends", ["stop", "shutdown"])
def test_who_stops_when_its_thread_has_just_looked_is_taken_off_the_list(
    shared_server: ExternalServer, key: str, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    client: Any = shared_server.client()
    has_looked, is_over = threading.Event(), threading.Event()
    leave = ThreadRunner._leave

    def leave_slowly(runner: ThreadRunner) -> bool:
        takes_no_part = leave(runner)
        if not has_looked.is_set():
            has_looked.set()
            assert is_over.wait(30)
        return takes_no_part

    monkeypatch.setattr(ThreadRunner, "_leave", leave_slowly)
    with create_safe_redis_leader(redis=shared_server.url, key=key, ttl=10.0, wait=0.1) as one:
        assert has_looked.wait(30)
        assert client.hkeys(ElectionKeys(key, "").presences) == [one.candidate_id]
        ending = threading.Thread(target=getattr(one, ends))
        ending.start()
        wait_until(lambda: one._runner.candidate.state is not State.STANDBY, 30, "its end")
        is_over.set()
        ending.join(30)
        wait_until(lambda: not client.exists(ElectionKeys(key, "").presences), 30, "an empty list")


def test_awaited_candidates_leave_as_well(shared_server: ExternalServer, key: str) -> None:
    client: Any = shared_server.client()

    def listed() -> set[str]:
        return set(client.hkeys(ElectionKeys(key, "").presences))

    async def take_part() -> None:
        leader = create_async_safe_redis_leader(
            redis=shared_server.url, key=key, ttl=10.0, wait=0.1
        )
        async with leader:
            for _ in range(2):
                await asyncio.to_thread(wait_until, listed, 30, "it on the list")
                await leader.stop()
                assert listed() == set()
                await leader.elect()
            await asyncio.to_thread(wait_until, listed, 30, "it on the list")

    asyncio.run(asyncio.wait_for(take_part(), 60))
    assert listed() == set()


def test_without_the_right_to_leave_the_list_nobody_hears_of_it(
    valkey_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    rights = ["on", ">pw", "resetkeys", "~*", "resetchannels", "+@all", "-hdel"]
    client: Any = valkey_server.client()
    client.execute_command("ACL", "SETUSER", "stays", *rights)
    url = url_of(valkey_server, "stays", 0)
    with create_safe_redis_leader(redis=url, key="shop", ttl=10.0, wait=0.1) as candidate:
        presences = ElectionKeys("shop", "").presences
        wait_until(lambda: client.hkeys(presences), 30, "it on the list")
        caplog.clear()
        candidate.shutdown()
    assert client.hkeys(presences) == [candidate.candidate_id]
    assert [each for each in caplog.records if each.levelname not in ("DEBUG", "INFO")] == []
