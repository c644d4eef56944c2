"""``leader check``: each line that it can say, and how it ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.beat import Scheduler
from click.testing import CliRunner

from celery_safe_leader import cli
from celery_safe_leader._app import app_check
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._ledger.pausing import pause
from celery_safe_leader._operations.health import server_findings
from celery_safe_leader._store.keys import LedgerKeys
from celery_safe_leader.schedulers import LeaderSchedulerMixin
from tests.contract.ledger_helpers import Bench
from tests.integration.operations.commands import HOSTILE, Found, invoke
from tests.integration.operations.test_candidates_shown import HOLDER, Crowd
from tests.support.network.ports import free_port
from tests.support.servers import ExternalServer, Server
from tests.support.servers.rights import VIEWER_BEFORE, printed, user_with, words_of


class Mixed(LeaderSchedulerMixin, Scheduler):
    """A scheduler over another store."""


SIGNS = {"good": "✓", "doubtful": "!", "bad": "✗"}


@pytest.fixture
def crowd(shared_server: ExternalServer, key: str) -> Crowd:
    """A leader and a standby that are well."""
    crowd = Crowd(shared_server, key)
    crowd.write()
    crowd.say(HOLDER, token=1_790_000_000_000)
    crowd.say("b:7:x")
    return crowd


@pytest.fixture
def check(shared_server: ExternalServer, key: str) -> Callable[..., Found]:
    return lambda *words: invoke(shared_server.url, key, "check", *words)


def graded(found: Found, subject: str) -> list[tuple[str, str]]:
    """Return grades and texts of a subject; what is not good says what to do."""
    for each in found.json["findings"]:
        assert (each["grade"] == "good") is (each["advice"] is None), each
    return [(f["grade"], f["text"]) for f in found.json["findings"] if f["subject"] == subject]


def only(found: Found, subject: str) -> tuple[str, str]:
    (one,) = graded(found, subject)
    return one


def test_where_all_is_well_nothing_is_bad(crowd: Crowd, check: Callable[..., Found]) -> None:
    found = check("--json")
    assert found.code == 0
    assert (found.json["schema"], found.json["version"]) == ("check", 1)
    for subject in ("clock", "INFO", "server", "beat leader", "beat candidates", "beat releases"):
        assert only(found, subject)[0] == "good", subject
    lines = check().lines
    assert lines[1].startswith("✓ round trip")
    assert all(line[0] in "✓!✗ " for line in lines[1:])


def test_nobody_leads(crowd: Crowd, check: Callable[..., Found]) -> None:
    crowd.write(resigned="1")
    found = check("--json")
    assert (found.code, only(found, "beat leader")) == (
        1, ("bad", "nobody leads: its last leader resigned"),
    )  # fmt: skip
    crowd.client.delete(crowd.keys.lease)
    found = check("--json")
    assert (found.code, only(found, "elections")[0]) == (1, "bad")
    assert "✗ elections" in check().output


def test_candidates_that_stand_still_or_are_of_several_releases(
    crowd: Crowd, check: Callable[..., Found]
) -> None:
    crowd.say("c:7:x", ticked=75.0, release="0.2.0")
    crowd.say("d:7:x", ago=40.0)
    crowd.say("e:7:x", error="no answer from Redis", error_age=3.0, celery="5.4.0")
    found = check("--json")
    assert found.code == 1
    assert [grade for grade, _ in graded(found, "beat candidates")] == [
        "bad",
        "doubtful",
        "doubtful",
        "good",
    ]
    assert "c:7:x: its loop has not turned for 1 min 15 s" in graded(found, "beat candidates")[0][1]
    texts = " ".join(text for _, text in graded(found, "beat releases"))
    assert "several releases of this package: 0.1.0 (3), 0.2.0 (1)" in texts
    assert "several releases of Celery" in texts


def test_a_leader_that_says_nothing_and_stands_alone(
    crowd: Crowd, check: Callable[..., Found]
) -> None:
    crowd.client.hdel(crowd.keys.presences, HOLDER)
    assert graded(check("--json"), "beat releases")[0][0] == "doubtful"
    crowd.client.delete(crowd.keys.presences)
    assert only(check("--json"), "beat candidates") == (
        "doubtful", "no standby: if the leader dies, nobody takes over",
    )  # fmt: skip


def test_a_pause_and_a_ledger_that_cannot_be_read(
    shared_server: ExternalServer, key: str, crowd: Crowd, check: Callable[..., Found]
) -> None:
    crowd.client.delete(crowd.keys.lease)
    bench = Bench(shared_server.client(decode_responses=False), key)
    bench.enrol(bench.ledger(), "e")
    crowd.write()
    pause(bench.client, bench.names)
    assert [grade for grade, _ in graded(check("--json"), "ledger")] == ["doubtful", "good"]
    crowd.client.delete(bench.names.runs, bench.names.pending)
    crowd.client.hset(bench.names.runs, "x", "y")
    found = check("--json")
    assert (found.code, only(found, "ledger")[0]) == (1, "bad")


def test_a_full_server_that_evicts(valkey_server: Server) -> None:
    Crowd(valkey_server, "shop").write()
    client: Any = valkey_server.client()
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory", used * 2)
    found = invoke(valkey_server.url, "shop", "check", "--json")
    assert only(found, "memory")[0] == "good"
    client.config_set("maxmemory", int(used * 1.05))
    client.config_set("maxmemory-policy", "volatile-lru")
    found = invoke(valkey_server.url, "shop", "check", "--json")
    assert found.code == 1
    assert [grade for grade, _ in graded(found, "memory")] == ["bad", "doubtful"]
    assert only(found, "persistence")[0] == "doubtful"
    client.config_set("appendonly", "yes")
    assert only(invoke(valkey_server.url, "shop", "check", "--json"), "persistence")[0] == "good"


INFO = {
    "redis_version": "7.2.0", "role": "master", "connected_slaves": 2, "maxmemory": 0,
    "maxmemory_policy": "noeviction", "aof_enabled": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "wait_replicas", "subject", "grade"),
    [
        ({}, 1, "replicas", "good"),
        ({}, 0, "replicas", "doubtful"),
        ({}, None, "replicas", "good"),
        ({"connected_slaves": 1}, 2, "replicas", "bad"),
        ({"connected_slaves": 3}, 1, "replicas", "doubtful"),
        ({"role": "slave"}, 0, "role", "bad"),
        ({"redis_version": "6.0.16"}, 1, "server", "bad"),
        ({"redis_version": "odd"}, 1, "server", "doubtful"),
        ({"valkey_version": "8.1.0"}, 1, "server", "good"),
        ({"rdb_last_bgsave_status": "err"}, 1, "persistence", "bad"),
        ({"aof_last_write_status": "err"}, 1, "persistence", "bad"),
    ],
)
def test_what_a_server_says_of_itself(
    monkeypatch: pytest.MonkeyPatch,
    shared_server: ExternalServer,
    changed: dict[str, Any],
    wait_replicas: int | None,
    subject: str,
    grade: str,
) -> None:
    monkeypatch.setattr(server_findings, "_info", lambda client: {**INFO, **changed})
    found = server_findings.server_findings(shared_server.client(), 10.0, wait_replicas)
    assert [each.grade.value for each in found if each.subject == subject] == [grade]


@pytest.mark.parametrize(
    ("taken", "apart", "trip", "clock"),
    [
        (0.001, 0.2, "good", "good"),
        (1.5, -2.0, "doubtful", "doubtful"),
        (4.0, 11.0, "bad", "bad"),
    ],
)
def test_round_trip_and_clocks_against_the_ttl(
    monkeypatch: pytest.MonkeyPatch,
    shared_server: ExternalServer,
    taken: float,
    apart: float,
    trip: str,
    clock: str,
) -> None:
    monkeypatch.setattr(server_findings, "_ask_time", lambda client: (taken, apart))
    found = list(server_findings.server_findings(shared_server.client(), 10.0, None))
    assert [each.grade.value for each in found[:2]] == [trip, clock]


def test_the_viewer_s_rights_are_enough_and_missing_ones_are_named(valkey_server: Server) -> None:
    crowd = Crowd(valkey_server, "shop")
    crowd.write()
    crowd.say(HOLDER, token=1_790_000_000_000)
    now = user_with(valkey_server, printed("shop")[1])
    assert invoke(now, "shop", "check").code == 0
    crowd.write(ttl=200)
    before = user_with(valkey_server, words_of(VIEWER_BEFORE))
    found = invoke(before, "shop", "check", "--json")
    assert found.code == 1, "by now nobody leads"
    for subject in ("clock", "INFO", "beat candidates", "ledger"):
        assert graded(found, subject)[0][0] == "doubtful", subject


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_shown_as_text(crowd: Crowd, check: Callable[..., Found], text: str) -> None:
    crowd.say(text, error=text, error_age=1.0, release=text, celery=text, ticked=90.0)
    output = check().output
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) < 500
    assert "\x1b" not in check("--json").output


def test_a_server_that_is_away() -> None:
    found = invoke(f"redis://:secret@127.0.0.1:{free_port()}/0", "shop", "check")
    assert (found.code, "secret" in found.output) == (2, False)


# The app


@pytest.fixture
def app(shared_server: ExternalServer, key: str, tmp_path: Path) -> Iterator[Celery]:
    app = Celery("shop", broker=shared_server.url, set_as_current=False)
    app.conf.update(
        leader_key=key,
        beat_scheduler="celery_safe_leader.LeaderScheduler",
        beat_schedule_filename=str(tmp_path / "celerybeat-schedule"),
        beat_schedule={"a": {"task": "t", "schedule": 60.0}},
    )
    yield app
    app.close()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What workers answer, and nobody waits for them."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(app_check, "_PATIENCE", 0.05)
    monkeypatch.setattr("celery.app.control.Inspect.stats", lambda self: told)
    return told


def check_app(app: Celery) -> Found:
    done = CliRunner().invoke(cli.leader, ["check", "--json"], obj=SimpleNamespace(app=app))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return Found(done.exit_code, done.output)


def test_an_app_that_is_well(crowd: Crowd, app: Celery, answers: dict[str, Any]) -> None:
    crowd.client.hset(LedgerKeys(crowd.keys.key).runs, "a", "1 1 1 f")
    answers["w@h"] = {"leader_election": {}}
    found = check_app(app)
    for subject in ("settings", "dedup window", "scheduler", "stock beat", "schedule"):
        assert only(found, subject)[0] == "good", subject
    assert graded(found, "workers")[-1] == ("good", "1 worker answered, all with install(app)")


def test_workers_without_install(crowd: Crowd, app: Celery, answers: dict[str, Any]) -> None:
    assert graded(check_app(app), "workers")[-1][0] == "doubtful", "none answered"
    answers.update({"w@h": {"leader_election": {}}, "x@h": {"pid": 1}})
    found = check_app(app)
    grade, text = graded(found, "workers")[-1]
    assert (found.code, grade, "x@h" in text, "w@h" in text) == (1, "bad", True, False)


def test_a_broker_that_is_away(crowd: Crowd, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_check, "_PATIENCE", 0.2)
    app.conf.leader_url = app.conf.broker_url
    app.conf.broker_url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    began = time.monotonic()
    found = check_app(app)
    assert time.monotonic() - began < 30
    assert graded(found, "workers")[-1][0] == "doubtful"
    assert "secret" not in found.output


@pytest.mark.parametrize(
    ("named", "grade"),
    [
        ("celery.beat:PersistentScheduler", "doubtful"),
        ("no.such:Scheduler", "bad"),
        ("leader", "good"),
        ("celery_safe_leader.schedulers:LeaderRedBeatScheduler", "good"),
    ],
)
def test_a_scheduler_of_another_kind(
    crowd: Crowd, app: Celery, answers: dict[str, Any], named: str, grade: str
) -> None:
    app.conf.beat_scheduler = named
    assert only(check_app(app), "scheduler")[0] == grade


@pytest.mark.parametrize(
    ("named", "way"),
    [
        ("celery_safe_leader.LeaderScheduler", "by the settings: "),
        ("celery.beat.PersistentScheduler", "by the settings: "),  # -S leader may be given
        (f"{__name__}:Mixed", "Mixed sends one run after the other by Celery's own code, and "),
        ("no.such.module", "by the settings: "),
    ],
)
def test_the_way_of_publication_is_that_of_the_scheduler(
    crowd: Crowd, app: Celery, answers: dict[str, Any], named: str, way: str
) -> None:
    app.conf.beat_scheduler = named
    grade, text = only(check_app(app), "publication")
    assert (grade, text[: len(way)]) == ("good", way)
    assert ("transactional" in text or "write-ahead" in text) is way.startswith("by the settings")


def test_the_scheduler_is_loaded_after_the_tasks_as_a_beat_does(
    crowd: Crowd,
    app: Celery,
    answers: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of django-celery-beat cannot be imported until Django is set up."""
    (tmp_path / "sets_up.py").write_text(
        "import sys, types\nfrom celery_safe_leader import LeaderScheduler\n"
        "module = sys.modules['set_up_late'] = types.ModuleType('set_up_late')\n"
        "module.Scheduler = LeaderScheduler\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    app.conf.update(imports=("sets_up",), beat_scheduler="set_up_late:Scheduler")
    try:
        assert only(check_app(app), "scheduler")[0] == "good"
    finally:
        for name in ("sets_up", "set_up_late"):
            sys.modules.pop(name, None)


def test_tasks_that_cannot_be_imported(crowd: Crowd, app: Celery, answers: dict[str, Any]) -> None:
    app.conf.imports = ("no_such_module_of_tasks",)
    found = check_app(app)
    grade, text = only(found, "tasks")
    assert (found.code, grade, "ModuleNotFoundError" in text) == (1, "bad", True)
    assert only(found, "scheduler")[0] == "good", "the rest is looked at all the same"


def test_a_stock_beat_beside(crowd: Crowd, app: Celery, answers: dict[str, Any]) -> None:
    file = Path(app.conf.beat_schedule_filename)
    file.write_text("")
    found = check_app(app)
    assert (found.code, only(found, "stock beat")[0]) == (1, "bad")
    os.utime(file, (time.time() - 3600,) * 2)
    assert only(check_app(app), "stock beat")[0] == "good"


def test_a_ledger_without_entries_is_nobody_elses(
    crowd: Crowd, app: Celery, answers: dict[str, Any]
) -> None:
    """A beat over RedBeat or django-celery-beat keeps one, for its pause alone."""
    crowd.client.hset(LedgerKeys(crowd.keys.key).runs, SENTINEL, "1 beat")
    grade, text = only(check_app(app), "schedule")
    assert (grade, "has no entries" in text) == ("good", True)


def test_another_app_under_the_same_key(crowd: Crowd, app: Celery, answers: dict[str, Any]) -> None:
    runs = LedgerKeys(crowd.keys.key).runs
    crowd.client.hset(runs, "theirs", "1 1 1 f")
    found = check_app(app)
    assert (found.code, only(found, "schedule")[0]) == (1, "bad")
    crowd.client.hset(runs, "a", "1 1 1 f")
    assert only(check_app(app), "schedule")[0] == "good"
    app.conf.beat_schedule = {**app.conf.beat_schedule, "new": {"task": "t", "schedule": 1.0}}
    assert only(check_app(app), "schedule")[0] == "doubtful"
