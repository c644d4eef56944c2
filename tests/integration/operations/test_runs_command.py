"""``leader runs`` and ``leader watch``: entries of the ledger, and the status again and again."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab
from click.testing import CliRunner

from celery_safe_leader import LeaderScheduler, cli
from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._ledger.codec import LastRun, encode_entry, encode_run
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._schedules.moments import SECOND_US
from celery_safe_leader._store.keys import LedgerKeys
from tests.integration.operations.commands import HOSTILE, Found, Keeper, invoke
from tests.support.network.ports import free_port
from tests.support.processes import Children, wait_until
from tests.support.processes.child import ROOT
from tests.support.servers import ExternalServer, Server
from tests.support.servers.rights import VIEWER_BEFORE, printed, user_with, words_of

MOMENT = 1_790_000_000 * SECOND_US


@pytest.fixture
def client(shared_server: ExternalServer) -> Any:
    return shared_server.client(decode_responses=False)


@pytest.fixture
def runs(shared_server: ExternalServer, key: str) -> Callable[..., Found]:
    return lambda *words: invoke(shared_server.url, key, "runs", *words)


def write(client: Any, key: str, *entries: str, count: int = 1, fingerprint: str = "f") -> None:
    run = encode_run(LastRun(MOMENT, count, MOMENT, fingerprint))
    fields = {encode_entry(entry): run for entry in entries}
    client.hset(LedgerKeys(key).runs, mapping={SENTINEL: b"1 g 1 whole/m beat", **fields})


def test_entries_are_shown_in_their_order_without_the_sentinel(
    client: Any, key: str, runs: Callable[..., Found]
) -> None:
    write(client, key, "b", "a", "c*")
    write(client, key, "new", count=0)
    client.hset(LedgerKeys(key).runs, "odd", "x")
    found = runs("--json")
    assert found.code == 0
    last = "2026-09-21T14:13:20.000Z"
    assert found.json["entries"] == [
        {"entry": "a", "last": last, "count": 1, "next": None},
        {"entry": "b", "last": last, "count": 1, "next": None},
        {"entry": "c*", "last": last, "count": 1, "next": None},
        {"entry": "new", "last": None, "count": 0, "next": None},
        {"entry": "odd", "last": None, "count": None, "next": None},
    ]
    head, *rows = runs().lines
    assert head.split() == ["entry", "last", "run", "(UTC)", "runs", "next", "(UTC)"]
    assert rows[0].split() == ["a", "2026-09-21", "14:13:20", "1", "?"]
    assert rows[3].split() == ["new", "never", "0", "?"]
    assert "cannot be read" in rows[4]


def test_a_pattern_chooses(client: Any, key: str, runs: Callable[..., Found]) -> None:
    write(client, key, "a1", "a2", "b1", "läden")
    for pattern, names in (("a*", ["a1", "a2"]), ("?1", ["a1", "b1"]), ("läden", ["läden"])):
        assert [each["entry"] for each in runs(pattern, "--json").json["entries"]] == names
    none = runs("nothing*")
    assert (none.code, "no such entry" in none.output) == (1, True)


def test_there_is_no_ledger_or_no_server(runs: Callable[..., Found]) -> None:
    found = runs()
    assert (found.code, found.output.startswith("No ledger under this key")) == (1, True)
    assert "or the key, the database or the prefix is another one" in found.output
    assert invoke(f"redis://127.0.0.1:{free_port()}/0", "shop", "runs").code == 2


@pytest.mark.parametrize("text", [*HOSTILE, "\udcff"])
def test_any_name_is_shown_as_text(
    client: Any, key: str, runs: Callable[..., Found], text: str
) -> None:
    write(client, key, text)
    found = runs()
    assert found.code == 0
    assert len(found.lines) == 2
    assert "\x1b" not in found.output
    assert runs("--json").json["entries"][0]["entry"] == text


def test_all_of_a_hundred_thousand_are_read_in_pieces(valkey_server: Server) -> None:
    client: Any = valkey_server.client(decode_responses=False)
    write(client, "shop", *(f"entry {number}" for number in range(100_000)))
    found = invoke(valkey_server.url, "shop", "runs", "--json")
    assert len(found.json["entries"]) == 100_000
    stats = client.info("commandstats")
    assert stats["cmdstat_hscan"]["calls"] >= 100
    assert "cmdstat_hgetall" not in stats


def test_the_app_knows_the_next_moment_of_what_it_agrees_on(
    shared_server: ExternalServer, client: Any, key: str
) -> None:
    app = Celery("shop", broker=shared_server.url, set_as_current=False)
    app.conf.update(leader_key=key, timezone="Europe/Berlin")
    hourly = crontab(minute=0)
    app.conf.beat_schedule = {
        "agreed": {"task": "t", "schedule": 60.0},
        "delta": {"task": "t", "schedule": timedelta(seconds=60)},
        "hourly": {"task": "t", "schedule": hourly},
        "changed": {"task": "t", "schedule": 61.0},
        "broken": {"task": "t", "schedule": object()},
        "worse": 5,
    }
    minute = rule_for(_schedule(app, 60.0))
    write(client, key, "agreed", "delta", "changed", "gone", "broken", "worse",
          fingerprint=minute.fingerprint)  # fmt: skip
    write(client, key, "hourly", fingerprint=rule_for(_schedule(app, hourly)).fingerprint)
    done = CliRunner().invoke(cli.leader, ["runs", "--json"], obj=SimpleNamespace(app=app))
    app.close()
    assert done.exit_code == 0, done.output
    entries = {each["entry"]: each["next"] for each in Found(0, done.output).json["entries"]}
    assert entries == {
        "agreed": "2026-09-21T14:14:20.000Z",
        "delta": "2026-09-21T14:14:20.000Z",
        "hourly": "2026-09-21T15:00:00.000Z",
        "changed": None, "gone": None, "broken": None, "worse": None,
    }  # fmt: skip


def test_the_entry_that_celery_adds_by_itself_is_known(
    shared_server: ExternalServer, client: Any, key: str
) -> None:
    app = Celery("shop", broker=shared_server.url, backend="file:///tmp", set_as_current=False)
    app.conf.update(leader_key=key)
    beat = LeaderScheduler(app, lazy=True)
    beat.setup_schedule()
    cleanup = beat.schedule["celery.backend_cleanup"].schedule
    write(client, key, "celery.backend_cleanup", fingerprint=rule_for(cleanup).fingerprint)

    def coming() -> Any:
        done = CliRunner().invoke(cli.leader, ["runs", "--json"], obj=SimpleNamespace(app=app))
        return Found(done.exit_code, done.output).json["entries"][0]["next"]

    assert coming() == "2026-09-22T04:00:00.000Z"
    app.conf.beat_schedule = {"celery.backend_cleanup": {"task": "t", "schedule": crontab(hour=5)}}
    assert coming() is None, "another one of the name goes before it"
    beat.close()
    app.close()


def _schedule(app: Celery, given: Any) -> Any:
    return ScheduleEntry(name="x", task="t", schedule=given, app=app).schedule


def test_the_viewer_s_rights_are_enough_and_the_missing_one_is_named(valkey_server: Server) -> None:
    write(valkey_server.client(decode_responses=False), "shop", "a")
    assert invoke(user_with(valkey_server, printed("shop")[1]), "shop", "runs").code == 0
    found = invoke(user_with(valkey_server, words_of(VIEWER_BEFORE)), "shop", "runs")
    assert found.code == 2
    assert "lacks a right" in found.output
    assert "hscan" in found.output.lower()


def test_watch_looks_again_while_redis_is_away_and_ends_on_ctrl_c(
    children: Children, valkey_server: Server
) -> None:
    Keeper(valkey_server, "shop").write()
    child = children.start(
        [
            *(sys.executable, "-m", "celery_safe_leader", "--url", valkey_server.url),
            *("--key", "shop", "watch", "--every", "0.5s"),
        ],
        env={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        name="watch",
    )
    child.wait_for_line("led by host:1:abc", 30)
    valkey_server.kill()
    child.wait_for_line("looking again", 30)
    valkey_server.start()
    wait_until(lambda: child.lines[-1].startswith("ledger "), 30, lambda: child.output)
    child.signal(signal.SIGINT)
    assert child.wait(30) == 0
    assert "Traceback" not in child.output
    assert "Aborted" not in child.output
