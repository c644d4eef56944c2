"""System checks: settings each time, and with `--deploy` what `leader check` warns of.

The ids are in `docs/guides/django.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from django.core import checks

from celery_safe_leader import conf
from celery_safe_leader._app.app_check import load_scheduler
from celery_safe_leader._app.app_target import app_target
from celery_safe_leader._django.project_app import SETTING, NoAppError, project_app
from celery_safe_leader._operations.health.check_command import look
from celery_safe_leader._operations.health.finding import Grade
from celery_safe_leader._operations.page.page_view import problem_of
from celery_safe_leader._schedules.policy_options import check_entry_options
from celery_safe_leader._setting_sources import check_time_zone, refuse_unknown, spelling
from celery_safe_leader.errors import SafeLeaderError, StoreError

__all__ = ["DEPLOY", "SETTINGS", "register_checks"]

TAG = "celery_safe_leader"
SETTINGS = {
    "E001": "unknown setting",
    "E002": "wrong setting",
    "E003": "broker",
    "E004": "scheduler",
    "E005": "time zone",
    "E006": "entry",
    "E007": "which app",
    "W001": "no app",
}
"""Number -> what it is about."""
DEPLOY = {
    "Redis": "W010",
    "INFO": "W011",
    "round trip": "W012",
    "clock": "W013",
    "server": "W014",
    "role": "W015",
    "replicas": "W016",
    "memory": "W017",
    "persistence": "W018",
    "elections": "W019",
    "leader": "W020",
    "candidates": "W021",
    "releases": "W022",
    "ledger": "W023",
    "scheduler": "W024",
    "stock beat": "W025",
    "schedule": "W026",
    "workers": "W027",
    "tasks": "W028",
}
"""What `leader check` calls it -> number; `beat leader` and the like by their last word."""


def register_checks() -> None:
    """Let Django run them. May be called again."""
    checks.register(check_settings, TAG)
    checks.register(check_deployment, TAG, deploy=True)


def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """Return what is wrong with the settings. Connects to nothing."""
    try:
        app = project_app()
    except NoAppError as exc:
        if exc.is_wrong:
            return [_error("E007", str(exc), f"Correct {SETTING}.")]
        text = f"The settings cannot be checked, and the admin's page shows nothing: {exc}"
        return [checks.Warning(text, id=f"{TAG}.W001")]
    return list(_wrong_settings(app))


def _wrong_settings(app: Celery) -> Iterator[checks.CheckMessage]:
    each: list[tuple[str, Callable[[Celery], object]]] = [
        ("E001", lambda app: refuse_unknown(_loaded(app))),
        ("E002", conf.read_for_worker),
        ("E003", conf.check_transport),
        ("E004", _check_scheduler),
        ("E005", check_time_zone),
    ]
    for number, check in each:
        try:
            check(app)
        except ImproperlyConfigured as exc:
            yield _error(number, str(exc))
            if number == "E001":  # the settings are read in one go, from the names on
                return
    yield from _wrong_entries(app)


def _loaded(app: Celery) -> Any:
    app.conf.get("leader_url")  # until then there is a placeholder
    return app.conf


def _check_scheduler(app: Celery) -> None:
    try:
        load_scheduler(app)
    except Exception as exc:
        named = app.conf.beat_scheduler
        raise ImproperlyConfigured(
            f"{spelling(app.conf, 'beat_scheduler')} is {named!r}, which cannot be loaded "
            f"({type(exc).__name__}: {exc}); it must be the path of a scheduler, such as "
            "'celery_safe_leader.LeaderScheduler'"
        ) from exc


def _wrong_entries(app: Celery) -> Iterator[checks.CheckMessage]:
    schedule = app.conf.beat_schedule
    for name, entry in schedule.items() if isinstance(schedule, dict) else ():
        if isinstance(entry, dict):
            try:
                with conf.as_improperly_configured(app):
                    check_entry_options(str(name), entry.get("options") or {})
            except ImproperlyConfigured as exc:
                yield _error("E006", str(exc), "A beat refuses to start with it.")


def check_deployment(**_: Any) -> list[checks.CheckMessage]:
    """Return what `leader check` warns of, as far as the settings are right. Asks Redis."""
    try:
        target = app_target(project_app())
    except (NoAppError, click.ClickException):
        return []  # the other check tells
    try:
        found = look(target)[1]
    except StoreError as exc:
        problem = problem_of(target, exc)
        return [_warning("Redis", f"{problem.title}: {problem.text}")]
    except (SafeLeaderError, click.ClickException) as exc:
        return [_warning("Redis", f"Redis cannot be asked: {exc}")]
    return [
        _warning(each.subject, f"{each.subject}: {each.text}", each.advice)
        for each in found
        if each.grade is not Grade.GOOD
    ]


def _error(number: str, text: str, hint: str | None = None) -> checks.CheckMessage:
    return checks.Error(text, hint=hint, id=f"{TAG}.{number}")


def _warning(subject: str, text: str, hint: str | None = None) -> checks.CheckMessage:
    return checks.Warning(text, hint=hint or None, id=f"{TAG}.{number_of(subject)}")


def number_of(subject: str) -> str:
    """Return the number of a finding of `leader check`."""
    return DEPLOY[subject if subject in DEPLOY else subject.split()[-1]]
