"""Random kinds of wrong entries, dozens at once: a good one is never late, and no fault is silent.

Each entry is beside a stock scheduler of its own. The seed is in the test's name.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from celery import Celery, signals
from celery.beat import BeatLazyFunc, ScheduleEntry
from celery.schedules import BaseSchedule, crontab, schedule

from celery_safe_leader._beat.entries.names import text_name
from tests.integration.beat.driven_leaders import (
    DrivenLeaders,
    Queue,
    ticked_aside,
)
from tests.support.celery.stock_beat import CountingScheduler
from tests.support.processes.waiting import PATIENCE, wait_until

STEP = 0.1
TOGETHER = 40
"""Entries of one beat."""
Dice = random.Random


class Wild(BaseException):
    """Is caught by nobody who catches errors."""


class Untold(Exception):  # noqa: N818
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def error_of(dice: Dice) -> BaseException:
    return dice.choice([ValueError("no"), Untold(), Wild(), SystemExit(1), RecursionError(),
                        MemoryError(), KeyError("k"), StopIteration(), OSError(5)])  # fmt: skip


class Answers(BaseSchedule):
    """Says what it is told to, or raises it; so does its repr, now and then."""

    def __init__(self, answer: Any, shown: Any) -> None:
        super().__init__()
        self.answer, self.shown = answer, shown

    def is_due(self, last_run_at: Any) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def __repr__(self) -> str:
        if isinstance(self.shown, BaseException):
            raise self.shown
        return str(self.shown)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class Bent(schedule):
    """An interval with attributes that it should not have."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(STEP)
        self.__dict__.update(attributes)


class Raises:
    """Raises when it is called."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *args: Any, **more: Any) -> Any:
        raise self.error


def schedule_of(dice: Dice) -> Any:
    pause = dice.choice([60, 3600, 0.3, math.inf, None, -1, 10**30, "soon", math.nan])
    return dice.choice([
        lambda: STEP,
        lambda: timedelta(seconds=dice.choice([0.1, 0.25, -1, 0, 10**9])),
        lambda: schedule(STEP, relative=True),
        lambda: crontab(minute=dice.choice(["*", "*/5", 7])),
        lambda: crontab(nowfun=dice.choice([lambda: datetime.now(), Raises(error_of(dice))])),  # noqa: DTZ005
        lambda: schedule(STEP, nowfun=lambda: datetime.now(timezone(timedelta(hours=9)))),
        lambda: Answers((dice.random() < 0.5, pause), "<answers>"),
        lambda: Answers((True, 3600), dice.choice([error_of(dice), "<loud>"])),
        lambda: Answers(dice.choice([error_of(dice), None, (1, 2, 3), "no"]), "<wrong>"),
        lambda: Bent(run_every=dice.choice(["1", None, timedelta(days=-1)])),
        lambda: Bent(tz=dice.choice([None, "nowhere", 7])),
        lambda: dice.choice(["hourly", 7.5j, object(), [], None]),
    ])()  # fmt: skip


def argument_of(dice: Dice) -> Any:
    return dice.choice([
        lambda: dice.choice([1, "x", None, 1.5, b"raw", "ä", 10**40, math.nan]),
        lambda: BeatLazyFunc(Raises(error_of(dice))),
        lambda: BeatLazyFunc(lambda: dice.choice([1, object(), "x"])),
        lambda: dice.choice([object(), {1, 2}, {"a": object()}, [[]] * 3, uuid.uuid4()]),
    ])()  # fmt: skip


def options_of(dice: Dice) -> Any:
    if dice.random() < 0.3:
        return dice.choice([{"queue"}, "queue", 7, [("a", 1)]])
    known: dict[str, list[Any]] = {
        "expires": [60, -1, 0, "soon", [1], math.inf, datetime(2020, 1, 1, tzinfo=timezone.utc)],
        "countdown": [0, 5, -3, math.nan, "x", 10**12],
        "eta": [[1], datetime(2030, 1, 1, tzinfo=timezone.utc), "tomorrow"],
        "serializer": ["json", "nope", 7],
        "compression": ["zlib", "nope"],
        "headers": [{"a": 1}, {"a": object()}, "no", {7: 8}],
        "priority": ["high"],  # another number is another list of Redis
        "task_id": ["fixed", 7],
        "time_limit": [5, "x"],
        "link": [7, "x"],
        "shadow": ["shown", object()],
        "strange": [1, object()],
    }
    return {
        name: dice.choice(known[name]) for name in dice.sample(sorted(known), dice.randint(1, 3))
    }


def last_run_of(dice: Dice) -> Any:
    return dice.choice([
        datetime.now(timezone.utc) - timedelta(seconds=dice.choice([0, 1, 10**4, 10**9])),
        datetime.min.replace(tzinfo=timezone.utc),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-3))),
        datetime(2026, 1, 1), "yesterday", 7,  # noqa: DTZ001
    ])  # fmt: skip


def name_of(dice: Dice, number: int) -> Any:
    return dice.choice([f"entry {number}", number, ("entry", number), f"{number}".encode(),
                        number + 0.5, f"läden {number}", uuid.UUID(int=number)])  # fmt: skip


class Case(NamedTuple):
    """One entry: at most three things are odd about it."""

    key: Any
    task: str
    entry: Any
    as_object: bool = False


def case_of(dice: Dice, number: int, app: Celery) -> Case:
    key, task = name_of(dice, number), f"fuzz.{number}."
    entry: dict[str, Any] = {"task": task, "schedule": STEP}
    odd: dict[str, Callable[[], Any]] = {
        "schedule": lambda: schedule_of(dice),
        "args": lambda: dice.choice([(argument_of(dice),), 7, None, "ab"]),
        "kwargs": lambda: dice.choice([{"a": argument_of(dice)}, [1], {7: 1}, None]),
        "options": lambda: options_of(dice),
        "last_run_at": lambda: last_run_of(dice),
        "total_run_count": lambda: dice.choice([0, -1, 10**30, "many", None]),
    }
    for name in dice.sample(sorted(odd), dice.randint(1, 3)):
        entry[name] = odd[name]()
    if dice.random() < 0.05:
        return Case(key, task, dice.choice([7, "entry", [], {"task": task}]))
    return Case(key, task, entry, dice.random() < 0.1)


def given(case: Case, app: Celery) -> Any:
    """Return what the schedule is given: the entry, or an object of Celery's made from it."""
    if not case.as_object:
        return case.entry
    try:
        return ScheduleEntry(name="other", app=app, **case.entry)
    except (Exception, SystemExit, Wild):  # of its clock, which an entry without a last run asks
        return case.entry


class StockBeats:
    """A stock scheduler for each entry, all on one thread: each fails alone."""

    def __init__(self, cases: list[Case]) -> None:
        self.sent: Counter[Any] = Counter()
        self.failed: set[str] = set()
        self._schedulers: dict[str, Any] = {}
        for case in cases:
            app = Celery("stock", set_as_current=False)
            app.conf.beat_schedule = {"it": case.entry}
            app.conf.result_expires = None
            counts: Counter[Any] = Counter()
            try:
                self._schedulers[case.task] = (CountingScheduler(app, counts), counts)
            except BaseException:
                self.failed.add(case.task)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._closing.wait(0.02):
            for task, (scheduler, counts) in list(self._schedulers.items()):
                try:
                    for _ in range(3):
                        if scheduler.tick() > 0:
                            break
                except BaseException:
                    self.failed.add(task)
                    del self._schedulers[task]
                self.sent[task] = sum(counts.values())

    def close(self) -> None:
        self._closing.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def receiver(request: pytest.FixtureRequest) -> Iterator[Callable[[Dice], None]]:
    """Connect a receiver that raises, now and then."""
    connected: list[Any] = []

    def connect(dice: Dice) -> None:
        if dice.random() < 0.7:
            return
        error, signal = (
            error_of(dice),
            dice.choice([signals.before_task_publish, signals.after_task_publish]),
        )

        def receive(sender: Any = None, **_: Any) -> None:
            if str(sender).startswith("fuzz"):
                raise error

        signal.connect(receive, weak=False)
        connected.append((signal, receive))

    yield connect
    for signal, receive in connected:
        signal.disconnect(receive)


def ticks(queue: Queue) -> list[Any]:
    return [sent for sent in list(queue._sent) if sent.headers["task"] == "shop.work"]


def check(stage: DrivenLeaders, queue: Queue, seed: int, connect: Any, caplog: Any) -> int:
    caplog.set_level(logging.WARNING, "celery_safe_leader.beat")
    dice = random.Random(f"{seed}")
    app = stage.app()
    cases = [case_of(dice, number, app) for number in range(TOGETHER)]
    good = {"good": {"task": "shop.work", "schedule": STEP, "kwargs": {"entry": "good"}}}
    connect(dice)
    live = dice.random() < 0.5
    # What ends the process at its start in stock beat, does so here too.
    app.conf.beat_schedule = {**good, **({} if live else starting(cases, app))}
    began, stock = time.monotonic(), StockBeats(cases)
    try:
        leader = stage.leader(app)
        for case in cases:
            app.conf.beat_schedule[case.key] = given(case, app)
        until = time.monotonic() + 1.0
        wait_until(
            lambda: ticked_aside(leader) and len(ticks(queue)) >= 8 and time.monotonic() > until,
            PATIENCE,
        )
        seconds = time.monotonic() - began
        sent = Counter(message.headers["task"] for message in list(queue._sent))
    finally:
        stock.close()
    assert all(b.covers[0] - a.covers[1] == STEP * 1e6 for a, b in pairwise(ticks(queue)))
    assert "unexpectedly" not in caplog.text
    said = [text_of(record) for record in caplog.records]
    for case in cases:
        ours, theirs = sent[case.task], stock.sent[case.task]
        named = any(is_about(line, case) for line in said)
        if case.task not in stock.failed and is_comparable(case):
            # An interval of stock beat drifts, and its thread may have to wait.
            steps = 0.0 if isinstance(schedule_in(case), Answers) else seconds / STEP
            assert ours <= max(theirs, steps) + 3, (case, ours, theirs)
        by_the_minute = isinstance(schedule_in(case), crontab)
        assert ours or named or theirs <= by_the_minute, (case, ours, theirs)
        if case.task in stock.failed:
            assert ours or named or is_far(case), (case, ours, theirs)
    return len(cases)


def text_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # Celery logs the error of a receiver as it is
        return ""


def starting(cases: list[Case], app: Celery) -> dict[Any, Any]:
    return {case.key: given(case, app) for case in cases if not ends_start(case)}


def ends_start(case: Case) -> bool:
    """Tell whether its code raises on the main thread what a signal handler may raise."""
    made = schedule_in(case)
    found = [getattr(made, "shown", None), getattr(getattr(made, "nowfun", None), "error", None)]
    return any(isinstance(e, BaseException) and not isinstance(e, Exception) for e in found)


def is_about(line: str, case: Case) -> bool:
    return repr(case.key) in line or repr(text_name(case.key)) in line or case.task in line


def schedule_in(case: Case) -> Any:
    return case.entry.get("schedule") if isinstance(case.entry, dict) else None


def is_comparable(case: Case) -> bool:
    """Tell whether stock should send as many.

    Not if it sends as many as it can, which a busy machine makes few, nor with a last run that lies
    ahead: stock waits for it, here the entry continues from now.
    """
    answer = getattr(schedule_in(case), "answer", None)
    always = isinstance(answer, tuple) and answer[0] is True and answer[1:] in ((None,), (-1,))
    last = case.entry.get("last_run_at") if isinstance(case.entry, dict) else None
    return not always and not (isinstance(last, datetime) and last.year > 9000)


def is_far(case: Case) -> bool:
    """Tell whether nothing is due soon, so that nobody notices what is wrong."""
    made = schedule_in(case)
    if isinstance(made, Answers):
        return isinstance(made.answer, tuple) and made.answer[0] is False
    return not isinstance(made, float)


@pytest.mark.parametrize("seed", range(4))
def test_wrong_entries_of_all_kinds_cost_nothing_but_themselves(
    stage: DrivenLeaders, queue: Queue, seed: int, receiver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert check(stage, queue, seed, receiver, caplog) == TOGETHER


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 126))
def test_two_thousand_wrong_entries_cost_nothing_but_themselves(
    stage: DrivenLeaders, queue: Queue, seed: int, receiver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert check(stage, queue, seed, receiver, caplog) == TOGETHER
