"""Schedulers and entries of public projects, with what each keeps them in.

Those that keep a schedule of their own run with the mixin; the others over ``LeaderScheduler``.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from shutil import rmtree
from typing import Any

from celery.beat import Scheduler
from celery.exceptions import ImproperlyConfigured
from celery.signals import beat_init

from tests.tools.stage import ENTRIES, Messages, Seen, ToolStage, headers_of

__all__ = ["STORES"]

SOON = timedelta(seconds=5)
"""No entry runs twice before beat is told to end."""
OPTIONS = {"expires": 600, "headers": {"shop": "a"}}

_RANDOM = ("id", "root_id", "origin")
_PREFIX = "leader_"


def _as_sent(messages: Messages) -> dict[str, Any]:
    """Return what is compared of messages: all but what is random, ours, or a moment."""
    shown = []
    for each in messages:
        headers = {
            name: value if name != "expires" else bool(value)
            for name, value in headers_of(each).items()
            if name not in _RANDOM and not name.startswith(_PREFIX)
        }
        properties = dict(each["properties"])
        for name in ("correlation_id", "reply_to", "delivery_tag"):
            properties.pop(name, None)
        properties["expiration"] = "expiration" in properties
        # The queue is named after the scene.
        queue = properties["delivery_info"]["routing_key"]
        text = json.dumps([headers, properties, each["body"]], sort_keys=True, default=str)
        shown.append(text.replace(queue, "the queue"))
    return {
        "different ids": len({headers_of(each)["id"] for each in messages}),
        "as sent": hashlib.sha256("\n".join(sorted(shown)).encode()).hexdigest()[:12],
    }


def _folder(stage: ToolStage) -> str:
    folder = tempfile.mkdtemp()
    stage.at_end.append(lambda: rmtree(folder, ignore_errors=True))
    return folder


def _with_mixin(stage: ToolStage, load: Callable[[], type]) -> None:
    """Run a class that keeps its own schedule: alone, and below the mixin."""

    def scheduler_class(is_ours: bool) -> type:
        own = load()
        if not is_ours:
            return own
        from celery_safe_leader.schedulers import LeaderSchedulerMixin

        return type("LeaderStore", (LeaderSchedulerMixin, own), {"__module__": __name__})

    stage.make_scheduler_class = scheduler_class


def _over_leader(stage: ToolStage, load: Callable[[], type]) -> None:
    """Run a class that changes how runs are sent: alone, and over ``LeaderScheduler``."""

    def scheduler_class(is_ours: bool) -> type:
        own = load()
        if not is_ours:
            return own
        from celery_safe_leader import LeaderScheduler

        return type("LeaderSender", (own, LeaderScheduler), {"__module__": __name__})

    stage.make_scheduler_class = scheduler_class


def _refused(stage: ToolStage, entry: type, *names: str) -> str:
    """Let ``LeaderScheduler`` refuse a class of entries; return what it says.

    Raises:
        AssertionError: It does not name what it refuses, or refuses nothing.
    """
    from celery import Celery

    from celery_safe_leader import LeaderScheduler

    kind = type("Refused", (LeaderScheduler,), {"Entry": entry, "__module__": __name__})
    said = ""
    try:
        kind(Celery("shop", broker=stage.broker, set_as_current=False), lazy=True)
    except ImproperlyConfigured as exc:
        said = str(exc)
    missing = [name for name in names if name not in said]
    if missing:
        raise AssertionError(f"{entry} was not refused for {missing}: {said}")
    return ", ".join(names)


def sqlalchemy_beat(stage: ToolStage) -> Seen:
    """sqlalchemy-celery-beat: ``ModelEntry`` of rows in SQLite."""
    stage.conf["beat_dburi"] = f"sqlite:///{_folder(stage)}/schedule.db"
    stage.entry = {"schedule": SOON, "options": OPTIONS}

    def load() -> type:
        from sqlalchemy_celery_beat.schedulers import (  # type: ignore[import-not-found]
            DatabaseScheduler,
        )

        found: type = DatabaseScheduler
        return found

    _with_mixin(stage, load)
    return _as_sent


def redundant(stage: ToolStage) -> Seen:
    """celery-redundant-scheduler: entries whose last run is a property, kept in Redis."""
    from urllib.parse import urlparse

    url = urlparse(stage.broker)
    options = {"host": url.hostname, "port": url.port}
    stage.conf["CELERYBEAT_REDUNDANT_BACKEND_OPTIONS"] = options
    stage.entry = {"schedule": SOON, "options": OPTIONS}

    def load() -> type:
        from celery_redundant_scheduler.scheduler import (  # type: ignore[import-not-found]
            RedundantScheduleEntry,
            RedundantScheduler,
        )

        if stage.is_ours:
            stage.notes["refused by LeaderScheduler"] = _refused(
                stage, RedundantScheduleEntry, "Entry.last_run_at"
            )
        found: type = RedundantScheduler
        return found

    _with_mixin(stage, load)
    return _as_sent


def callargs(stage: ToolStage) -> Seen:
    """celerybeat-callargs: calls the arguments of an entry when it is sent."""
    last_run_at = datetime.now(timezone.utc) - timedelta(hours=1.5)
    stage.entry_of = lambda number: {
        "schedule": 3600.0, "last_run_at": last_run_at, "args": (lambda: number,),
        "options": OPTIONS,
    }  # fmt: skip

    def load() -> type:
        from celerybeatcallargs import CallableArgsScheduler  # type: ignore[import-not-found]

        found: type = CallableArgsScheduler
        return found

    _over_leader(stage, load)
    return _as_sent


def mongobeat(stage: ToolStage) -> Seen:
    """celery-mongobeat: entries that ask themselves; here of ``beat_schedule``, without MongoDB."""
    stage.entry_of = lambda number: {
        "schedule": 3600.0, "max_run_count": 1, "run_immediately": True, "options": OPTIONS,
    }  # fmt: skip

    def load() -> type:
        from celery_mongobeat.beat import MongoScheduleEntry  # type: ignore[import-not-found]

        if stage.is_ours:
            stage.notes["refused by LeaderScheduler"] = _refused(
                stage, MongoScheduleEntry, "Entry.__next__()"
            )

        class EntryScheduler(Scheduler):
            Entry = MongoScheduleEntry

            def setup_schedule(self) -> None:
                self.update_from_dict(self.app.conf.beat_schedule)

        return EntryScheduler

    _with_mixin(stage, load)
    return _as_sent


def _django(stage: ToolStage, *apps: str) -> None:
    import django
    from django.conf import settings
    from django.core.management import call_command

    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", *apps],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": f"{_folder(stage)}/db.sqlite3",
                "OPTIONS": {"timeout": 20},
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        USE_TZ=True,
        TIME_ZONE="UTC",
        DJANGO_GUID={},
    )
    django.setup()
    call_command("migrate", verbosity=0)


def django_beat(stage: ToolStage) -> Seen:
    """django-celery-beat: its ``ModelEntry`` with each option that a row can have."""
    _django(stage, "django_celery_beat")
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    # Long enough that on a busy machine no row is due again before each was sent.
    every, _ = IntervalSchedule.objects.get_or_create(every=15, period="seconds")
    now = datetime.now(timezone.utc)
    kinds: list[dict[str, Any]] = [
        {"expire_seconds": 600}, {"headers": '{"shop": "a"}'}, {"one_off": True},
        {"queue": stage.key}, {"start_time": now - timedelta(days=2)}, {"priority": 0},
        {"expires": now + timedelta(days=2)},
        {"queue": stage.key, "exchange": "", "routing_key": stage.key},
    ]  # fmt: skip
    for number in range(ENTRIES):
        PeriodicTask.objects.create(
            name=f"row-{number}", task="shop.work", interval=every, args=f"[{number}]",
            **kinds[number % len(kinds)],
        )  # fmt: skip
    not_now: dict[str, dict[str, Any]] = {
        "disabled": {"enabled": False},
        "later": {"start_time": now + SOON * 99},
    }
    for name, more in not_now.items():
        PeriodicTask.objects.create(
            name=name, task="shop.work", interval=every, args="[99]", **more
        )
    stage.has_schedule = False

    def scheduler_class(is_ours: bool) -> type:
        if is_ours:
            from celery_safe_leader.schedulers import LeaderDatabaseScheduler

            return LeaderDatabaseScheduler
        from django_celery_beat.schedulers import DatabaseScheduler

        found: type = DatabaseScheduler
        return found

    stage.make_scheduler_class = scheduler_class
    return _as_sent


def rrule(stage: ToolStage) -> Seen:
    """django-celery-beat-rrule: an entry of django-celery-beat's with one schedule class more."""
    _django(stage, "django_celery_beat", "django_celery_beat_rrule")
    from django_celery_beat_rrule.models import (  # type: ignore[import-not-found]
        RrulePeriodicTask,
        RruleSchedule,
    )

    start = datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)
    rule = f"DTSTART:{start:%Y%m%dT%H%M%S}\nRRULE:FREQ=SECONDLY;INTERVAL=5;COUNT=2"
    rules = {"rrule": [rule], "rdate": [], "exrule": [], "exdate": []}
    row = RruleSchedule.objects.create(rrule=json.dumps(rules))
    for number in range(ENTRIES):
        RrulePeriodicTask.objects.create(
            name=f"row-{number}", task="shop.work", rrule=row, args=f"[{number}]",
            expire_seconds=600,
        )  # fmt: skip
    stage.has_schedule = False

    def load() -> type:
        from django_celery_beat_rrule.schedulers import (  # type: ignore[import-not-found]
            RruleDatabaseScheduler,
        )

        found: type = RruleDatabaseScheduler
        return found

    _with_mixin(stage, load)
    return _as_sent


def redbeat(stage: ToolStage) -> Seen:
    """celery-redbeat: its ``RedBeatSchedulerEntry``, made by hand and of ``beat_schedule``."""
    stage.conf.update(
        redbeat_redis_url=stage.broker, redbeat_key_prefix=f"{stage.key}:", redbeat_lock_key=None
    )
    stage.entry = {"schedule": SOON, "options": OPTIONS}

    def scheduler_class(is_ours: bool) -> type:
        if is_ours:
            from celery_safe_leader.schedulers import LeaderRedBeatScheduler

            return LeaderRedBeatScheduler
        from redbeat import RedBeatScheduler

        found: type = RedBeatScheduler
        return found

    stage.make_scheduler_class = scheduler_class
    return _as_sent


def guid(stage: ToolStage) -> Seen:
    """django-guid: its receivers add the correlation id, and the parent's, to each message."""
    import django
    from django.conf import settings
    from django_guid.integrations import CeleryIntegration  # type: ignore[import-not-found]

    settings.configure(
        INSTALLED_APPS=["django_guid"],
        DJANGO_GUID={"INTEGRATIONS": [CeleryIntegration(log_parent=True)]},
    )
    django.setup()
    from django_guid import get_guid, set_guid  # type: ignore[import-not-found]

    ids: list[Any] = []

    def begin(**_: Any) -> None:
        set_guid("a" * 32)  # in the context of the thread that beat runs on

    beat_init.connect(begin, weak=False)
    stage.on_run = lambda: ids.append(get_guid())

    def seen(messages: Messages) -> dict[str, Any]:
        told = [headers_of(each).get("Correlation-ID", "missing") for each in messages]
        return {
            "headers": sorted({str(each) for each in told}),
            "each run of the worker has one": len(ids) == len(messages) and all(ids),
            "runs of the worker with the beat's": ids.count("a" * 32),
        }

    return seen


def scout(stage: ToolStage) -> Seen:
    """Scout APM: its receiver notes when each message was sent; nothing is told to an agent."""
    import scout_apm.celery  # type: ignore[import-not-found]
    from scout_apm.api import Config  # type: ignore[import-not-found]

    Config.set(monitor=True, core_agent_launch=False, core_agent_download=False, name="shop")
    kept: list[Any] = []

    from scout_apm.core.tracked_request import TrackedRequest  # type: ignore[import-not-found]

    finish = TrackedRequest.finish

    def keeping(self: Any) -> Any:
        if "task_id" in self.tags:
            kept.append(dict(self.tags))
        return finish(self)

    TrackedRequest.finish = keeping

    scout_apm.celery.install()

    def seen(messages: Messages) -> dict[str, Any]:
        sent = [headers_of(each).get("scout_task_start") for each in messages]
        told = {tags["task_id"] for tags in kept}
        return {
            "messages with its header": sum(isinstance(each, float) for each in sent),
            "requests of the worker, one for each message": told
            == {headers_of(each)["id"] for each in messages},
            "with the time in the queue": sum("scout.job_queue_time_ns" in tags for tags in kept),
        }

    return seen


STORES = {
    "sqlalchemy-beat": sqlalchemy_beat,
    "redundant": redundant,
    "callargs": callargs,
    "mongobeat": mongobeat,
    "django-beat": django_beat,
    "rrule": rrule,
    "redbeat": redbeat,
    "guid": guid,
    "scout": scout,
}
