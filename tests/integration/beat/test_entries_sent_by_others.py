"""``apply_entry`` and the like, called by others than the scheduler itself; their looks at it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.beat import Scheduler

from celery_safe_leader import NotLeaderError
from celery_safe_leader.beat import LeaderScheduler
from celery_safe_leader.errors import EntryWithheldError
from celery_safe_leader.schedulers import LeaderSchedulerMixin
from tests.support.celery.beats import Beat, write_app
from tests.support.celery.inbox import Inbox
from tests.support.processes import Children
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

STORE: dict[str, Any] = {}


class Mixed(LeaderSchedulerMixin, Scheduler):
    """Reads its store once, and keeps what it read."""

    _read: Any = None

    @property
    def schedule(self) -> Any:
        if self._read is None:
            self._read = {
                name: self.Entry(
                    name=name, task="shop.work", schedule=0.2, kwargs=kwargs, app=self.app
                )
                for name, kwargs in STORE.items()
            }
        return self._read

    def setup_schedule(self) -> None:
        """Write nothing."""


@pytest.fixture
def make(quick_server: Server, key: str) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def build(kind: Any) -> Any:
        app = Celery(key, set_as_current=False)
        app.conf.update(
            broker_url=quick_server.url,
            leader_key=key,
            leader_ttl=0.6,
            leader_wait=0.1,
            task_default_queue=key,
        )
        made.append(kind(app))
        return made[-1]

    yield build
    for scheduler in made:
        scheduler.close()


@pytest.fixture
def _store() -> Iterator[None]:
    STORE["work"] = {"entry": "old"}
    yield
    STORE.clear()


CALLS: list[Callable[[Any, Any], Any]] = [
    lambda scheduler, entry: scheduler.apply_entry(entry),
    lambda scheduler, entry: scheduler.apply_entry(entry, producer=None),
]
MIXED_CALLS: list[Callable[[Any, Any], Any]] = [
    *CALLS,
    lambda scheduler, entry: scheduler.apply_async(entry),
    lambda scheduler, entry: scheduler.reserve(entry),
]


@pytest.mark.parametrize(
    ("kind", "call"),
    [(LeaderScheduler, call) for call in CALLS] + [(Mixed, call) for call in MIXED_CALLS],
)
def test_a_beat_that_does_not_lead_refuses_to_send_an_entry(
    make: Any, quick_server: Server, key: str, kind: Any, call: Any
) -> None:
    scheduler = make(kind)
    entry = scheduler.Entry(name="report", task="shop.work", schedule=60.0, app=scheduler.app)
    with pytest.raises(EntryWithheldError) as raised:
        call(scheduler, entry)
    assert isinstance(raised.value, NotLeaderError)
    assert str(raised.value) == (
        f"entry 'report' was not sent: this beat does not lead '{key}:beat' now, and only the beat "
        "that leads sends entries. To run the task all the same, call it with apply_async() or "
        "app.send_task()"
    )
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), str(again)) == (EntryWithheldError, str(raised.value))
    assert not quick_server.client().exists(key)


@pytest.mark.usefixtures("_store")
def test_a_leader_sends_what_others_tell_it_to_send(
    make: Any, quick_server: Server, key: str
) -> None:
    scheduler = make(Mixed)
    STORE.clear()
    wait_until(lambda: scheduler.tick() == 0.0 and scheduler._leader_mixin.begun, 30)
    entry = scheduler.Entry(name="report", task="shop.work", schedule=60.0, app=scheduler.app)
    for _ in range(2):
        scheduler.apply_entry(entry)
    assert quick_server.client().llen(key) == 2


@pytest.mark.usefixtures("_store")
def test_a_look_at_the_schedule_before_a_tenure_is_not_what_it_begins_with(
    make: Any, quick_server: Server, key: str
) -> None:
    scheduler = make(Mixed)
    # As receivers of beat_init do.
    assert scheduler.schedule["work"].kwargs == {"entry": "old"}
    scheduler.noted_by_a_receiver = True
    STORE["work"] = {"entry": "edited"}
    with Inbox(quick_server.url, queue=key) as inbox:
        wait_until(lambda: (scheduler.tick(), len(inbox.sent()) >= 3)[1], 30)
        assert len(inbox.sent("edited")) == len(inbox.sent())
    assert not hasattr(scheduler, "noted_by_a_receiver")


RECEIVER = """
from celery.beat import PersistentScheduler
from celery.signals import beat_init
from celery_safe_leader.schedulers import LeaderSchedulerMixin

class Shared(LeaderSchedulerMixin, PersistentScheduler):
    pass

@beat_init.connect
def send_at_once(sender, **kwargs):
    scheduler = sender.scheduler
    scheduler.apply_entry(scheduler.Entry(
        name="greeting", task="shop.work", schedule=60.0, kwargs={"entry": "greeting"}, app=app,
    ))
"""


@pytest.mark.parametrize("scheduler", ["celery_safe_leader.LeaderScheduler", "app.Shared"])
def test_a_receiver_of_beat_init_that_sends_an_entry_does_not_end_beat(
    children: Children, tmp_path: Path, quick_server: Server, key: str, scheduler: str
) -> None:
    schedule = '{"tick": {"task": "shop.work", "schedule": 0.5, "kwargs": {"entry": "tick"}}}'
    write_app(
        tmp_path,
        quick_server.url,
        schedule,
        more=RECEIVER,
        leader_key=key,
        task_default_queue=key,
    )
    with Inbox(quick_server.url, queue=key) as inbox:
        beat = Beat(children, tmp_path, "--pidfile=", scheduler=scheduler)
        inbox.wait_for(2, entry="tick")
        assert beat.lines("EntryWithheldError")
        assert beat.lines(f"entry 'greeting' was not sent: this beat does not lead '{key}:beat'")
        assert inbox.sent("greeting") == []
        beat.terminate()
