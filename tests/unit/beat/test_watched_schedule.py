"""A schedule that notices each way in which a dict can be changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_safe_leader._beat.entries.watched_schedule import WatchedSchedule, watch

Change = Callable[[WatchedSchedule], Any]


def _or(schedule: WatchedSchedule) -> None:
    schedule |= {"b": 2}


@pytest.mark.parametrize(
    ("change", "names", "left"),
    [
        (lambda s: s.__setitem__("b", 2), {"b"}, {"a": 1, "b": 2}),
        (lambda s: s.__setitem__("a", 1), {"a"}, {"a": 1}),
        (lambda s: s.__delitem__("a"), {"a"}, {}),
        (lambda s: s.update({"b": 2}, c=3), {"b", "c"}, {"a": 1, "b": 2, "c": 3}),
        (lambda s: s.update([("b", 2)]), {"b"}, {"a": 1, "b": 2}),
        (lambda s: s.setdefault("b", 2), {"b"}, {"a": 1, "b": 2}),
        (lambda s: s.setdefault("a", 2), set(), {"a": 1}),
        (lambda s: s.pop("a"), {"a"}, {}),
        (lambda s: s.pop("b", None), set(), {"a": 1}),
        (lambda s: s.popitem(), {"a"}, {}),
        (lambda s: s.clear(), {"a"}, {}),
        (_or, {"b"}, {"a": 1, "b": 2}),
    ],
)
def test_every_way_to_change_a_schedule_is_noticed_once(
    change: Change, names: set[str], left: dict[str, int]
):
    schedule = WatchedSchedule({"a": 1})
    assert schedule.changes() == set()
    change(schedule)
    assert schedule == left
    assert schedule.changes() == names
    assert schedule.changes() == set()


def test_a_change_that_raises_is_none():
    schedule = WatchedSchedule({"a": 1})
    with pytest.raises(KeyError):
        del schedule["b"]
    with pytest.raises(KeyError):
        schedule.pop("b")
    assert schedule.changes() == set()


def test_the_apps_schedule_is_watched_until_another_is_set():
    app = Celery("shop", set_as_current=False)
    app.conf.beat_schedule = {"a": 1}
    watched, new = watch(app)
    assert new
    assert app.conf.beat_schedule is watched
    assert watch(app) == (watched, False)
    app.conf.beat_schedule = {"b": 2}
    other, new = watch(app)
    assert new
    assert other == {"b": 2}
