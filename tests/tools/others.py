"""Tools that have a say in what is sent: task classes, monitors, tenants, headers."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import rmtree
from typing import Any

from celery.beat import PersistentScheduler
from celery.signals import beat_init

from tests.tools.stage import ENTRIES, Messages, Seen, ToolStage, headers_of

__all__ = ["OTHERS"]


def nothing(stage: ToolStage) -> Seen:
    """No tool."""
    return lambda messages: {}


def structlog(stage: ToolStage) -> Seen:
    """django-structlog's receiver, which adds to the headers of each message."""
    import django
    from django.conf import settings

    settings.configure(INSTALLED_APPS=[], DJANGO_STRUCTLOG_CELERY_ENABLED=True)
    django.setup()
    import structlog as logs  # type: ignore[import-not-found]
    from django_structlog.celery.receivers import CeleryReceiver  # type: ignore[import-not-found]

    logs.contextvars.bind_contextvars(shop="a")
    receiver = CeleryReceiver()
    receiver.connect_signals()
    stage.kept.append(receiver)  # signals hold it weakly

    def seen(messages: Messages) -> dict[str, Any]:
        told = [headers_of(each).get("__django_structlog__") for each in messages]
        return {"messages with its header": all(each is not None for each in told)}

    return seen


def once(stage: ToolStage) -> Seen:
    """celery-once: a task class that raises instead of sending what is queued already."""
    from celery_once import QueueOnce  # type: ignore[import-not-found]

    stage.tasks.update(base=QueueOnce, once={"graceful": True})
    stage.conf["ONCE"] = {
        "backend": "celery_once.backends.Redis",
        "settings": {"url": stage.broker},
    }
    stage.same = 2
    return lambda messages: {}


def singleton(stage: ToolStage) -> Seen:
    """celery-singleton: a task class that sends nothing if it is queued already."""
    from celery_singleton import Singleton  # type: ignore[import-not-found]

    stage.tasks["base"] = Singleton
    stage.conf["result_backend"] = stage.broker
    stage.same = 2
    return lambda messages: {}


def cronitor(stage: ToolStage) -> Seen:
    """Cronitor: adds headers to the entries when beat starts, and is told by the worker.

    It starts the persistent scheduler a second time for that. Both beats are whole ones, therefore,
    which end by SIGTERM.
    """
    import cronitor  # type: ignore[import-not-found]
    from cronitor.celery import initialize  # type: ignore[import-not-found]

    told: list[tuple[str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            monitors = json.loads(body)["monitors"]
            told.extend(("monitor", each["key"]) for each in monitors)
            self.answer(json.dumps({"monitors": monitors}))

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            state = dict(each.split("=") for each in query.split("&"))["state"]
            told.append((state, path.rpartition("/")[2]))
            self.answer("OK")

        def answer(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: Any) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monitor = cronitor.Monitor
    monitor._monitor_api_url = classmethod(lambda kind, key=None: f"{url}/monitors")
    monitor._ping_api_url = lambda self: f"{url}/ping/{self.key}"
    # Each runs some seconds after the restart: nothing is overdue.
    stage.entry = {"schedule": timedelta(seconds=5)}
    stage.conf["worker_redirect_stdouts"] = False

    def around(app: Any, wait: Callable[[], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            # It copies the schedule's file, which dbm.dumb has under other names.
            stage.kept.append(lambda **_: Path(folder, "schedule").touch())
            beat_init.connect(stage.kept[-1])
            initialize(app, api_key="key")
            ordinary = PersistentScheduler if not stage.is_ours else stage.scheduler_class
            beat = app.Beat(
                scheduler=ordinary, schedule=str(Path(folder, "schedule")), loglevel="ERROR",
                quiet=True,
            )  # fmt: skip

            def end() -> None:
                wait()
                os.kill(os.getpid(), signal.SIGTERM)

            threading.Thread(target=end, daemon=True).start()
            with suppress(SystemExit):
                beat.run()

    stage.around = around

    def seen(messages: Messages) -> dict[str, Any]:
        counts = Counter(what for what, _ in told)
        names = [headers_of(each).get("x-cronitor-celerybeat-name") for each in messages]
        return {
            # With the persistent scheduler Cronitor makes them once beat has ended.
            "not compared": {"monitors at the start": counts["monitor"]},
            "entries in headers": len(set(names) - {None}) == ENTRIES and None not in names,
            "the worker's begin, one for each message": counts["run"] - len(messages),
            "the worker's end, one for each message": counts["complete"] - len(messages),
            "of the entries": {key for what, key in told if what == "complete"} == set(names),
        }

    return seen


def tenants(stage: ToolStage) -> Seen:
    """tenant-schemas-celery: its scheduler sends each run to two tenants, in PostgreSQL."""
    import django
    import psycopg2  # type: ignore[import-untyped]
    from django.conf import settings

    name = f"leader_tools_{os.getpid()}"
    url = os.environ.get("SAFE_LEADER_TEST_POSTGRESQL", "host=127.0.0.1 user=postgres")
    login = dict(each.split("=") for each in url.split())
    admin = psycopg2.connect(**login, dbname="postgres")
    admin.autocommit = True
    admin.cursor().execute(f'CREATE DATABASE "{name}"')

    def drop() -> None:
        from django.db import connections

        connections.close_all()
        admin.cursor().execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    stage.at_end.append(drop)
    ordinary = ["django_tenants", "django.contrib.contenttypes"]
    engine = "django_tenants.postgresql_backend"
    settings.configure(
        INSTALLED_APPS=[*ordinary, "tests.tools.shops"],
        SHARED_APPS=[*ordinary, "tests.tools.shops"],
        TENANT_APPS=["tests.tools.shops"],
        TENANT_MODEL="shops.Shop",
        TENANT_DOMAIN_MODEL="shops.Address",
        DATABASE_ROUTERS=["django_tenants.routers.TenantSyncRouter"],
        DATABASES={
            "default": {
                "ENGINE": engine,
                "NAME": name,
                "HOST": login["host"],
                "USER": login["user"],
                "PASSWORD": login.get("password", ""),
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        USE_TZ=True,
    )
    django.setup()
    from django.db import connection
    from tenant_schemas_celery.app import CeleryApp  # type: ignore[import-not-found]

    from tests.tools.shops.models import Shop

    with connection.schema_editor() as editor:
        editor.create_model(Shop)
    for schema in ("public", "north", "south"):
        connection.cursor().execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        Shop.objects.create(schema_name=schema)

    def scheduler_class(is_ours: bool) -> type:
        from tenant_schemas_celery.scheduler import (  # type: ignore[import-not-found]
            TenantAwareScheduleEntry,
            TenantAwareScheduler,
            TenantAwareSchedulerMixin,
        )

        if not is_ours:
            found: type = TenantAwareScheduler
            return found
        from celery_safe_leader import LeaderScheduler

        class TenantScheduler(TenantAwareSchedulerMixin, LeaderScheduler):
            Entry = TenantAwareScheduleEntry

            def setup_schedule(self) -> None:
                conf = self.app.conf
                conf.beat_schedule = self._tenant_aware_beat_schedule_to_dict(conf.beat_schedule)
                super().setup_schedule()

        return TenantScheduler

    stage.app_class = CeleryApp
    stage.make_scheduler_class = scheduler_class
    stage.messages_of_each = 2
    schemas: list[str] = []
    stage.on_run = lambda: schemas.append(connection.schema_name)

    def seen(messages: Messages) -> dict[str, Any]:
        return {
            "to": Counter(headers_of(each).get("_schema_name", "?") for each in messages),
            "the worker was in": Counter(schemas),
            "different ids": len({headers_of(each)["id"] for each in messages}),
        }

    return seen


def sqlalchemy(stage: ToolStage) -> Seen:
    """celery-sqlalchemy-v2-scheduler, which keeps entries in SQLite, with the mixin."""
    folder = tempfile.mkdtemp()
    stage.at_end.append(lambda: rmtree(folder, ignore_errors=True))
    stage.conf["beat_dburi"] = f"sqlite:///{folder}/schedule.db"
    stage.entry = {"schedule": timedelta(seconds=5)}

    def scheduler_class(is_ours: bool) -> type:
        from celery_sqlalchemy_v2_scheduler.schedulers import (  # type: ignore[import-not-found]
            DatabaseScheduler,
        )

        if not is_ours:
            found: type = DatabaseScheduler
            return found
        from celery_safe_leader.schedulers import LeaderSchedulerMixin

        class LeaderSQLScheduler(LeaderSchedulerMixin, DatabaseScheduler):
            pass

        return LeaderSQLScheduler

    stage.make_scheduler_class = scheduler_class

    def seen(messages: Messages) -> dict[str, Any]:
        entries = Counter(headers_of(each)["argsrepr"] for each in messages)
        return {
            "entries": len(entries),
            "different ids": len({headers_of(m)["id"] for m in messages}),
        }

    return seen


OTHERS = {
    "nothing": nothing,
    "structlog": structlog,
    "once": once,
    "singleton": singleton,
    "cronitor": cronitor,
    "tenants": tenants,
    "sqlalchemy": sqlalchemy,
}
