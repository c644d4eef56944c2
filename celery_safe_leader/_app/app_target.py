"""The key of a Celery app, for commands and pages about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import redis
from celery import Celery
from celery.beat import ScheduleEntry, Scheduler
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader import conf
from celery_safe_leader._app.app_check import app_findings
from celery_safe_leader._beat.entries.names import text_name
from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._clients import redis_client
from celery_safe_leader._ledger.codec import LastRun
from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._operations.target import NextMoment, Target, WrongSettingError
from celery_safe_leader._schedules.rule import Rule, ScheduleError
from celery_safe_leader._store.keys import BEAT, WORKER
from celery_safe_leader.errors import ConfigurationError

__all__ = ["app_target", "import_tasks"]


def app_target(app: Celery) -> Target:
    """Return the key that an app's settings name, and how to reach its Redis. Does no IO.

    Raises:
        WrongSettingError: A setting is wrong.
    """

    def open_client(key: str, seconds: float | None = None) -> redis.Redis:
        return redis_client(settings, key, connect_timeout=seconds, read_timeout=seconds)

    try:
        settings = conf.read(app)
        open_client("").close()
    except (ImproperlyConfigured, ConfigurationError) as exc:
        raise WrongSettingError(str(exc)) from exc

    roles = (BEAT, WORKER)
    return Target(
        settings.key,
        settings.server,
        open_client,
        open_client,
        settings.prefix,
        roles,
        lambda: _next_moments(app),
        lambda: app_findings(app, settings),
        settings.ttl,
        settings.wait_replicas,
        server_setting=settings.url_setting,
        login_setting=settings.login_setting,
    )


def _next_moments(app: Celery) -> NextMoment:
    """Read the app's schedule; return when an entry is due, where the ledger is of that schedule.

    Entries that cannot be read are not known.
    """
    import_tasks(app)
    rules: dict[str, Rule] = {}
    for name, make in _schedules(app):
        try:
            rules[text_name(name)] = rule_for(make(), tz=lambda: app.timezone)
        except Exception as exc:
            logger.debug("entry %r cannot be read: %r", name, exc)

    def next_moment(entry: str, run: LastRun) -> int | None:
        rule = rules.get(entry)
        if rule is None or not rule.exact or rule.fingerprint != run.fingerprint:
            return None
        try:
            return rule.after(run.base)
        except ScheduleError:
            return None

    return next_moment


def _schedules(app: Celery) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """Return the names of an app's entries, and what reads the schedule of each."""
    try:
        scheduler = Scheduler(app, lazy=True)
        # The one that Celery adds by itself for result backends that do not clean up themselves.
        scheduler.install_default_entries({})
    except Exception as exc:
        logger.debug("Celery's own entries are not known: %r", exc)
    else:
        for name, entry in scheduler.data.items():
            yield name, partial(getattr, entry, "schedule")
    for name, given in dict(app.conf.beat_schedule or {}).items():
        yield name, partial(_read_schedule, app, name, given)


def _read_schedule(app: Celery, name: Any, given: Any) -> Any:
    return ScheduleEntry(**{**dict(given), "name": name, "app": app}).schedule


def import_tasks(app: Celery) -> None:
    """Import the modules with the tasks of an app, as beats and workers do.

    Raises:
        WrongSettingError: One of them cannot be imported.
    """
    try:
        app.loader.import_default_modules()
    except Exception as exc:
        raise WrongSettingError(f"the tasks cannot be imported: {exc!r}") from exc
