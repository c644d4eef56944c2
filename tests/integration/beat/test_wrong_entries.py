"""An entry with anything wrong costs itself alone, and is named; stock is beside where it copes."""

from __future__ import annotations

import logging
import uuid
from datetime import datetime, timedelta, timezone, tzinfo
from enum import Enum
from itertools import pairwise
from typing import Any

import pytest
from celery.beat import BeatLazyFunc, ScheduleEntry
from celery.schedules import crontab, schedule

from celery_safe_leader._ledger import ledger as ledger_module
from celery_safe_leader._ledger import publications
from tests.integration.beat.driven_leaders import (
    TRANSACTIONAL,
    DrivenLeaders,
    Leader,
    Queue,
    ticked_aside,
)
from tests.support.celery.stock_beat import StockBeat
from tests.support.processes.waiting import PATIENCE, wait_until

LOGGER = "celery_safe_leader.beat"
STEP = 0.1


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"task": "shop.work", "schedule": STEP, "kwargs": {"entry": name}, **more}


def check_tick(leader: Leader, queue: Queue, ticks: int = 8) -> None:
    """Check that the good entry runs at each of its moments, with none left out."""
    wait_until(lambda: ticked_aside(leader) and len(queue.sent("tick")) >= ticks, PATIENCE)
    covers = covers_of(queue, "tick")
    for before, after in pairwise(covers):
        assert after[0] - before[1] == STEP * 1e6


class Color(str, Enum):
    """Names that some projects use."""

    RED = "red"


class Label:
    """A name whose repr is of this process alone."""


NAMES: list[Any] = [7, None, ("a", 1), uuid.UUID(int=5), 1.5, b"raw", Color.RED, "", "\ud800",
         "x" * 100_000, frozenset({1}), False, Label()]  # fmt: skip


def covers_of(queue: Queue, name: str) -> list[tuple[int, int]]:
    return [sent.covers for sent in queue.sent(name)]


def test_any_names_run_as_in_stock_beat_and_go_on_in_another_process(
    stage: DrivenLeaders, queue: Queue
) -> None:
    schedules = {name: entry(f"odd-{n}.") for n, name in enumerate(NAMES)} | {"tick": entry("tick")}

    def app() -> Any:
        made = stage.app()
        made.conf.beat_schedule = dict(schedules)
        return made

    with StockBeat(app()) as stock:
        wait_until(lambda: all(stock.sent[name] >= 2 for name in NAMES), PATIENCE)
    leader = stage.leader(app())
    odd = [f"odd-{n}." for n in range(len(NAMES))]
    wait_until(lambda: ticked_aside(leader) and all(len(queue.sent(n)) >= 3 for n in odd), PATIENCE)
    check_tick(leader, queue)
    assert all(name in leader.scheduler.schedule for name in NAMES)
    counts = {name: len(queue.sent(name)) for name in odd}
    successor = stage.leader(app())
    wait_until(
        lambda: ticked_aside(successor) and all(len(queue.sent(n)) >= counts[n] + 3 for n in odd),
        PATIENCE,
    )
    for name in odd:
        assert all(b[0] - a[1] == STEP * 1e6 for a, b in pairwise(covers_of(queue, name)))


def test_of_two_that_are_called_the_same_the_string_runs(
    stage: DrivenLeaders, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    app = stage.app()
    app.conf.beat_schedule = {7: entry("number"), "7": entry("string"), "tick": entry("tick")}
    leader = stage.leader(app)
    check_tick(leader, queue)
    assert queue.sent("string")
    assert not queue.sent("number")
    assert "Entry 7 of beat_schedule is called like another one, '7': it never runs" in caplog.text
    del app.conf.beat_schedule[7]
    count = len(queue.sent("string"))
    wait_until(lambda: ticked_aside(leader) and len(queue.sent("string")) > count + 2, PATIENCE)


class RudeError(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Raises:
    """Raises an error whenever it is called."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *args: Any, **more: Any) -> Any:
        raise self.error


class Secretive(schedule):
    """Has no repr, and raises when it is asked."""

    error: BaseException = ValueError("asked")

    def is_due(self, last_run_at: Any) -> Any:
        raise self.error

    def __repr__(self) -> str:
        raise self.error


class Broken(schedule):
    """Is what it is given, whatever that is."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(STEP)
        self.__dict__.update(attributes)


class LostZone(tzinfo):
    """Fails at each question."""

    def utcoffset(self, dt: Any) -> Any:
        raise OverflowError("where is it?")

    dst = tzname = utcoffset


class Deep:
    """Recurses when it is shown."""

    def __repr__(self) -> str:
        return repr(self)


def deep_list() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def secretive(error: BaseException) -> schedule:
    made = Secretive(STEP)
    made.error = error
    return made


ERRORS: list[BaseException] = [ValueError("no"), RudeError(), SystemExit(3), KeyboardInterrupt(),
                               RecursionError(), MemoryError(), GeneratorExit()]  # fmt: skip
WRONG: dict[str, Any] = {
    **{f"lazy {type(error).__name__}": entry("bad", args=(BeatLazyFunc(Raises(error)),))
       for error in ERRORS},
    **{f"schedule {type(error).__name__}": entry("bad", schedule=secretive(error))
       for error in ERRORS},
    "no schedule": {"task": "shop.work"},
    "a number": 7,
    "a schedule that is a string": entry("bad", schedule="hourly"),
    "a step that is a string": entry("bad", schedule=Broken(run_every="1")),
    "a negative step": entry("bad", schedule=timedelta(seconds=-1)),
    "options that are a set": entry("bad", options={"queue"}),
    "options that are a string": entry("bad", options="queue"),
    "args that are a number": entry("bad", args=7),
    "kwargs that are a list": entry("bad", kwargs=[1]),
    "args beyond JSON": entry("bad", args=(object(),)),
    "args of any depth": entry("bad", args=(deep_list(),)),
    "args that cannot be shown": entry("bad", args=(Deep(),)),
    "a serializer that is not there": entry("bad", options={"serializer": "nope"}),
    "a compression that is not there": entry("bad", options={"compression": "nope"}),
    "headers that are a string": entry("bad", options={"headers": "no"}),
    "an ETA that is a list": entry("bad", options={"eta": [1]}),
    "an endless countdown": entry("bad", options={"countdown": float("inf")}),
    "a countdown of nan": entry("bad", options={"countdown": float("nan")}),
    "a last run that is a string": entry("bad", last_run_at="yesterday"),
    "a last run nowhere": entry("bad", last_run_at=datetime(2026, 1, 1, tzinfo=LostZone())),
    "a count that is a word": entry("bad", total_run_count="many"),
    "a time zone that fails": entry("bad", schedule=Broken(tz=LostZone(), relative=True)),
    "a task that is a list": entry("bad", task=["shop.work"]),
}  # fmt: skip


ENDS_MAIN = (SystemExit, KeyboardInterrupt, GeneratorExit)
"""On the main thread, where beat starts, a signal handler may raise the same."""


def said_of(caplog: pytest.LogCaptureFixture, kind: str) -> list[str]:
    records = [r for r in caplog.records if r.levelno >= logging.WARNING]
    return [text for text in (r.getMessage() for r in records) if repr(kind) in text]


@pytest.mark.parametrize("live", [False, True], ids=["at start", "set live"])
def test_whatever_is_wrong_costs_its_entry_alone_and_is_named_once(
    stage: DrivenLeaders, queue: Queue, live: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {
        kind: bad
        for kind, bad in WRONG.items()
        if live
        or kind in ("a number", "no schedule")
        or not isinstance(getattr(bad["schedule"], "error", None), ENDS_MAIN)
    }
    app = stage.app(tick=entry("tick"))
    if not live:
        app.conf.beat_schedule.update(wrong)
    leader = stage.leader(app)
    check_tick(leader, queue, 3)
    if live:
        app.conf.beat_schedule.update(wrong)
    missing = set(wrong)

    def all_named() -> bool:
        missing.difference_update([kind for kind in missing if said_of(caplog, kind)])
        return not missing

    wait_until(
        lambda: ticked_aside(leader) and all_named(), PATIENCE, lambda: f"not named: {missing}"
    )
    check_tick(leader, queue, len(queue.sent("tick")) + 8)
    assert {kind: said_of(caplog, kind) for kind in wrong if len(said_of(caplog, kind)) > 1} == {}
    assert "unexpectedly" not in caplog.text
    assert queue.sent("bad") == []


NAIVE_MIN, NAIVE_MAX = datetime.min, datetime.max  # noqa: DTZ901
LONG_AGO = [NAIVE_MIN, datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
            datetime(1, 1, 2, tzinfo=timezone.utc)]  # fmt: skip
FAR_AHEAD = [NAIVE_MAX, datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
             datetime(9998, 12, 31, tzinfo=timezone.utc)]  # fmt: skip
STOCK_WAITS = LONG_AGO[1]
"""Celery 5.7 cannot bring it to UTC, and looks again later, for ever. Older ones run it."""


def test_a_last_run_at_the_end_of_time_is_one(stage: DrivenLeaders, queue: Queue) -> None:
    kinds = {"interval": STEP, "relative": schedule(STEP, relative=True), "crontab": crontab()}
    odd = {
        f"{kind}-{when}-{n}.": last
        for kind in kinds
        for when, moments in (("past", LONG_AGO), ("future", FAR_AHEAD))
        for n, last in enumerate(moments)
    }
    entries = {
        name: entry(name, schedule=kinds[name.partition("-")[0]], last_run_at=last)
        for name, last in odd.items()
    }
    past = [name for name, last in odd.items() if "past" in name and last != STOCK_WAITS]
    with StockBeat(stage.app(**{name: entries[name] for name in past})) as stock:
        wait_until(lambda: stock.error or all(stock.sent[name] for name in past), PATIENCE)
    assert stock.error is None
    leader = stage.leader(stage.app(tick=entry("tick"), **entries))
    check_tick(leader, queue)
    for name in odd:
        sent = queue.sent(name)
        if "past" in name:
            assert sent[0].covers[0] < 10**12  # what was missed since 1970, in one
        elif "crontab" not in name:
            assert sent


def test_what_a_run_brings_that_nobody_foresaw_costs_that_run_alone(
    stage: DrivenLeaders,
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    by_script = stage.takes == TRANSACTIONAL
    module: Any = publications if by_script else ledger_module
    encoder = "encode_run" if by_script else "encode_claim"
    original = getattr(module, encoder)

    def fussy(value: Any) -> bytes:
        if value.fingerprint == bad:
            raise LookupError("fussy")
        encoded: bytes = original(value)
        return encoded

    entries = {f"e{n}": entry(f"e{n}") for n in range(36)}
    entries["e7"] = entry("e7", schedule=STEP + 0.001)
    leader = stage.leader(stage.app(tick=entry("tick"), **entries))
    bad = leader.scheduler._roster.entries["e7"].rule.fingerprint
    check_tick(leader, queue, 2)
    monkeypatch.setattr(module, encoder, fussy)
    wait_until(
        lambda: ticked_aside(leader) and len(queue.sent("e8")) >= len(queue.sent("e7")) + 5,
        PATIENCE,
    )
    check_tick(leader, queue)
    # It is looked at again in a minute; monitors see that it is overdue since its moment.
    assert 5 * STEP < (leader.dispatcher.overdue or 0) < 60
    assert "Publishing a run of entry 'e7' failed unexpectedly: LookupError('fussy')" in caplog.text
    assert caplog.text.count("failed unexpectedly") == 1


def test_a_schedule_entry_starts_at_the_last_run_that_it_was_given(
    stage: DrivenLeaders, queue: Queue
) -> None:
    hour, last = 3600.0, datetime.now(timezone.utc) - timedelta(hours=2)
    common = {"task": "shop.work", "schedule": timedelta(seconds=hour), "last_run_at": last}
    app = stage.app(tick=entry("tick"))
    app.conf.beat_schedule["given"] = ScheduleEntry(
        name="given", app=app, kwargs={"entry": "given"}, **common
    )
    app.conf.beat_schedule["plain"] = {**common, "kwargs": {"entry": "plain"}}
    names = ("given", "plain", "added")
    with StockBeat(app) as stock:
        stock.scheduler.add(name="added", **common)
        wait_until(lambda: all(stock.sent[name] for name in names), PATIENCE)
    assert [stock.sent[name] for name in names] == [1, 1, 1]
    leader = stage.leader(app)
    leader.scheduler.add(name="added", kwargs={"entry": "added"}, **common)
    check_tick(leader, queue)
    for name in names:
        [sent] = queue.sent(name)
        assert sent.covers[0] == round(last.timestamp() * 1e6) + hour * 1e6
