from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone

import ephem
import pytest
from celery.schedules import solar

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._schedules.moments import LAST_US, from_datetime, to_datetime
from celery_safe_leader._schedules.rule import ScheduleError
from celery_safe_leader._schedules.solar import Solar
from tests.unit.schedules.almanac import app_in, microseconds, year_bounds

S = 1_000_000
DAY = 86_400 * S
EVENTS = ["dawn_civil", "sunrise", "solar_noon", "sunset", "dusk_astronomical"]
DEPTHS = {"dawn_civil": "-6", "sunrise": "-0:34", "sunset": "-0:34", "dusk_astronomical": "-18"}


def year_of(event: str, lat: str, lon: str) -> list[datetime]:
    """The events of 2026 from ``ephem``, asked from noon to noon."""
    observer = ephem.Observer()
    observer.lat, observer.lon, observer.pressure = lat, lon, 0
    observer.horizon = DEPTHS.get(event, "0")
    sun = ephem.Sun()
    events = set()
    for day in range(-1, 366):
        start = ephem.Date(datetime(2026, 1, 1, 3) + timedelta(days=day))  # noqa: DTZ001
        if event == "solar_noon":
            found = observer.next_transit(sun, start=start)
        elif event in ("sunrise", "dawn_civil"):
            found = observer.next_rising(sun, start=start, use_center=event != "sunrise")
        else:
            found = observer.next_setting(sun, start=start, use_center=event != "sunset")
        events.add(found.datetime().replace(tzinfo=timezone.utc, microsecond=0))
    return sorted(when for when in events if when.year == 2026)


def follow(event: str, lat: float, lon: float) -> list[int]:
    rule = rule_for(solar(event, lat, lon))
    moment, until = year_bounds(2026)
    moments = []
    while (following := rule.after(moment)) is not None and following <= until:
        moments.append(following)
        moment = following
    return moments


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(("lat", "lon"), [(40.7, -74.0), (-31.5, 159.1)])
def test_year_has_each_event_once(event: str, lat: float, lon: float) -> None:
    found = follow(event, lat, lon)
    # ``ephem`` finds an event of one day from two starts a moment apart: one of them stays.
    expected = [
        when
        for former, when in zip(
            [None, *year_of(event, str(lat), str(lon))],
            year_of(event, str(lat), str(lon)),
            strict=False,
        )
        if former is None or when - former > timedelta(minutes=1)
    ]
    assert len(found) == len(expected) >= 364
    for moment, when in zip(found, expected, strict=True):
        assert moment % S == 0
        assert timedelta(0) <= to_datetime(moment) - when <= timedelta(seconds=2)


def test_same_event_is_never_given_twice() -> None:
    rule = rule_for(solar("sunrise", 52.5, 13.4))
    dice = random.Random(3)
    after, until = year_bounds(2026)
    for _ in range(200):
        first = rule.after(dice.randint(after, until))
        assert first is not None
        second = rule.after(first)
        assert second is not None
        assert 0.9 * DAY < second - first < 1.1 * DAY


def test_event_just_after_a_whole_second_is_taken_to_be_the_same() -> None:
    # An event that fell just before a full second may be found just after it the next time.
    rule = rule_for(solar("sunrise", 52.5, 13.4))
    first = rule.after(from_datetime(datetime(2026, 6, 1, 0, 0, 0, 1, tzinfo=timezone.utc)))
    assert first is not None
    second = rule.after(first)
    for early in (1, 2, 30, 58):
        assert rule.after(first - early * S) == second
        assert rule.after(first - early * S - 1) == first


def test_moment_is_the_same_from_wherever_it_is_asked() -> None:
    rule = rule_for(solar("sunset", 52.5, 13.4))
    start = from_datetime(datetime(2026, 6, 1, 2, 0, 0, 1, tzinfo=timezone.utc))
    answers = {rule.after(start + n * 600 * S) for n in range(60)}
    assert len(answers) == 1


def test_polar_night_is_waited_out() -> None:
    rule = rule_for(solar("sunrise", 78.2, 15.6))  # Longyearbyen
    last = from_datetime(datetime(2025, 11, 1, tzinfo=timezone.utc))
    found = rule.after(last)
    assert found is not None
    assert datetime(2026, 2, 10, tzinfo=timezone.utc) < to_datetime(found)
    assert to_datetime(found) < datetime(2026, 2, 22, tzinfo=timezone.utc)


def test_event_that_never_comes_is_an_error_that_names_the_schedule() -> None:
    rule = rule_for(solar("sunrise", 90, 0))
    with pytest.raises(ScheduleError, match=r"<solar: sunrise at latitude 90.* has no event"):
        rule.after(from_datetime(datetime(2026, 5, 1, tzinfo=timezone.utc)))


def test_searches_agree_with_the_chain() -> None:
    rule = rule_for(solar("solar_noon", 52.5, 13.4))
    start = from_datetime(datetime(2026, 6, 1, tzinfo=timezone.utc))
    chain = [start]
    for _ in range(10):
        following = rule.after(chain[-1])
        assert following is not None
        chain.append(following)
    assert rule.count(start, chain[-1]) == 10
    assert rule.count(start, chain[-1] - 1) == 9
    assert rule.recent(start, chain[-1], 4) == chain[-4:]
    assert rule.latest(start, chain[-1] + 5) == chain[-1]
    assert rule.latest(start, start + S) is None


def test_ends_with_none() -> None:
    assert rule_for(solar("solar_noon", 0, 0)).after(LAST_US) is None


def test_decades_cost_no_more_than_a_year(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = rule_for(solar("sunrise", 52.5, 13.4, app=app_in("UTC")))
    asked = []
    find = Solar._next_event

    def note(self: Solar, start: datetime) -> datetime:
        asked.append(start)
        return find(self, start)

    monkeypatch.setattr(Solar, "_next_event", note)
    end = microseconds("2026-06-01T12:00Z")
    [last] = rule.recent(0, end, 1)
    assert end - 24 * 3600 * 10**6 < last <= end
    assert rule.latest(0, end) == last
    assert rule.count(0, end) == pytest.approx(56.42 * 365.25, rel=0.01)
    assert len(asked) < 500


def test_recent_events_are_those_of_the_chain_also_after_a_polar_night() -> None:
    rule = rule_for(solar("sunrise", 78.2, 15.6, app=app_in("UTC")))
    start, end = microseconds("2025-08-01T00:00Z"), microseconds("2026-03-01T00:00Z")
    chain, moment = [], rule.after(start)
    while moment is not None and moment <= end:
        chain.append(moment)
        moment = rule.after(moment)
    for limit in (1, 5, 30):
        assert rule.recent(start, end, limit) == chain[-limit:]
