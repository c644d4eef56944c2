"""Three beats with another package's scheduler, its store, and what each of them writes there."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.celery.inbox import Dispatch, Inbox
from tests.support.processes import Children
from tests.support.processes.cleanup import CleansUp
from tests.support.servers import Server

__all__ = ["KINDS", "TTL", "Database", "OtherStage", "Persistent", "RedBeat"]

TTL = 1.5
WAIT = 0.3

SCHEDULE = """\
{
    "tick": {"task": "shop.work", "schedule": 1.0, "kwargs": {"entry": "tick"}},
    "hourly": {
        "task": "shop.work", "schedule": 3600.0, "kwargs": {"entry": "hourly"},
        "last_run_at": datetime.now(timezone.utc) - timedelta(hours=2),
    },
}
"""
"""The second is due once, when the first leader begins, and not again."""

_CRASH = """
import os, pathlib

class Crashing:
    # Dies between a message and the note that it was sent, once for all beats.
    def _note(self, entry, advance):
        if entry.name == "hourly":
            try:
                pathlib.Path("crash").unlink()
            except FileNotFoundError:
                pass
            else:
                os._exit(9)
        super()._note(entry, advance)

def __getattr__(attribute):
    if attribute != "Crashes":
        raise AttributeError(attribute)
    from {module} import {name}
    return type("Crashes", (Crashing, {name}), {{}})
"""

_DJANGO = """
import json, os
import django
from django.conf import settings
from django.db.backends.signals import connection_created

settings.configure(
    INSTALLED_APPS=["django_celery_beat"], USE_TZ=True, TIME_ZONE="UTC",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": "store.sqlite3", "OPTIONS": {"timeout": 20},
    }},
)
django.setup()

def log(execute, sql, params, many, context):
    with open(f"sql-{os.getpid()}.log", "a") as file:
        file.write(json.dumps(sql) + "\\n")
    return execute(sql, params, many, context)

def watch(sender, connection, **kwargs):
    connection.execute_wrappers.append(log)

connection_created.connect(watch)
"""

_FILL_DATABASE = """
import app
from datetime import timedelta
from django.core.management import call_command
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

call_command("migrate", verbosity=0)
def add(name, every, last):
    interval, _ = IntervalSchedule.objects.get_or_create(every=every, period="seconds")
    PeriodicTask.objects.create(
        name=name, task="shop.work", interval=interval, kwargs='{"entry": "%s"}' % name,
        last_run_at=last,
    )
add("tick", 1, timezone.now())
add("hourly", 3600, timezone.now() - timedelta(hours=2))
print("filled")
"""

_FILL_REDBEAT = """
import app
from datetime import timedelta
from celery.schedules import schedule
from redbeat import RedBeatSchedulerEntry

def add(name, every, ago):
    entry = RedBeatSchedulerEntry(
        name, "shop.work", schedule(every), kwargs={"entry": name}, app=app.app,
    )
    entry.save()
    entry.reschedule(app.app.now() - timedelta(seconds=ago))
add("tick", 1, 0)
add("hourly", 3600, 7200)
print("filled")
"""


class OtherStage(CleansUp):
    """Servers, a store and beats.

    Args:
        folder: For the app and the store.
        count: How many beats.
        crash: Whether the first leader that sends "hourly" dies of it.
    """

    scheduler: ClassVar[str]
    """Dotted name of the class."""
    schedule: ClassVar[str] = "{}"
    more: ClassVar[str] = ""
    fill: ClassVar[str] = ""
    """Program that puts the entries into the store."""

    def __init__(self, folder: Path, *, count: int = 3, crash: bool = False) -> None:
        self.folder = folder
        self._count = count
        self._crash = crash
        self.beats: list[Beat] = []

    def __enter__(self) -> OtherStage:
        with ExitStack() as cleanup:
            self.broker = cleanup.enter_context(Server("redis"))
            self.store = cleanup.enter_context(Server("redis", config=self._watched()))
            self.inbox = cleanup.enter_context(Inbox(self.broker.url))
            self.children = Children()
            cleanup.callback(self.children.close)
            module, _, name = self.scheduler.rpartition(".")
            write_app(
                self.folder,
                self.broker.url,
                self.schedule,
                more=self.more + _CRASH.format(module=module, name=name),
                leader_url=self.store.url,
                leader_ttl=TTL,
                leader_wait=WAIT,
                result_expires=None,
                **self.settings(),
            )
            if self.fill:
                child = self.children.python(self.fill, cwd=self.folder)
                child.wait_for_line("filled", 40)
                assert child.wait(10) == 0, child.output
            if self._crash:
                (self.folder / "crash").touch()
            for _ in range(self._count):
                self.start()
            self._cleanup = cleanup.pop_all()
        return self

    @staticmethod
    def _watched() -> dict[str, str]:
        return {"slowlog-log-slower-than": "0", "slowlog-max-len": "100000"}

    def settings(self) -> dict[str, Any]:
        """Return more settings of the app."""
        return {}

    def arguments(self) -> list[str]:
        """Return more arguments of beat."""
        return []

    def start(self) -> Beat:
        """Start a beat."""
        name = f"beat-{len(self.beats) + 1}"
        scheduler = "app.Crashes" if self._crash else self.scheduler
        beat = Beat(
            self.children,
            self.folder,
            "--pidfile=",
            *self.arguments(),
            name=name,
            scheduler=scheduler,
            env={"BEAT_NAME": name},
        )
        self.beats.append(beat)
        return beat

    def leader(self, timeout: float = 20.0, *, other_than: Beat | None = None) -> Beat:
        """Wait until one leads."""
        return leader_of(lambda: self.beats, timeout, other_than=other_than)

    def wait_settled(self) -> Beat:
        """Wait until one leads and dispatches, and the others stand by."""
        leader = self.leader()
        for beat in self.beats:
            if beat is not leader and not beat.ended:
                beat.wait_standing_by()
        self.inbox.wait_for(1, 30, entry="tick", since=time.monotonic(), pid=leader.pid)
        return leader

    def check(self) -> list[Dispatch]:
        """Check that no run was sent twice and that nobody failed; return the ticks."""
        ticks = list({run.task_id: run for run in self.inbox.sent("tick")}.values())
        apart = [later.at - earlier.at for earlier, later in itertools.pairwise(ticks)]
        # Celery counts an interval from the run before: whoever begins with an older one is early.
        # And what is sent late counts from when it was due: on a busy machine the next one is near.
        assert min(apart) > 0.5, [(run.pid, run.at, run.task_id) for run in ticks]
        assert len({run.task_id for run in self.inbox.sent("hourly")}) == 1
        for beat in self.beats:
            assert beat.ended or beat.child.running, beat.child.output
            assert "Traceback" not in beat.child.output, beat.child.output
        return ticks

    def writes(self, beat: Beat) -> list[str]:
        """List what a beat has written to the store."""
        raise NotImplementedError


class Database(OtherStage):
    """django-celery-beat."""

    scheduler = "celery_safe_leader.schedulers.LeaderDatabaseScheduler"
    schedule = (
        '{"static": {"task": "shop.work", "schedule": 3600.0, "kwargs": {"entry": "static"}}}'
    )
    more = _DJANGO
    fill = _FILL_DATABASE

    def writes(self, beat: Beat) -> list[str]:
        log = self.folder / f"sql-{beat.pid}.log"
        *lines, _ = log.read_text().split("\n") if log.exists() else [""]  # the last is not whole
        statements = [json.loads(line) for line in lines]
        return [sql for sql in statements if sql.split()[0] in ("INSERT", "UPDATE", "DELETE")]


class RedBeat(OtherStage):
    """RedBeat."""

    scheduler = "celery_safe_leader.schedulers.LeaderRedBeatScheduler"
    schedule = Database.schedule
    more = (
        "import os\nname = os.environ.get('BEAT_NAME', 'fill')\n"
        "app.conf.redbeat_redis_url += f'?client_name={name}'\n"
    )
    fill = _FILL_REDBEAT

    def settings(self) -> dict[str, Any]:
        return {
            "redbeat_redis_url": self.store.url,
            "redbeat_redis_options": {"socket_timeout": 5},
            "redbeat_lock_key": "redbeat:lock",
            "beat_max_loop_interval": 1,
        }

    def writes(self, beat: Beat) -> list[str]:
        # The names of some fields, such as that of the ledger's sentinel, are no text.
        client = self.store.client(encoding_errors="replace")
        # Not by redis-py's own answer, which leaves the client's name out.
        client.response_callbacks.pop("SLOWLOG GET")
        log = client.execute_command("SLOWLOG GET", "-1")
        commands = [command[0].upper() for _, _, _, command, _, name in log if name == beat.name]
        return [command for command in commands if command in ("HSET", "HSETNX", "ZADD", "SADD")]


class Persistent(OtherStage):
    """Celery's own scheduler with a file, which the beats of one machine share."""

    scheduler = "app.Shared"
    schedule = SCHEDULE
    more = (
        "import os\n"
        "from celery.beat import PersistentScheduler\n"
        "from celery_safe_leader.schedulers import LeaderSchedulerMixin\n"
        "class Shared(LeaderSchedulerMixin, PersistentScheduler):\n"
        "    def _open_schedule(self):\n"
        "        open(f'opened-{os.getpid()}', 'a').close()\n"
        "        return super()._open_schedule()\n"
    )

    def arguments(self) -> list[str]:
        return ["-s", "entries"]

    def writes(self, beat: Beat) -> list[str]:
        # Who never opens it writes nothing; who opens it sets it up.
        return [str(path) for path in self.folder.glob(f"opened-{beat.pid}")]


KINDS = (Database, RedBeat, Persistent)
