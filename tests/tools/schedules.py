"""Schedule classes of public packages, beside stock beat, over some days of a clock that is set.

``python -m tests.tools.schedules`` prints, as JSON, for each class how often it ran with stock
beat's rules and with ours, and whether at the same moments. Nobody sleeps: the clock is moved on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import time_machine  # type: ignore[import-not-found]
from celery import Celery

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._schedules import asked as asked_module
from celery_safe_leader._schedules.asked import Asked
from celery_safe_leader._schedules.moments import now_us, to_datetime
from celery_safe_leader._schedules.opaque import OpaqueRule

__all__ = ["CLASSES", "compare"]

START = datetime(2026, 3, 27, 5, 17, tzinfo=timezone.utc)
"""Clocks are changed in Europe two days later."""
DAYS = 9
STEP = 60
"""Seconds."""


def _jalali(app: Celery) -> Any:
    from jalalicrontab.schedule import JalaliCrontab  # type: ignore[import-not-found]

    return JalaliCrontab(minute=30, hour="9,21", app=app)


def _rrule(app: Celery) -> Any:
    from redbeat.schedules import rrule

    return rrule("HOURLY", dtstart=START - timedelta(days=1), interval=5, app=app)


def _rrule_ends(app: Celery) -> Any:
    from redbeat.schedules import rrule

    return rrule("DAILY", dtstart=START - timedelta(days=2), count=5, app=app)


def _clocked(app: Celery) -> Any:
    from django_celery_beat.clockedschedule import clocked

    return clocked(START + timedelta(days=2, minutes=3), app=app)


def _zoned(app: Celery) -> Any:
    from django_celery_beat.tzcrontab import TzAwareCrontab

    return TzAwareCrontab(minute="*/20", hour="1-3", tz=ZoneInfo("Europe/Berlin"), app=app)


def _zoned_by_pytz(app: Celery) -> Any:
    import pytz  # type: ignore[import-untyped]
    from celery_sqlalchemy_v2_scheduler.tzcrontab import (  # type: ignore[import-not-found]
        TzAwareCrontab,
    )

    return TzAwareCrontab(minute="0", hour="*/5", tz=pytz.timezone("Asia/Tokyo"), app=app)


CLASSES: dict[str, Callable[[Celery], Any]] = {
    "celery-jalalicrontab: JalaliCrontab": _jalali,
    "celery-redbeat: rrule": _rrule,
    "celery-redbeat: rrule with a count": _rrule_ends,
    "django-celery-beat: clocked": _clocked,
    "django-celery-beat: TzAwareCrontab": _zoned,
    "celery-sqlalchemy-v2-scheduler: TzAwareCrontab": _zoned_by_pytz,
}


def _app() -> Celery:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.timezone = "UTC"
    return app


def _each_step(at: Callable[[int], None]) -> None:
    with time_machine.travel(START, tick=False) as clock:
        for _ in range(DAYS * 24 * 3600 // STEP):
            at(now_us())
            clock.shift(STEP)


def _with_stock(make: Callable[[Celery], Any]) -> list[int]:
    runs: list[int] = []
    kept: dict[str, Any] = {}

    def at(moment: int) -> None:
        if not kept:
            made = make(_app())
            kept.update(made=made, last=made.now(), again=moment)
        if moment < kept["again"]:
            return
        due, pause = kept["made"].is_due(kept["last"])
        kept["again"] = moment + (300 if pause is None else pause) * 1_000_000
        if due:
            runs.append(moment)
            kept["last"] = kept["made"].now()

    _each_step(at)
    return runs


def _with_ours(make: Callable[[Celery], Any]) -> list[int]:
    runs: list[int] = []
    kept: dict[str, Any] = {}

    def at(moment: int) -> None:
        if not kept:
            app = _app()
            rule = rule_for(make(app), 300, lambda: app.timezone)
            kept.update(rule=rule, base=moment, asked=Asked())
        rule, base = kept["rule"], kept["base"]
        if isinstance(rule, OpaqueRule):
            due = kept["asked"].due_runs(rule, base, moment).runs
            if due:
                kept["base"] = due[-1].last
                runs.append(moment)
        else:
            following = rule.after(base)
            if following is not None and following <= moment:
                kept["base"] = following
                runs.append(moment)

    with mock.patch.object(asked_module, "steady_us", now_us):
        _each_step(at)
    return runs


def compare(make: Callable[[Celery], Any]) -> dict[str, Any]:
    """Return how often a schedule runs in both, and where they differ."""
    try:
        stock = _with_stock(make)
    except Exception as exc:
        return {"stock raises": f"{type(exc).__name__}: {exc}"[:120]}
    ours = _with_ours(make)
    apart = sorted(set(stock) ^ set(ours))
    return {
        "stock": len(stock),
        "ours": len(ours),
        "apart": [to_datetime(each).isoformat() for each in apart[:5]],
    }


def main() -> None:
    """Print what came of each class."""
    from django.conf import settings

    settings.configure(USE_TZ=True, TIME_ZONE="UTC", DJANGO_CELERY_BEAT_TZ_AWARE=True)
    print(json.dumps({name: compare(make) for name, make in CLASSES.items()}))


if __name__ == "__main__":
    main()
