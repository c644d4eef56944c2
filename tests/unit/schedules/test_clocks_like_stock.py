"""Schedules with a clock of their own run when the installed Celery would run them.

Up to 5.6 Celery reads a crontab in the zone of what ``now()`` returns, from 5.7 on in its ``tz``.
The same tests run on each release: see ``make test-matrix``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import BaseSchedule, crontab, schedule, solar

from celery_safe_leader._beat.entries import celery_clocks
from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._schedules import asked as asked_module
from celery_safe_leader._schedules import frames
from celery_safe_leader._schedules.asked import Asked
from celery_safe_leader._schedules.moments import SECOND_US, to_datetime
from celery_safe_leader._schedules.opaque import OpaqueRule
from tests.unit.schedules.almanac import microseconds

STEP_US = 60 * SECOND_US
TOKYO, NEW_YORK = ZoneInfo("Asia/Tokyo"), ZoneInfo("America/New_York")
BERLIN = ZoneInfo("Europe/Berlin")


class Clock:
    """The time of a test; both beats and all schedules read it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.us = 0
        monkeypatch.setattr(frames, "now_us", lambda: self.us)
        monkeypatch.setattr(asked_module, "steady_us", lambda: self.us)

    def app(self, zone: str) -> Celery:
        app = Celery("shop", set_as_current=False)
        app.conf.timezone = zone
        app.now = lambda: self.utc().astimezone(app.timezone)
        return app

    def utc(self) -> datetime:
        return to_datetime(self.us)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def fixed(clock: Clock) -> datetime:
    """Return the time with the offset of the season, as ``astimezone()`` gives it."""
    offset = clock.utc().astimezone(NEW_YORK).utcoffset() or timedelta()
    return clock.utc().astimezone(timezone(offset))


def wall(clock: Clock, zone: ZoneInfo) -> datetime:
    return clock.utc().astimezone(zone).replace(tzinfo=None)


NOWFUNS: dict[str, Callable[[Clock], datetime]] = {
    "aware in another zone": lambda clock: clock.utc().astimezone(TOKYO),
    "aware where clocks are changed": lambda clock: clock.utc().astimezone(NEW_YORK),
    "aware in UTC": lambda clock: clock.utc(),
    "a fixed offset": fixed,
    "naive UTC": lambda clock: clock.utc().replace(tzinfo=None),
    "naive, 9 hours ahead": lambda clock: wall(clock, TOKYO),
    "naive, of the app": lambda clock: wall(clock, BERLIN),
    "20 minutes ahead": lambda clock: clock.utc() + timedelta(minutes=20),
}


class OwnNow(crontab):
    """A crontab with a clock of its own, as many projects have it."""

    clock: Any

    def now(self) -> datetime:
        found: datetime = self.clock().astimezone(TOKYO)
        return found


class Wrapper:
    """Passes on to a crontab, and has no ``tz``."""

    app: Any = None

    def __init__(self, inner: BaseSchedule) -> None:
        self.inner = inner

    def now(self) -> Any:
        return self.inner.now()

    def is_due(self, last_run_at: datetime) -> Any:
        return self.inner.is_due(last_run_at)

    def __repr__(self) -> str:
        return f"<wrapped {self.inner!r}>"


KINDS: dict[str, Callable[..., Any]] = {
    "crontab": lambda **more: crontab(hour=9, minute=30, **more),
    "crontab of days": lambda **more: crontab(hour="1,13", minute=0, day_of_week="mon-fri", **more),
    "interval": lambda **more: schedule(timedelta(hours=7), **more),
    "full hours": lambda **more: schedule(timedelta(hours=3), relative=True, **more),
    "sunrise": lambda **more: solar("sunrise", 52.5, 13.4, **more),
}


def stock_runs(made: Any, clock: Clock, start: int, end: int) -> list[int]:
    clock.us = start
    runs, last, again = [], made.now(), start
    for moment in range(start, end, STEP_US):
        clock.us = moment
        if moment < again:
            continue
        due, pause = made.is_due(last)
        again = moment + pause * SECOND_US
        if due:
            runs.append(moment)
            last = made.now()
    return runs


def our_runs(
    made: Any, app: Celery, clock: Clock, start: int, end: int, takeovers: bool
) -> list[int]:
    clock.us = start
    runs, base, asked = [], start, Asked()
    rule = rule_for(made, 300, lambda: app.timezone)
    for moment in range(start, end, STEP_US):
        clock.us = moment
        if isinstance(rule, OpaqueRule):
            due = asked.due_runs(rule, base, moment).runs
            if due:
                base = due[-1].last
                runs.append(moment)
                # Another process knows the last run, and nothing else.
                asked = Asked() if takeovers else asked
        else:
            following = rule.after(base)
            if following is not None and following <= moment:
                # As stock beat, which counts from when it ran.
                base = moment if made.__class__ is schedule and not made.relative else following
                runs.append(moment)
    return runs


@pytest.mark.parametrize("takeovers", [False, True], ids=["one leader", "a new one each time"])
@pytest.mark.parametrize("nowfun", NOWFUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_nowfun_counts_as_in_the_installed_celery(
    kind: str, nowfun: str, takeovers: bool, clock: Clock
) -> None:
    app = clock.app("Europe/Berlin")
    made = KINDS[kind](nowfun=partial(NOWFUNS[nowfun], clock), app=app)
    start = microseconds("2026-06-03T05:17Z")
    end = start + 5 * 24 * 60 * STEP_US
    expected = stock_runs(made, clock, start, end)
    assert len(expected) >= 4
    assert our_runs(made, app, clock, start, end, takeovers) == expected


@pytest.mark.parametrize("takeovers", [False, True], ids=["one leader", "a new one each time"])
def test_a_subclass_with_a_clock_of_its_own_and_a_wrapper_run_as_in_stock(
    clock: Clock, takeovers: bool
) -> None:
    app = clock.app("America/New_York")
    own = OwnNow(hour=9, minute=0, app=app)
    own.clock = clock.utc
    start = microseconds("2026-06-03T05:17Z")
    end = start + 4 * 24 * 60 * STEP_US
    wrapped = Wrapper(crontab(hour=9, minute=0, app=app))
    for made in (own, wrapped):
        expected = stock_runs(made, clock, start, end)
        assert len(expected) >= 3
        assert our_runs(made, app, clock, start, end, takeovers) == expected
    # 9 o'clock there, on each release.
    assert to_datetime(expected[0]).astimezone(NEW_YORK).hour == 9


def test_a_wall_clock_without_a_zone_is_followed_over_a_change_of_the_clocks(clock: Clock) -> None:
    app = clock.app("Europe/Berlin")
    berlin = partial(wall, clock, BERLIN)
    made = crontab(hour=9, minute=0, nowfun=berlin, app=app)
    start = microseconds("2026-03-27T05:00Z")
    end = start + 4 * 24 * 60 * STEP_US
    expected = stock_runs(made, clock, start, end)
    assert our_runs(made, app, clock, start, end, True) == expected


def test_a_clock_that_stands_still_never_makes_more_runs_than_in_stock(clock: Clock) -> None:
    app = clock.app("UTC")
    frozen = datetime(2026, 6, 3, 8, 59, tzinfo=timezone.utc)
    made = crontab(nowfun=lambda: frozen, app=app)
    start = microseconds("2026-06-03T05:17Z")
    end = start + 60 * STEP_US
    assert stock_runs(made, clock, start, end) == []
    assert our_runs(made, app, clock, start, end, False) == []


@pytest.mark.parametrize(
    ("keeps", "hour"), [(True, 0), (False, 9)], ids=["up to 5.6", "from 5.7 on"]
)
def test_which_zone_counts_depends_on_the_release(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, keeps: bool, hour: int
) -> None:
    monkeypatch.setattr(celery_clocks, "_KEEPS_ZONE_OF_NOW", keeps)
    clock.us = microseconds("2026-06-03T05:17Z")
    tokyo = partial(NOWFUNS["aware in another zone"], clock)
    made = crontab(hour=9, minute=0, nowfun=tokyo, app=clock.app("UTC"))
    following = rule_for(made).after(clock.us)
    assert following is not None
    assert to_datetime(following).hour == hour


@pytest.mark.parametrize("nowfun", NOWFUNS)
def test_a_last_run_that_is_given_is_shown_to_the_schedule_as_it_was_given(
    nowfun: str, clock: Clock
) -> None:
    clock.us = microseconds("2026-06-03T05:17Z")
    now = NOWFUNS[nowfun](clock)
    given = now - timedelta(hours=3, seconds=7)
    assert frames.shown(frames.moment_of(given, now), now, BERLIN) == given
    assert frames.moment_of(given, now) == clock.us - (3 * 3600 + 7) * SECOND_US


def test_a_given_last_run_with_a_zone_means_that_moment_to_a_clock_without(clock: Clock) -> None:
    clock.us = microseconds("2026-06-03T05:17Z")
    given = clock.utc() - timedelta(hours=3)
    assert frames.moment_of(given, wall(clock, TOKYO)) == clock.us - 3 * 3600 * SECOND_US
