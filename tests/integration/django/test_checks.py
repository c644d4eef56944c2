"""System checks: each id is found where it should be, and the docs have them all."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_safe_leader._app import app_check
from celery_safe_leader._core.options import Options
from celery_safe_leader._django.checks import (
    DEPLOY,
    SETTINGS,
    check_deployment,
    check_settings,
    number_of,
)
from celery_safe_leader._operations.health import server_findings
from celery_safe_leader.leader import build_leader
from tests.docs.pages import page
from tests.integration.operations.commands import invoke
from tests.integration.operations.test_candidates_shown import HOLDER, Crowd
from tests.integration.operations.test_page_view import write_runs
from tests.support.network.ports import free_port
from tests.support.processes import wait_until
from tests.support.processes.child import ROOT
from tests.support.servers import Server, installed_kinds
from tests.support.servers.rights import printed, user_with

DOCS = "docs/guides/django.md"


@pytest.fixture(autouse=True)
def _workers_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are none."""
    monkeypatch.setattr(app_check, "_PATIENCE", 0.05)


def numbers(found: list[Any]) -> list[str]:
    return [each.id.removeprefix("celery_safe_leader.") for each in found]


def test_right_settings_are_said_nothing_of(app: Celery) -> None:
    assert check_settings() == []


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("E001", {"leader_tttl": 3}, "did you mean leader_ttl"),
    ("E002", {"leader_ttl": -1}, "leader_ttl is -1"),
    ("E002", {"broker_url": "amqp://h//"}, "leader_url is not set"),
    ("E002", {"leader_url": "http://:secret@h"}, "leader_url"),
    ("E002", {"leader_options": {"pasword": "secret"}}, "leader_options is given with 'pasword'"),
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
    from django.core.management import call_command

    app.conf.leader_ttl = -1
    assert "E002" in numbers([e for e in checks.run_checks() if "safe_leader" in e.id])
    app.conf.leader_ttl = 10.0
    assert not any("safe_leader" in each.id for each in checks.run_checks())
    said = io.StringIO()
    call_command("check", deploy=True, tags=["celery_safe_leader"], stderr=said)
    assert "(celery_safe_leader.W019) elections: no record" in said.getvalue()
    assert "HINT: start a beat" in said.getvalue()


def test_a_redis_that_is_away_is_one_warning(app: Celery) -> None:
    app.conf.leader_url = f"redis://:secret@127.0.0.1:{free_port()}"
    (found,) = check_deployment()
    assert (numbers([found]), "secret" in found.msg) == ([DEPLOY["Redis"]], False)


@dataclass
class Scene:
    """A project and its election: one leads, one stands by, and no worker answers."""

    app: Celery
    server: Server
    crowd: Crowd
    start_server: Callable[..., Server]
    monkeypatch: pytest.MonkeyPatch
    cleanup: ExitStack

    @property
    def key(self) -> str:
        return str(self.app.conf.leader_key)

    def move(self, server: Server) -> None:
        """Let the election be at another server, where the same two take part."""
        self.crowd = well(server, self.key)
        self.app.conf.leader_url = server.url

    def live(self) -> None:
        """Let two take part that renew: without all rights the commands look twice."""
        self.crowd.client.delete(self.crowd.keys.presences)
        self.crowd.write(resigned="1")
        leaders = [
            self.cleanup.enter_context(
                build_leader(self.server.url, self.crowd.keys, Options(2.0, 0.2), {})
            )
            for _ in range(2)
        ]
        wait_until(lambda: any(each.is_leader for each in leaders), 60, "one leads")
        wait_until(lambda: all(each.standing.leader for each in leaders), 60, "both have looked")

    def deny(self, right: str) -> None:
        viewer = printed(self.key)[1]
        self.app.conf.leader_url = user_with(
            self.server, viewer, without=right, name=f"{self.key}-{right}"
        )


def well(server: Server, key: str) -> Crowd:
    crowd = Crowd(server, key)
    crowd.write()
    crowd.say(HOLDER, token=1_790_000_000_000)
    crowd.say("b:7:x")
    write_runs(crowd.client, key, "own")
    return crowd


@pytest.fixture(scope="module")
def safe_server() -> Iterator[Server]:
    """A server of which nothing is to be said."""
    with Server(installed_kinds()[0], config={"appendonly": "yes"}) as server:
        yield server


@pytest.fixture
def scene(
    app: Celery,
    key: str,
    safe_server: Server,
    start_server: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Scene]:
    app.conf.update(
        leader_url=safe_server.url,
        beat_schedule={"own": {"task": "t", "schedule": 1.0}},
        beat_schedule_filename=str(tmp_path / "celerybeat-schedule"),
    )
    crowd = well(safe_server, key)
    with ExitStack() as cleanup:
        yield Scene(app, safe_server, crowd, start_server, monkeypatch, cleanup)


def _redis(scene: Scene) -> None:
    scene.app.conf.leader_url = f"redis://127.0.0.1:{free_port()}"


def _info(scene: Scene) -> None:
    scene.live()
    scene.deny("info")


def _round_trip(scene: Scene) -> None:
    scene.monkeypatch.setattr(server_findings, "_SLOW", 0.0)


def _clock(scene: Scene) -> None:
    scene.live()
    scene.deny("time")


def _server(scene: Scene) -> None:
    scene.monkeypatch.setattr(server_findings, "OLDEST", (99, 0))


def _role(scene: Scene) -> None:
    master = scene.start_server(config={"appendonly": "yes"})
    scene.move(master)
    replica = scene.start_server(replica_of=master, config={"appendonly": "yes"})
    # A record is that of the server that wrote it.
    scene.crowd.write(epoch=Crowd(replica, scene.key).epoch)
    assert scene.crowd.client.wait(1, 30_000) == 1
    scene.app.conf.leader_url = replica.url


def _replicas(scene: Scene) -> None:
    scene.app.conf.leader_wait_replicas = 1


def _memory(scene: Scene) -> None:
    more = {"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru", "appendonly": "yes"}
    scene.move(scene.start_server(config=more))


def _persistence(scene: Scene) -> None:
    scene.move(scene.start_server())


def _elections(scene: Scene) -> None:
    scene.crowd.client.delete(scene.crowd.keys.lease, scene.crowd.keys.presences)


def _leader(scene: Scene) -> None:
    scene.crowd.write(resigned="1")


def _candidates(scene: Scene) -> None:
    scene.crowd.say("c:7:x", ticked=75.0)


def _releases(scene: Scene) -> None:
    scene.crowd.say("c:7:x", release="0.2.0")


def _ledger(scene: Scene) -> None:
    assert invoke(scene.server.url, scene.key, "pause").code == 0


def _scheduler(scene: Scene) -> None:
    scene.app.conf.beat_scheduler = "celery.beat:PersistentScheduler"


def _stock_beat(scene: Scene) -> None:
    Path(scene.app.conf.beat_schedule_filename).write_text("")


def _schedule(scene: Scene) -> None:
    scene.app.conf.beat_schedule = {"another's": {"task": "t", "schedule": 1.0}}


def _workers(scene: Scene) -> None:
    """None answers anyway."""


def _tasks(scene: Scene) -> None:
    scene.app.conf.imports = ("no_such_module_of_tasks",)


@dataclass(frozen=True)
class Trouble:
    """What is wrong, and what is said of it."""

    make: Callable[[Scene], None]
    said: str


TROUBLE = {
    "Redis": Trouble(_redis, "127.0.0.1"),
    "INFO": Trouble(_info, "may not run it"),
    "round trip": Trouble(_round_trip, "much for a ttl of 10 s"),
    "clock": Trouble(_clock, "may not run TIME"),
    "server": Trouble(_server, "is older than 99.0"),
    "role": Trouble(_role, "this server is a slave"),
    "replicas": Trouble(_replicas, "wait_replicas=1"),
    "memory": Trouble(_memory, "maxmemory-policy is allkeys-lru"),
    "persistence": Trouble(_persistence, "no append-only file"),
    "elections": Trouble(_elections, "no record"),
    "leader": Trouble(_leader, "its last leader resigned"),
    "candidates": Trouble(_candidates, "c:7:x: its loop has not turned"),
    "releases": Trouble(_releases, "several releases of this package"),
    "ledger": Trouble(_ledger, "PAUSED"),
    "scheduler": Trouble(_scheduler, "beat_scheduler is celery.beat:PersistentScheduler"),
    "stock beat": Trouble(_stock_beat, "a stock beat runs here"),
    "schedule": Trouble(_schedule, "none of this app's"),
    "workers": Trouble(_workers, "none answered"),
    "tasks": Trouble(_tasks, "cannot be imported"),
}


@pytest.mark.parametrize("subject", DEPLOY)
def test_each_trouble_has_its_warning_and_no_other(scene: Scene, subject: str) -> None:
    trouble = TROUBLE[subject]
    trouble.make(scene)
    warned = check_deployment()
    found = dict(zip(numbers(warned), warned, strict=True))
    others = set() if subject == "Redis" else {DEPLOY["workers"]}
    # With a stock scheduler beats that other tests have started on this machine count.
    ignored = {DEPLOY["stock beat"]} if subject == "scheduler" else set()
    assert set(found) - ignored == {DEPLOY[subject], *others}
    warning = found[DEPLOY[subject]]
    assert trouble.said in warning.msg
    assert warning.level == 30
    assert warning.hint or subject == "Redis", "its text says what to do"


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
