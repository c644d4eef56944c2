"""System checks: each id is found where it should be, and the docs have them all."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_safe_leader._django.checks import (
    DEPLOY,
    SETTINGS,
    check_deployment,
    check_settings,
    number_of,
)
from tests.docs.pages import page
from tests.integration.operations.test_candidates_shown import Crowd
from tests.integration.operations.test_page_view import write_runs
from tests.support.network.ports import free_port
from tests.support.processes.child import ROOT
from tests.support.servers import Server

DOCS = "docs/guides/django.md"


def numbers(found: list[Any]) -> list[str]:
    return [each.id.removeprefix("celery_safe_leader.") for each in found]


def test_right_settings_are_said_nothing_of(app: Celery) -> None:
    assert check_settings() == []


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("E001", {"leader_tttl": 3}, "did you mean leader_ttl"),
    ("E002", {"leader_ttl": -1}, "leader_ttl is -1"),
    ("E002", {"broker_url": "amqp://h//"}, "leader_url is not set"),
    ("E002", {"leader_url": "http://:secret@h"}, "leader_url"),
    ("E003", {"broker_url": "no-such://h", "leader_url": "redis://h"}, "broker_url"),
    ("E004", {"beat_scheduler": "no.such:Scheduler"}, "beat_scheduler is 'no.such:Scheduler'"),
    ("E005", {"timezone": "Mars/Base"}, "timezone is 'Mars/Base'"),
    (
        "E006",
        {"beat_schedule": {"e": {"task": "t", "options": {"leader": {"missed": "x"}}}}},
        "'e'",
    ),
]


@pytest.mark.parametrize(("number", "settings", "said"), WRONG)
def test_a_wrong_setting_is_named(
    app: Celery, number: str, settings: dict[str, Any], said: str
) -> None:
    app.conf.update(settings)
    found = check_settings()
    assert numbers(found) == [number]
    assert said in found[0].msg
    assert found[0].level >= 40, "an error, with which no command starts"
    assert "secret" not in found[0].msg
    assert check_deployment() == [] or number not in ("E001", "E002")


def test_which_app_is_meant_has_to_be_clear(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    from celery_safe_leader._django import project_app

    monkeypatch.setattr(settings, "SAFE_LEADER_APP", "no.such.app")
    assert numbers(check_settings()) == ["E007"]
    monkeypatch.setattr(settings, "SAFE_LEADER_APP", None)
    apps: list[Celery] = []
    monkeypatch.setattr(project_app, "_get_active_apps", lambda: apps)
    (found,) = check_settings()
    assert (numbers([found]), "no Celery app is loaded" in found.msg) == (["W001"], True)
    assert check_deployment() == []
    apps.append(app)
    assert check_settings() == []
    apps.append(Celery("default", set_as_current=False))  # Celery's own
    assert check_settings() == []
    apps.append(Celery("another", set_as_current=False))
    (found,) = check_settings()
    assert (numbers([found]), "'another'" in found.msg) == (["W001"], True)


def test_django_runs_them(app: Celery) -> None:
    from django.core import checks

    app.conf.leader_ttl = -1
    assert "E002" in numbers([e for e in checks.run_checks() if "safe_leader" in e.id])
    app.conf.leader_ttl = 10.0
    deployed = checks.run_checks(include_deployment_checks=True)
    assert any("safe_leader.W0" in each.id for each in deployed)
    assert not any("safe_leader" in each.id for each in checks.run_checks())


def test_a_redis_that_is_away_is_one_warning(app: Celery) -> None:
    app.conf.leader_url = f"redis://:secret@127.0.0.1:{free_port()}"
    (found,) = check_deployment()
    assert (numbers([found]), "secret" in found.msg) == ([DEPLOY["Redis"]], False)


def test_what_the_doctor_warns_of_is_a_warning_with_its_advice(
    app: Celery, quick_server: Server, key: str
) -> None:
    crowd = Crowd(quick_server, key)
    crowd.write(silent_for=100_000)
    crowd.tell("paused", ago=30, holder="ann")
    write_runs(crowd.client, key, "not of this app")
    app.conf.beat_schedule = {"own": {"task": "t", "schedule": 1.0}}
    app.conf.beat_scheduler = "celery.beat:PersistentScheduler"
    warned = check_deployment()
    found = dict(zip(numbers(warned), warned, strict=True))
    for subject in ("leader", "scheduler", "schedule", "workers"):
        assert DEPLOY[subject] in found, subject
    assert "nobody leads" in found[DEPLOY["leader"]].msg
    assert "leader_key" in found[DEPLOY["schedule"]].hint
    assert all(each.level == 30 and each.hint for each in found.values())


def test_what_is_wrong_with_the_server_is_a_warning(
    app: Celery, start_server: Callable[..., Server]
) -> None:
    server = start_server()
    client: Any = server.client()
    client.config_set("maxmemory", 10**9)
    client.config_set("maxmemory-policy", "allkeys-lru")
    app.conf.update(leader_url=server.url, broker_url=server.url, leader_wait_replicas=1)
    found = numbers(check_deployment())
    for subject in ("memory", "persistence", "replicas", "elections"):
        assert DEPLOY[subject] in found, subject


def test_each_subject_of_the_doctor_has_a_number() -> None:
    said = re.compile(r"""(?:bad|doubtful)\(\s*"([^"]+)"|subject\b.*? = .*f"([^"]+)\"""")
    subjects = {
        (words[0] or words[1]).replace("{election.view.role}", role)
        for folder in ("_operations/health", "_app")
        for path in (ROOT / "celery_safe_leader" / folder).glob("*.py")
        for words in said.findall(path.read_text())
        for role in ("beat", "worker", "library")
    }
    assert {"clock", "beat leader", "workers", "library candidates", "worker releases"} <= subjects
    assert not any("{" in each for each in subjects)
    candidates = {each for each in subjects if number_of(each) == DEPLOY["candidates"]}
    assert candidates == {f"{role} candidates" for role in ("beat", "worker", "library")}
    assert all(number_of(each) for each in subjects)


def test_the_docs_list_all_ids() -> None:
    rows = page(DOCS).rows("id")
    assert [row[0].strip("`") for row in rows] == [
        f"celery_safe_leader.{number}" for number in (*SETTINGS, *DEPLOY.values())
    ]
    assert all(all(row) for row in rows)
