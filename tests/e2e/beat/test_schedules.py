"""What a real beat can be given: kinds of schedules, ways to register them, brokers, Django."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import celery
import pytest

from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.celery.inbox import Inbox, gaps
from tests.support.processes import Children
from tests.support.servers import Server, installed_kinds
from tests.support.servers.rabbitmq import RABBITMQ_URL, rabbitmq_urls

EVERY_KIND = """{
    "quarter": {"task": "shop.work", "schedule": 0.25, "kwargs": {"entry": "quarter"}},
    "crontab": {
        "task": "shop.work",
        "schedule": crontab(minute=(datetime.now(timezone.utc) - timedelta(minutes=2)).minute),
        "kwargs": {"entry": "crontab"},
        "last_run_at": datetime.now(timezone.utc) - timedelta(minutes=5),
    },
    "sunrise": {
        "task": "shop.work",
        "schedule": solar("sunrise", 52.5, 13.4),
        "kwargs": {"entry": "sunrise"},
        "last_run_at": datetime.now(timezone.utc) - timedelta(days=2),
    },
    "later": {"task": "shop.work", "schedule": crontab(minute=0, hour=0, day_of_month=29,
                                           month_of_year=2)},
}"""

EVERY_WAY = """
@app.on_after_configure.connect
def after_configure(sender, **kwargs):
    sender.add_periodic_task(0.5, work.s(entry="configured"), name="configured")

@app.on_after_finalize.connect
def after_finalize(sender, **kwargs):
    sender.add_periodic_task(0.5, work.s(entry="finalized"), name="finalized")
"""


@pytest.fixture
def election() -> Iterator[Server]:
    with Server(installed_kinds()[0]) as server:
        yield server


@pytest.fixture(params=["redis", *(["rabbitmq"] if rabbitmq_urls() else [])])
def broker(request: pytest.FixtureRequest, election: Server) -> str:
    return RABBITMQ_URL if request.param == "rabbitmq" else election.url


@pytest.fixture
def inbox(broker: str, key: str) -> Iterator[Inbox]:
    with Inbox(broker, queue=key) as inbox:
        yield inbox


def test_every_kind_of_schedule_goes_out_by_either_broker_and_no_file_is_written(
    broker: str, election: Server, inbox: Inbox, key: str, children: Children, tmp_path: Path
) -> None:
    write_app(
        tmp_path,
        broker,
        EVERY_KIND,
        more=EVERY_WAY,
        leader_url=election.url,
        task_default_queue=key,
    )
    before = set(tmp_path.iterdir())
    # Nobody can write into /proc, not even root: a file of the schedule would be an error.
    beat = Beat(children, tmp_path, scheduler="leader", cwd=Path("/proc"))
    beat.wait_ready()
    quarters = inbox.wait_for(8, 30, entry="quarter")
    for entry in ("configured", "finalized"):
        sent = inbox.wait_for(3, entry=entry)
        assert gaps(sent, 0.5) == []
    assert gaps(quarters, 0.25) == []
    crontabs, sunrises = inbox.wait_for(1, entry="crontab"), inbox.wait_for(1, entry="sunrise")
    assert crontabs[0].covers[1] % 60_000_000 == 0
    first, last = sunrises[0].covers
    assert 23 * 3600 < (last - first) / 1e6 < 25 * 3600  # two sunrises that one run stands for
    # Others go out meanwhile.
    inbox.wait_for(len(inbox.sent("quarter")) + 3, entry="quarter")
    assert len(inbox.sent("crontab")) == 1
    assert len(inbox.sent("sunrise")) == 1
    assert beat.terminate() > 0
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before
    assert not beat.lines("ERROR"), beat.child.output


def test_settings_in_djangos_spelling_count(
    children: Children, election: Server, tmp_path: Path
) -> None:
    (tmp_path / "site_settings.py").write_text(
        "SECRET_KEY = 'x'\n"
        f"CELERY_BROKER_URL = {election.url!r}\n"
        "CELERY_LEADER_TTL = 0.7\n"
        "CELERY_LEADER_WAIT = 0.1\n"
        "CELERY_LEADER_KEY = 'shop-staging'\n"
        "CELERY_BEAT_SCHEDULE = {'tick': {'task': 'shop.work', 'schedule': 0.25}}\n"
    )
    (tmp_path / "app.py").write_text(
        "from celery import Celery\n"
        "app = Celery('shop')\n"
        "app.config_from_object('django.conf:settings', namespace='CELERY')\n"
    )
    env = {"DJANGO_SETTINGS_MODULE": "site_settings"}
    beat = Beat(children, tmp_path, env=env)
    with Inbox(election.url) as inbox:
        assert inbox.wait_for(2, 30)[0].headers["leader_election"] == "shop-staging"
    assert beat.lines("ttl -> 0.7 seconds, wait 0.1 seconds")
    assert beat.lines("election -> shop-staging:beat")


@pytest.mark.skipif(celery.VERSION < (5, 7), reason="beats have no remote control before 5.7")
def test_a_standby_answers_the_health_check(
    children: Children, election: Server, tmp_path: Path
) -> None:
    schedule = '{"tick": {"task": "shop.work", "schedule": 60}}'
    write_app(tmp_path, election.url, schedule, beat_enable_remote_control=True)
    beats = [Beat(children, tmp_path, "-n", f"{name}@here", name=name) for name in ("one", "two")]
    leader = leader_of(lambda: beats)
    standby = next(beat for beat in beats if beat is not leader)
    standby.wait_standing_by()
    ping = children.module(
        *("celery", "-A", "app", "inspect", "ping", "-d", f"{standby.name}@here", "-t", "10"),
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert ping.wait(20) == 0, f"{ping.output}\n{standby.child.output}"
    assert "pong" in ping.output
    assert not standby.leads
