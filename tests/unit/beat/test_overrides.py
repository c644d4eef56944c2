"""What a subclass overrides is called, or refused by name."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from celery.beat import PersistentScheduler, ScheduleEntry, Scheduler
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader._beat import overrides
from celery_safe_leader._beat.entries.entry import read_entry
from celery_safe_leader._schedules.missed import Policy
from celery_safe_leader.beat import LeaderScheduler


@pytest.fixture
def app() -> Celery:
    app = Celery("shop", broker="redis://localhost:1/0", set_as_current=False)
    app.conf.beat_schedule = {"tick": {"task": "t", "schedule": 60.0}}
    return app


def derived(name: str, *bases: type) -> type[LeaderScheduler]:
    def override(self: Any, *args: Any, **options: Any) -> Any:
        return getattr(super(kind, self), name)(*args, **options)

    kind = type("Mine", bases or (LeaderScheduler,), {name: override})
    return kind


METHODS = sorted(name for name, found in vars(Scheduler).items() if overrides._is_code(found))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_stock_is_served_or_refused_by_name(app: Celery, name: str) -> None:
    kind = derived(name)
    if name in overrides._SERVED:
        if name != "info":  # a property
            kind(app, lazy=True)
        return
    with pytest.raises(ImproperlyConfigured) as raised:
        kind(app, lazy=True)
    assert f"Mine overrides {name}(), which LeaderScheduler never calls" in str(raised.value)
    assert "LeaderSchedulerMixin" in str(raised.value)


def test_methods_of_other_bases_are_looked_at_too(app: Celery) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"get_schedule\(\).*schedule.*set_schedule"):
        type("Both", (LeaderScheduler, PersistentScheduler), {})(app, lazy=True)
    mixin = type("Mixin", (), {"reserve": lambda self, entry: entry})
    with pytest.raises(ImproperlyConfigured, match=r"reserve\(\)"):
        type("Mixed", (mixin, LeaderScheduler), {})(app, lazy=True)


@pytest.mark.parametrize("name", ["__next__", "update"])
def test_an_entry_class_that_keeps_its_own_last_run_is_refused(app: Celery, name: str) -> None:
    entry = type("Mine", (ScheduleEntry,), {name: lambda self: self})
    with pytest.raises(ImproperlyConfigured, match=f"overrides Entry.{name}"):
        type("Own", (LeaderScheduler,), {"Entry": entry})(app, lazy=True)


@pytest.mark.parametrize("name", ["last_run_at", "total_run_count"])
def test_an_entry_class_whose_last_run_is_a_property_is_refused(app: Celery, name: str) -> None:
    kept = property(lambda self: None, lambda self, value: None)
    entry = type("Mine", (ScheduleEntry,), {name: kept})
    with pytest.raises(ImproperlyConfigured, match=rf"overrides Entry\.{name}, which"):
        type("Own", (LeaderScheduler,), {"Entry": entry})(app, lazy=True)
    # A value for all, in place of one for each, is no place where somebody keeps it.
    entry = type("Mine", (ScheduleEntry,), {name: None})
    type("Own", (LeaderScheduler,), {"Entry": entry})(app, lazy=True)


def test_an_entry_class_with_more_fields_is_used(app: Celery) -> None:
    class Entry(ScheduleEntry):
        def __init__(self, *args: Any, tenant: str = "", **more: Any) -> None:
            super().__init__(*args, **more)
            self.tenant = tenant

    app.conf.beat_schedule = {"a": {"task": "t", "schedule": 60.0, "tenant": "x"}}
    scheduler = type("Own", (LeaderScheduler,), {"Entry": Entry})(app)
    assert scheduler.schedule["a"].tenant == "x"
    assert scheduler._roster.entries["a"].rule.exact


@pytest.mark.parametrize("of", ["scheduler", "entry"])
def test_an_overridden_is_due_is_asked_with_the_last_run_of_the_ledger(
    app: Celery, of: str
) -> None:
    asked: list[Any] = []

    class Entry(ScheduleEntry):
        def is_due(self) -> Any:
            asked.append(self.last_run_at)
            return False, 7.5

    def is_due(self: Any, entry: Any) -> Any:
        asked.append(entry.last_run_at)
        return False, 7.5

    own: dict[str, Any] = {"Entry": Entry} if of == "entry" else {"is_due": is_due}
    scheduler = type("Own", (LeaderScheduler,), own)(app)
    entry = scheduler._roster.entries["tick"]
    assert not entry.rule.exact
    before = entry.source.last_run_at
    answer: Any = entry.rule.ask(1_000_000)
    assert (answer.is_due, answer.pause_us) == (False, 7_500_000)
    assert [moment.timestamp() for moment in asked] == [1.0]
    assert entry.source.last_run_at == before
    stock = read_entry(scheduler.schedule["tick"], Policy.COALESCE)
    assert stock.rule.exact


def test_sync_is_called_by_one_thread_at_a_time(app: Celery) -> None:
    under_way, most = 0, 0

    class Own(LeaderScheduler):
        def should_sync(self) -> bool:
            return True

        def sync(self) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            time.sleep(0.01)
            under_way -= 1

    scheduler = Own(app, lazy=True)

    def work() -> None:
        for _ in range(10):
            if scheduler.should_sync():
                scheduler._do_sync()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert vars(LeaderScheduler(app, lazy=True)).keys().isdisjoint({"sync", "should_sync"})


def test_a_schedule_is_shown_as_itself_where_the_scheduler_is_asked(app: Celery) -> None:
    entry = ScheduleEntry(name="a", task="t", schedule=timedelta(seconds=5), app=app)
    assert repr(overrides.AskedSchedule(Scheduler(app, lazy=True), entry)) == repr(entry.schedule)
