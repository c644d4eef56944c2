"""The example project by itself: Django's checks, its settings, its tasks on a real worker."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest

from tests.example.project import EXAMPLE, environment, evaluate, manage, run
from tests.support.processes import Children
from tests.support.processes.child import ROOT
from tests.support.servers import Server

READ_CONF = """
from shop.celery import app
names = ["beat_scheduler", "broker_url", "leader_key", "leader_ttl", "leader_url", "leader_wait"]
answer = {name: app.conf.get(name) for name in names}
"""


@pytest.fixture
def shop_env(tmp_path: Path) -> dict[str, str]:
    """The environment of a shop with a database that is ready."""
    env = environment(SHOP_DATABASE=str(tmp_path / "shop.sqlite3"))
    done = manage("migrate", "--noinput", env=env)
    assert done.returncode == 0, done.stderr
    return env


def rows(env: dict[str, str]) -> list[dict[str, object]]:
    database = sqlite3.connect(env["SHOP_DATABASE"])
    database.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in database.execute("SELECT * FROM orders_run ORDER BY id")]
    finally:
        database.close()


def insert(env: dict[str, str], *moments: int) -> None:
    """Record runs of ``count_stock`` for these seconds."""
    script = f"""
import django; django.setup()
from orders.models import Run
for second in {list(moments)}:
    Run.objects.create(task="orders.tasks.count_stock", task_id=str(second), worker="w",
                       occurrence=str(second), covers=f"{{second}}000000,{{second}}000000")
answer = Run.objects.count()
"""
    assert evaluate(script, {**env, "DJANGO_SETTINGS_MODULE": "shop.settings"}) == len(moments)


def test_djangos_checks_find_nothing() -> None:
    done = manage("check", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr


def test_migrations_are_complete() -> None:
    done = manage("makemigrations", "--check", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_reach_celery_from_the_environment() -> None:
    env = environment(
        SHOP_BROKER_URL="redis://broker.example:6380/1",
        SHOP_LEADER_URL="redis://election.example:6381/2",
        SHOP_LEADER_KEY="shop-staging",
        SHOP_LEADER_TTL="2.5",
        SHOP_LEADER_WAIT="0.5",
    )
    assert evaluate(READ_CONF, env) == {
        "beat_scheduler": "celery_safe_leader.LeaderScheduler",
        "broker_url": "redis://broker.example:6380/1",
        "leader_key": "shop-staging",
        "leader_ttl": 2.5,
        "leader_url": "redis://election.example:6381/2",
        "leader_wait": 0.5,
    }


def test_defaults_hold_the_election_at_the_broker() -> None:
    conf = evaluate(READ_CONF, environment(SHOP_BROKER_URL="redis://broker.example/3"))
    assert conf["leader_url"] == conf["broker_url"] == "redis://broker.example/3"
    assert (conf["leader_key"], conf["leader_ttl"], conf["leader_wait"]) == ("shop", 10, 2)


def test_a_duration_that_is_no_number_is_refused_by_name() -> None:
    done = manage("check", env=environment(SHOP_LEADER_TTL="ten"))
    assert done.returncode != 0
    assert "SHOP_LEADER_TTL is 'ten'; it must be a number of seconds" in done.stderr


def test_several_processes_write_at_once(shop_env: dict[str, str], children: Children) -> None:
    script = """
import sys, django
django.setup()
from celery.app.task import Context
from orders.models import Run
for number in range(50):
    Run.record(Context(task="t", id=f"{sys.argv[1]}-{number}"))
"""
    env = {**shop_env, "DJANGO_SETTINGS_MODULE": "shop.settings"}
    writers = [
        children.start([sys.executable, "-c", script, str(place)], env=env, cwd=EXAMPLE)
        for place in range(4)
    ]
    for writer in writers:
        assert writer.wait(40) == 0, writer.output
    expected = {f"{place}-{number}" for place in range(4) for number in range(50)}
    assert sorted(str(row["task_id"]) for row in rows(shop_env)) == sorted(expected)


def test_a_worker_records_what_the_message_says(
    shop_env: dict[str, str], valkey_server: Server, children: Children
) -> None:
    env = {**shop_env, "SHOP_BROKER_URL": valkey_server.url}
    headers = {
        "leader_occurrence": "occurrence-1",
        "leader_covers": "1000000,3000000",
        "leader_token": 1_764_000_000_123,
        "leader_publication": "nonce-1",
    }
    script = f"""
from shop.celery import app
app.send_task("orders.tasks.count_stock", task_id="from-beat", headers={headers!r})
app.send_task("orders.tasks.count_stock", task_id="by-hand")
answer = None
"""
    evaluate(script, env)
    worker = children.module(
        "celery", "-A", "shop", "worker", "-P", "solo", "-l", "INFO", env=env, cwd=EXAMPLE
    )
    worker.wait_for_line("count_stock[by-hand] succeeded", 30)
    by_id = {row["task_id"]: row for row in rows(env)}
    seen = by_id["from-beat"]
    assert seen["task"] == "orders.tasks.count_stock"
    assert seen["occurrence"] == "occurrence-1"
    assert seen["covers"] == "1000000,3000000"
    assert seen["token"] == 1_764_000_000_123
    assert seen["publication"] == "nonce-1"
    assert str(seen["worker"]).endswith(f":{worker.pid}")
    assert (by_id["by-hand"]["occurrence"], by_id["by-hand"]["token"]) == ("", None)


def test_the_schedule_names_tasks_that_exist() -> None:
    script = """
from shop.celery import app
app.loader.import_default_modules()
answer = [entry["task"] in app.tasks for entry in app.conf.beat_schedule.values()]
"""
    assert evaluate(script) == [True, True, True]


def test_audit_passes_on_a_whole_row_of_runs(shop_env: dict[str, str]) -> None:
    insert(shop_env, 1, 2, 3)
    done = run("-W", "error", "-m", "demo.audit", env=shop_env, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "count-stock" in done.stdout


def test_audit_fails_when_a_run_was_lost(shop_env: dict[str, str]) -> None:
    insert(shop_env, 1, 2, 4)
    done = run("-W", "error", "-m", "demo.audit", env=shop_env, cwd=ROOT)
    assert done.returncode == 1
    line = next(text for text in done.stdout.splitlines() if text.startswith("count-stock"))
    assert line.split() == ["count-stock", "3", "3", "1", "0", "0"]
    assert "runs were lost or doubled" in done.stderr


def test_every_variable_of_the_settings_is_documented() -> None:
    read = evaluate(
        """
import os
names = set()
class Recording(type(os.environ)):
    def __getitem__(self, name):
        names.add(name)
        return super().__getitem__(name)
os.environ.__class__ = Recording
from shop import settings
answer = sorted(name for name in names if name.startswith("SHOP_"))
"""
    )
    readme = (EXAMPLE / "README.md").read_text()
    documented = {line.split("`")[1] for line in readme.splitlines() if line.startswith("| `SHOP_")}
    assert json.dumps(sorted(documented)) == json.dumps(read)
