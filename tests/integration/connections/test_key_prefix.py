"""Celery's ``global_keyprefix``: all that is written for an app begins with it."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from celery.contrib.testing.worker import start_worker
from kombu.messaging import Producer

import celery_safe_leader
from tests.support.celery.services import BeatService, shop
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

PREFIX = "one-of[many]:"


@pytest.fixture
def run(quick_server: Server, key: str) -> dict[str, Any]:
    """Arguments for an app whose broker has a prefix, and a schedule."""
    return {
        "broker": quick_server.url,
        "key": key,
        "schedule": {"tick": {"task": "shop.work", "schedule": 0.2, "kwargs": {"entry": "tick"}}},
        "broker_transport_options": {"global_keyprefix": PREFIX},
        "result_backend": "cache+memory://",
    }


def test_beat_and_worker_write_nothing_without_the_prefix(
    quick_server: Server, key: str, run: dict[str, Any]
) -> None:
    client = quick_server.client()
    client.flushall()
    client.execute_command(
        "ACL", "SETUSER", "prefixed", "on", ">pw", "resetkeys", "&*", "+@all", "~one-of\\[many\\]:*"
    )  # fmt: skip
    app = shop(**{**run, "broker": quick_server.url.replace("//", "//prefixed:pw@")})
    celery_safe_leader.install(app)
    with (
        BeatService(app),
        start_worker(app, pool="solo", perform_ping_check=False, queues=[key]) as worker,
    ):
        wait_until(lambda: worker.stats()["total"].get("shop.work", 0), 30, "a task that ran")
        # Before kombu 5.7 no script publishes.
        counted = "once" if hasattr(Producer, "batch") else "passed"
        wait_until(lambda: worker.stats()["leader_publications"][counted], 30, counted)
        headers = {"leader_publication": "n", "leader_occurrence": "o", "leader_election": key}
        app.send_task("shop.work", task_id="o", headers=headers)
        wait_until(lambda: accepted(client, key), 30, "an occurrence that the worker accepted")
        keys = [str(name) for name in client.scan_iter("*", count=1000)]
    ours = {name for name in keys if "leader:" in name}
    assert {
        f"{PREFIX}{{leader:{key}}}:{part}" for part in ("beat:lease", "worker:lease", "runs")
    } <= ours
    assert [name for name in keys if not name.startswith(PREFIX)] == []


def accepted(client: redis.Redis, key: str) -> list[Any]:
    pattern = f"one-of\\[many\\]:{{leader:{key}}}:accepted:*"
    return [name for name in client.scan_iter(pattern, count=1000) if "trial" not in str(name)]


def test_elections_of_two_prefixes_are_two(quick_server: Server, run: dict[str, Any]) -> None:
    with BeatService(shop(**run)) as one:
        one.wait_leading()
        options = {"broker_transport_options": {"global_keyprefix": "another:"}}
        with BeatService(shop(**{**run, **options})) as other:
            other.wait_leading()
            assert one.leads
