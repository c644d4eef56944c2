"""Finds where the package leans on parts of other libraries that are private or undocumented.

By ``ast``, and so by names: an attribute counts if its name begins with an underscore and nothing
of that name is defined in the package, or if a class listed in ``UNDOCUMENTED`` has it and the
package has not. A name that both have passes unseen; such rows of the page are kept by hand.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import celery.app.amqp
import celery.backends.base
import celery.beat
import celery.bootsteps
import celery.schedules
import celery.utils.dispatch
import celery.worker.consumer
import celery.worker.request
import celery.worker.worker
import kombu
import kombu.asynchronous.hub
import kombu.connection
import kombu.messaging
import kombu.pidbox
import kombu.transport.redis
import kombu.transport.virtual
import redis.asyncio.cluster
import redis.client
import redis.cluster
import redis.connection
import redis.sentinel

from tests.support.processes.child import ROOT

__all__ = ["PACKAGE", "Use", "uses"]

PACKAGE = ROOT / "celery_safe_leader"
LIBRARIES = {
    "amqp", "billiard", "celery", "django", "django_celery_beat", "kombu", "redbeat", "redis",
    "vine",
}  # fmt: skip

DOCUMENTED = frozenset(
    {
        # celery: user guide and "API reference", with a promise that they stay.
        "celery", "celery.Celery", "celery.Task", "celery.bootsteps", "celery.schedules",
        "celery.signals", "celery.schedules.crontab", "celery.beat.Scheduler",
        "celery.beat.ScheduleEntry", "celery.beat.BeatLazyFunc", "celery.bootsteps.CLOSE",
        "celery.bootsteps.TERMINATE", "celery.signals.beat_init",
        "celery.signals.beat_embedded_init", "celery.worker.control.inspect_command",
        "celery.exceptions.Ignore", "celery.exceptions.ImproperlyConfigured",
        "celery.exceptions.Reject", "celery.exceptions.Retry",
        # kombu
        "kombu.common.Broadcast", "kombu.compression", "kombu.entity.Exchange",
        "kombu.entity.Queue", "kombu.exceptions.BatchPublishError",
        "kombu.exceptions.OperationalError", "kombu.messaging.Producer", "kombu.serialization",
        "amqp.exceptions.MessageNacked",
        # billiard: as multiprocessing and the errors of its pool
        "billiard.get_start_method", "billiard.process.current_process",
        "billiard.exceptions.WorkerLostError",
        # redis-py
        "redis", "redis.asyncio", "redis.asyncio.cluster", "redis.asyncio.retry.Retry",
        "redis.asyncio.sentinel.SentinelConnectionPool", "redis.backoff.NoBackoff",
        "redis.connection.AbstractConnection", "redis.credentials.CredentialProvider",
        "redis.exceptions", "redis.retry.Retry", "redis.sentinel.SentinelConnectionPool",
        # Django and its schedulers
        "django.apps.AppConfig", "django.apps.apps", "django.apps.apps.is_installed",
        "django.conf.settings", "django.contrib.admin", "django.contrib.admin.ModelAdmin",
        "django.contrib.admin.site", "django.contrib.messages", "django.contrib.messages.ERROR",
        "django.contrib.messages.SUCCESS", "django.core.checks", "django.core.checks.CheckMessage",
        "django.core.checks.Error", "django.core.checks.Warning", "django.core.checks.register",
        "django.core.exceptions.PermissionDenied", "django.db.connections", "django.db.models",
        "django.db.models.CharField", "django.db.models.Manager", "django.db.models.Model",
        "django.http.HttpRequest", "django.http.HttpResponse", "django.http.HttpResponseRedirect",
        "django.template.response.TemplateResponse", "django.urls.path",
        "django.utils.module_loading.import_string", "django.utils.safestring.mark_safe",
        "django_celery_beat.schedulers.DatabaseScheduler", "redbeat.schedulers.RedBeatScheduler",
    }
)  # fmt: skip
"""Modules and names that their library documents."""

DOCUMENTED_ATTRIBUTES = frozenset(
    {
        # celery: Celery, Task and its request, Scheduler, a bootstep's consumer ("Extensions and
        # bootsteps"), Celery
        "Connection", "delivery_info", "enabled", "event_dispatcher", "hostname", "hub", "id",
        "ignore_result", "install_default_entries", "max_interval", "name", "pool", "reply_to",
        "send_task", "soft_time_limit", "time_limit", "utc", "connection_for_write", "blueprint",
        "controller", "schedule_filename", "acks_late", "control", "loader", "on_after_configure",
        "on_after_finalize", "set_current", "set_default", "timezone", "typing", "user_options",
        # its schedules
        "day_of_month", "day_of_week", "lat", "lon", "month_of_year",
        # kombu: Connection, Queue
        "add_reader", "bind", "channel_errors", "collect", "connection_errors",
        "ensure_connection", "transport_options", "type",
        # redis-py: clients, errors, the pool
        "ResponseError", "delete", "exists", "hget", "xrevrange", "hmget", "hscan", "set",
        # and of the standard library, under the same names
        "Task", "TimeoutError", "call_later", "current_task", "date", "default", "echo", "exitcode",
        "finalize", "method", "reset", "time", "unlink",
    }
)  # fmt: skip
"""Attributes that are documented, or that mean something else here."""

UNDOCUMENTED: tuple[type[Any], ...] = (
    celery.app.amqp.AMQP,
    celery.app.amqp.Queues,
    celery.Celery,
    celery.Task,
    celery.backends.base.Backend,
    celery.beat.Scheduler,
    celery.beat.Service,
    celery.bootsteps.StartStopStep,
    celery.schedules.BaseSchedule,
    celery.schedules.crontab,
    celery.schedules.schedule,
    celery.schedules.solar,
    celery.utils.dispatch.Signal,
    celery.worker.consumer.Consumer,
    celery.worker.request.Request,
    celery.worker.worker.WorkController,
    kombu.asynchronous.hub.Hub,
    kombu.connection.Connection,
    kombu.messaging.Producer,
    kombu.pidbox.Node,
    kombu.transport.redis.Channel,
    kombu.transport.virtual.Channel,
    redis.asyncio.cluster.RedisCluster,
    redis.client.Pipeline,
    redis.cluster.NodesManager,
    redis.cluster.RedisCluster,
    redis.connection.Connection,
    redis.connection.ConnectionPool,
    redis.sentinel.Sentinel,
    redis.sentinel.SentinelConnectionPool,
)
"""Classes whose attributes the package meets, most of which no page of their library names."""


class Use(NamedTuple):
    """One place that leans on something."""

    module: str
    """Of the package, such as ``_beat.inspection``."""
    name: str
    """What is leaned on: the last part of its name."""
    line: int


def _attributes(kind: type[Any]) -> Iterator[str]:
    """Name what a class has, and what its methods give to its objects."""
    for each in kind.__mro__[:-1]:
        yield from vars(each)
        if each.__module__.startswith("redis.commands"):
            continue  # hundreds of methods, and no attributes: commands are documented
        try:
            source = textwrap.dedent(inspect.getsource(each))
        except (OSError, TypeError):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.attr


_EVERYDAY = {name for kind in (dict, list, set, str, bytes) for name in dir(kind)}


@cache
def _reachable() -> frozenset[str]:
    names = {name for kind in UNDOCUMENTED for name in _attributes(kind)}
    return frozenset(names - _EVERYDAY - DOCUMENTED_ATTRIBUTES)


@cache
def _trees() -> dict[str, ast.Module]:
    return {_module(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@cache
def _own() -> frozenset[str]:
    """Name all that the package itself defines."""
    names: set[str] = set()
    for tree in _trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                    names.add(node.attr)
    return frozenset(names)


_EVERYBODYS = {"_replace", "_asdict", "_exit", "_current_frames"}
"""Of named tuples, ``os`` and ``sys``: documented, whatever they look like."""


def _leans(name: str) -> bool:
    if name.startswith("__") or name in _EVERYBODYS or name in _own():
        return False
    return name.startswith("_") or name in _reachable()


def _is_super(node: ast.expr) -> bool:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return is_call and node.func.id == "super"  # type: ignore[attr-defined]


def _of(tree: ast.Module) -> Iterator[tuple[str, int]]:
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.partition(".")[0] in LIBRARIES:
                for alias in node.names:
                    if f"{node.module}.{alias.name}" not in DOCUMENTED:
                        modules.add(alias.asname or alias.name)
                        yield alias.name, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in LIBRARIES and alias.name not in DOCUMENTED:
                    modules.add(alias.name)
                    yield alias.name.rpartition(".")[2], node.lineno
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            beneath = private and _is_super(node.value)
            in_module = ast.unparse(node.value) in modules and node.attr not in _EVERYDAY
            in_module = in_module and node.attr != "__file__"
            if beneath or in_module or _leans(node.attr):
                yield node.attr, node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "setattr", "hasattr", "delattr"):
                name = node.args[1]
                if isinstance(name, ast.Constant) and _leans(str(name.value)):
                    yield str(name.value), node.lineno


def uses() -> list[Use]:
    """Return every use of a private or undocumented part, once for each line."""
    found = {
        Use(module, name, line) for module, tree in _trees().items() for name, line in _of(tree)
    }
    return sorted(found)
