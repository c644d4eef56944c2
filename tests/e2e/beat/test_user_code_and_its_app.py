"""User code that asks for the current app finds its own in a beat, as in stock beat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.celery.beats import Beat, write_app
from tests.support.celery.inbox import Inbox
from tests.support.processes import Children, wait_until
from tests.support.servers import Server

ENTRIES = """{
    "lazy": {
        "task": "shop.work",
        "schedule": 0.5,
        "args": (BeatLazyFunc(lambda: current_app.main),),
        "kwargs": {"entry": "lazy"},
    },
    # Every minute of the present hour, in the app's zone and in UTC: the first alone is due.
    # Up to 5.6 a crontab also counts in the zone of the last run that it is shown.
    "wrapped": {
        "task": "shop.work",
        "schedule": Wrapper(crontab(hour=datetime.now(ZONE).hour, minute="*")),
        "kwargs": {"entry": "wrapped"},
        "last_run_at": datetime.now(ZONE) - timedelta(minutes=3),
    },
    "apart": {
        "task": "shop.work",
        "schedule": Wrapper(crontab(hour=datetime.now(timezone.utc).hour, minute="*")),
        "kwargs": {"entry": "apart"},
        "last_run_at": datetime.now(ZONE) - timedelta(minutes=3),
    },
}"""
CODE = """
from zoneinfo import ZoneInfo

from celery import current_app
from celery.beat import BeatLazyFunc, Scheduler
from celery.schedules import BaseSchedule
from celery.signals import after_task_publish
from celery_safe_leader.schedulers import LeaderSchedulerMixin

ZONE = ZoneInfo("Asia/Tokyo")

class Wrapper(BaseSchedule):
    # The crontab in it has no app of its own: it counts by the current one.
    def __init__(self, inner):
        self.inner = inner
        super().__init__()

    def is_due(self, last_run_at):
        return self.inner.is_due(last_run_at)

    def __reduce__(self):
        return type(self), (self.inner,)

class Mixed(LeaderSchedulerMixin, Scheduler):
    pass

# From Celery's documentation of the signal.
@after_task_publish.connect
def update_sent_state(sender=None, headers=None, **kwargs):
    task = current_app.tasks.get(sender)
    backend = task.backend if task else current_app.backend
    backend.store_result(headers["id"], None, "SENT")

"""


def state(server: Server, task_id: str) -> str:
    """Return what the result backend knows of a task."""
    stored: Any = server.client().get(f"celery-task-meta-{task_id}")
    return json.loads(stored)["status"] if stored else ""


@pytest.mark.parametrize(
    "scheduler", ["celery.beat.Scheduler", "celery_safe_leader.LeaderScheduler", "app.Mixed"]
)
def test_user_code_finds_its_app(
    children: Children, tmp_path: Path, server: Server, scheduler: str
) -> None:
    write_app(
        tmp_path,
        server.url,
        "{}",
        more=f"{CODE}app.conf.beat_schedule = {ENTRIES}\n",
        timezone="Asia/Tokyo",
        result_backend=server.url,
        result_expires=None,
    )
    with Inbox(server.url) as inbox:
        beat = Beat(children, tmp_path, "--pidfile=", scheduler=scheduler)
        sent = [*inbox.wait_for(4, entry="lazy"), *inbox.wait_for(1, entry="wrapped")]
        wait_until(lambda: all(state(server, each.task_id) == "SENT" for each in sent))
        beat.terminate()
        assert {each.argsrepr for each in inbox.sent("lazy")} == {"['shop']"}
        assert inbox.sent("apart") == []
