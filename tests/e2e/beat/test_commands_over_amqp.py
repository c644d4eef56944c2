"""The commands about beats whose broker is RabbitMQ, while the election is in Redis."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner
from kombu.connection import Connection

from celery_safe_leader import cli
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.processes import Children, wait_until
from tests.support.servers import Server
from tests.support.servers.rabbitmq import rabbitmq_urls

pytestmark = pytest.mark.long
URLS = rabbitmq_urls()
NAME = f"test-commands-{os.getpid()}"
SCHEDULE = {"tick": {"task": "shop.work", "schedule": 0.5}}


@pytest.fixture(params=URLS, ids=["rabbitmq"] * len(URLS))
def app(request: pytest.FixtureRequest, tmp_path: Path, valkey_server: Server) -> Iterator[Celery]:
    settings = {
        "broker_url": request.param,
        "leader_url": valkey_server.url,
        "leader_ttl": 2.0,
        "leader_wait": 0.2,
        "task_default_queue": NAME,
        "control_exchange": NAME,  # so that no worker of somebody else answers
    }
    write_app(tmp_path, request.param, repr(SCHEDULE), **settings)
    app = Celery("shop", set_as_current=False)
    app.conf.update(settings, beat_schedule=SCHEDULE)
    yield app
    app.close()
    with Connection(request.param) as connection:
        connection.default_channel.queue_delete(NAME)
        for exchange in (NAME, f"{NAME}.pidbox", f"reply.{NAME}.pidbox"):
            connection.default_channel.exchange_delete(exchange)


def test_they_see_and_act_as_with_redis(app: Celery, children: Children, tmp_path: Path) -> None:
    def run(*words: str, code: int = 0) -> Any:
        done = CliRunner().invoke(cli.leader, words, obj=SimpleNamespace(app=app))
        assert done.exit_code == code, done.output
        return json.loads(done.output)

    def count() -> int:
        found = run("runs", "tick", "--json")["entries"]
        assert [each["entry"] for each in found] == ["tick"]
        return int(found[0]["count"])

    beats = [Beat(children, tmp_path, name=f"beat {number}") for number in range(2)]
    first = leader_of(lambda: beats, 60)
    (second,) = (each for each in beats if each is not first)
    second.wait_standing_by()

    def work() -> Any:
        (beat,) = run("status", "--role", "beat", "--json")["elections"]
        return beat if beat["standbys"] == 1 and beat["work"] and beat["work"]["published"] else {}

    seen = wait_until(work, 60, "what the leader says")
    assert f":{first.pid}:" in seen["holder"]
    assert seen["publication"]["way"] == "write-ahead"
    assert "tick" in [each["entry"] for each in seen["work"]["next"]]
    before = count()
    wait_until(lambda: count() > before, 60, "another run")
    assert run("runs", "tick", "--json")["entries"][0]["next"] is not None

    findings = run("check", "--json")["findings"]
    subjects = {each["subject"]: each["grade"] for each in findings}
    assert subjects["beat leader"] == "good"
    assert "bad" not in subjects.values(), findings
    assert any("write-ahead" in each["text"] for each in findings)

    paused = run("pause", "--reason", "a look", "--wait", "10", "--json")
    assert run("status", "--role", "beat", "--json")["ledger"]["paused"], paused
    stood = count()
    resigned = run("resign", "--json")
    assert f":{first.pid}:" in resigned["resigned"]
    assert leader_of(lambda: beats, 60, other_than=first) is second
    assert count() == stood, "nothing is published while it is paused, whoever leads"
    run("resume", "--json")
    wait_until(lambda: count() > stood, 60, "the runs after the pause")
    done = count()
    with app.connection_for_read() as connection:
        channel = connection.default_channel

        def queued() -> int:
            return int(channel.queue_declare(NAME, passive=True).message_count)

        wait_until(lambda: queued() >= done, 60, "a message of each run that is recorded")
