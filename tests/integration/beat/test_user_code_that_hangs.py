"""User code that does not return holds up nobody but its own entry."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import pytest
from celery import Task, signals
from celery.beat import BeatLazyFunc
from celery.schedules import schedule

from celery_safe_leader._dispatch.health import user_calls
from celery_safe_leader._dispatch.health.patience import Patience
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.beat import LeaderScheduler
from tests.integration.beat.driven_leaders import TRANSACTIONAL, WRITE_AHEAD, DrivenLeaders
from tests.support.celery.inbox import Dispatch, Inbox, gaps
from tests.support.celery.services import BeatService, shop
from tests.support.processes.waiting import PATIENCE, wait_until
from tests.support.servers import Server

LOGGER = "celery_safe_leader.beat"
STEP = 0.2
OTHERS = [f"tick-{n}" for n in range(19)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    make = user_calls.UserCalls.__init__
    monkeypatch.setattr(
        user_calls.UserCalls,
        "__init__",
        lambda self, *args, **more: make(self, *args, **{"limit": 0.3, **more}),
    )
    caplog.set_level(logging.INFO, LOGGER)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Set, it lets everything return that hangs."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture(params=[TRANSACTIONAL, WRITE_AHEAD])
def broker(quick_server: Server, request: pytest.FixtureRequest) -> str:
    url = quick_server.url
    return url if request.param == TRANSACTIONAL else url.removesuffix("/0") + "/1"


@pytest.fixture
def inbox(broker: str, key: str) -> Iterator[Inbox]:
    with Inbox(broker, queue=key) as inbox:
        yield inbox


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"task": "shop.work", "schedule": STEP, "kwargs": {"entry": name}, **more}


def others() -> dict[str, dict[str, Any]]:
    return {name: entry(name) for name in OTHERS}


def nothing(**arguments: Any) -> None:
    """Be a task."""


class Sleepy:
    """What hangs the first time, at the gate, and counts how often it is called."""

    def __init__(self, gate: threading.Event, result: Any = None) -> None:
        self.called = 0
        self.gate, self.result = gate, result

    def __call__(self, *args: Any, **more: Any) -> Any:
        self.called += 1
        if self.called == 1:
            assert self.gate.wait(60)
        return self.result


class Drowsy(schedule):
    """A schedule of the user's own, which hangs the first time."""

    sleepy: Sleepy

    def is_due(self, last_run_at: Any) -> Any:
        self.sleepy()
        return super().is_due(last_run_at)


class OwnWay(Task):
    """A task class with its own way of sending, which hangs the first time."""

    abstract = True
    sleepy: Sleepy

    def apply_async(self, *args: Any, **options: Any) -> Any:
        self.sleepy()
        return super().apply_async(*args, **options)


KINDS = ["lazy argument", "schedule", "receiver before", "receiver after", "apply_async"]


@pytest.fixture(params=KINDS)
def hanging(
    request: pytest.FixtureRequest, gate: threading.Event
) -> Iterator[Callable[[Any], Sleepy]]:
    """Give an app an entry "hangs" whose user code hangs the first time, in each kind of call."""
    connected: list[tuple[Any, Any]] = []

    def add(app: Any) -> Sleepy:
        sleepy, kind = Sleepy(gate, "hangs"), request.param
        hangs = entry("hangs")
        if kind == "lazy argument":
            hangs["kwargs"] = {"entry": BeatLazyFunc(sleepy)}
        elif kind == "schedule":
            hangs["schedule"] = Drowsy(STEP)
            hangs["schedule"].sleepy = sleepy
        elif kind == "apply_async":
            base = type("OwnWayOfThisTest", (OwnWay,), {"abstract": True, "sleepy": sleepy})
            app.task(name="shop.own", base=base, shared=False)(nothing)
            hangs["task"] = "shop.own"
        else:

            def receive(headers: Any = None, **_: Any) -> None:
                if "'hangs'" in headers["kwargsrepr"]:
                    sleepy()

            signal = getattr(signals, f"{kind.split()[1]}_task_publish")
            signal.connect(receive, weak=False)
            connected.append((signal, receive))
        app.conf.beat_schedule["hangs"] = hangs
        return sleepy

    yield add
    for signal, receive in connected:
        signal.disconnect(receive)


def test_the_others_are_on_time_and_what_it_brings_in_the_end_is_used(
    quick_server: Server,
    broker: str,
    inbox: Inbox,
    key: str,
    gate: threading.Event,
    hanging: Callable[[Any], Sleepy],
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = shop(broker, key, others(), leader_url=quick_server.url)
    sleepy, names = hanging(app), OTHERS
    if signals.before_task_publish.receivers or signals.after_task_publish.receivers:
        names = OTHERS[:3]  # they go out one by one
        for name in OTHERS[3:]:
            del app.conf.beat_schedule[name]
    with BeatService(app) as beat:
        wait_until(lambda: "has not returned after 0.3 s: it stands at" in caplog.text, PATIENCE)
        since = time.monotonic()
        inbox.wait_for(10 * len(names), since=since)

        def are_on_time() -> bool:
            # Held up, they would stand for several moments again and again. A busy machine does
            # that to some.
            return all(_alone_in_a_row(inbox.sent(name, since=since)) >= 5 for name in names)

        wait_until(are_on_time, PATIENCE)
        assert all(gaps(inbox.sent(name), STEP) == [] for name in names)
        assert sleepy.called == 1
        before = len(inbox.sent("hangs"))
        assert before <= 1  # with a receiver after publication there is the first
        assert caplog.text.count("Entry 'hangs'") == 1
        gate.set()
        inbox.wait_for(before + 3, entry="hangs")
        assert beat.leads
    if not isinstance(app.conf.beat_schedule["hangs"]["schedule"], Drowsy):  # that has no grid
        assert gaps(inbox.sent("hangs"), STEP) == []
    assert len({sent.task_id for sent in inbox.sent()}) == len(inbox.sent())


def _alone_in_a_row(sent: Iterable[Dispatch]) -> int:
    """Return how many runs, one after the other, stood for one moment each."""
    alone = [first == last for first, last in (each.covers for each in sent)]
    return max((len(list(row)) for is_alone, row in groupby(alone) if is_alone), default=0)


def test_with_four_that_hang_those_that_need_a_call_wait_and_the_rest_goes_on(
    quick_server: Server,
    broker: str,
    inbox: Inbox,
    key: str,
    gate: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lazy = {
        f"lazy-{n}": entry(f"lazy-{n}", args=(BeatLazyFunc(Sleepy(gate, n)),)) for n in range(6)
    }
    app = shop(broker, key, {**lazy, "tick": entry("tick")}, leader_url=quick_server.url)
    with BeatService(app):
        wait_until(lambda: caplog.text.count("has not returned") == 4, PATIENCE)
        wait_until(lambda: caplog.text.count("and none is started while 4") == 2, PATIENCE)
        inbox.wait_for(5, entry="tick", since=time.monotonic())
        assert {sent.kwargsrepr for sent in inbox.sent()} == {"{'entry': 'tick'}"}
        gate.set()
        for name in lazy:
            inbox.wait_for(2, entry=name)
            assert gaps(inbox.sent(name), STEP) == []
    assert caplog.text.count("and none is started while 4") == 2


def test_the_run_that_was_sent_before_a_call_that_hangs_has_ended(
    quick_server: Server, broker: str, key: str, gate: threading.Event
) -> None:
    way = TRANSACTIONAL if broker == quick_server.url else WRITE_AHEAD
    stage = DrivenLeaders(quick_server, key, way)
    ready = threading.Event()
    ready.set()
    with Inbox(broker, queue=key) as inbox:
        app = stage.app(
            **{"a": stage.entry("a", -1.0, every=STEP)},
            **{"b hangs": stage.entry("b hangs", -1.0, every=60.0)},
        )
        for name, event in (("a", ready), ("b hangs", gate)):
            own = {"abstract": True, "sleepy": Sleepy(event)}
            base = type("OwnWayOfOneOfTwo", (OwnWay,), own)
            app.task(name=f"shop.{name}", base=base, shared=False)(nothing)
            app.conf.beat_schedule[name]["task"] = f"shop.{name}"
        leader = stage.leader(app)
        calls = leader.dispatcher._calls
        wait_until(lambda: (leader.run(), calls.hangs("b hangs"))[1], PATIENCE)
        # Its next runs follow.
        wait_until(lambda: (leader.run(), len(inbox.sent("a")) >= 3)[1], PATIENCE)
        assert gaps(inbox.sent("a"), STEP) == []
        assert inbox.sent("b hangs") == []
        assert calls.hangs("b hangs")
        for close in stage.closing:
            close()


@pytest.mark.parametrize("kind", ["lazy argument", "apply_async"])
def test_what_wakes_in_a_later_tenure_of_the_same_process_publishes_nothing(
    quick_server: Server,
    broker: str,
    key: str,
    gate: threading.Event,
    kind: str,
) -> None:
    way = TRANSACTIONAL if broker == quick_server.url else WRITE_AHEAD
    stage = DrivenLeaders(quick_server, key, way)
    with Inbox(broker, queue=key) as inbox:
        app = stage.app(hangs=stage.entry("hangs", 0.1, every=60.0))
        sleepy, hangs = Sleepy(gate, "hangs"), app.conf.beat_schedule["hangs"]
        if kind == "lazy argument":
            hangs["kwargs"] = {"entry": BeatLazyFunc(sleepy)}
        else:
            base = type("OwnWayOfALaterTenure", (OwnWay,), {"abstract": True, "sleepy": sleepy})
            app.task(name="shop.own", base=base, shared=False)(nothing)
            hangs["task"] = "shop.own"
        first = stage.leader(app)
        calls = first.dispatcher._calls
        wait_until(lambda: (first.run(), calls.hangs("hangs"))[1], PATIENCE)
        first.still_leads = lambda: False
        # The same process is elected again: it has the same calls.
        second = stage.leader(app)
        second.dispatcher._calls = calls
        for _ in range(3):
            second.run()
        assert sleepy.called == 1
        [call] = calls._hanging.values()
        gate.set()
        assert call.wait(PATIENCE)
        assert inbox.sent() == []  # not by the one that woke
        wait_until(lambda: (second.run(), inbox.sent("hangs"))[1], PATIENCE)
        assert sleepy.called == 2
        second.run_for(0.3)
        [sent] = inbox.sent()
        assert sent.token == stage.token
        for close in stage.closing:
            close()


def test_a_call_that_hangs_and_nothing_else_makes_another_lead(
    quick_server: Server,
    broker: str,
    inbox: Inbox,
    key: str,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A step that a busy machine holds up does not last as long: it would be another cause.
    monkeypatch.setattr(LeaderScheduler, "patience", 3.0)

    def beat(lazy: Any) -> BeatService:
        hangs = entry("hangs", kwargs={"entry": BeatLazyFunc(lazy)})
        return BeatService(shop(broker, key, {"hangs": hangs}, leader_url=quick_server.url))

    with beat(Sleepy(gate, "hangs")) as sick:
        sick.wait_leading()
        with beat(lambda: "hangs") as other:
            other.wait_leading()
            inbox.wait_for(3, entry="hangs")
            raw: Any = quick_server.client().xrange(ElectionKeys(key, "beat").history)
            reasons = [fields["reason"] for _, fields in raw if fields["event"] == "resigned"]
            assert reasons == ["stood_down:call"]


def test_a_call_that_hangs_for_very_long_makes_another_lead_though_others_are_published(
    quick_server: Server,
    broker: str,
    inbox: Inbox,
    key: str,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Patience, "longest_call", 1.5)
    schedules = {
        "hangs": entry("hangs", kwargs={"entry": BeatLazyFunc(Sleepy(gate))}),
        "tick": entry("tick"),
    }
    with BeatService(shop(broker, key, schedules, leader_url=quick_server.url)) as sick:
        inbox.wait_for(3, entry="tick")
        healthy = shop(broker, key, {"tick": entry("tick")}, leader_url=quick_server.url)
        with BeatService(healthy) as other:
            assert sick.leads
            other.wait_leading()
            inbox.wait_for(3, entry="tick", since=time.monotonic())
    assert gaps(inbox.sent("tick"), STEP) == []


def test_a_call_that_hung_in_an_earlier_tenure_of_the_process_counts_in_this_one(
    quick_server: Server,
    broker: str,
    inbox: Inbox,
    key: str,
    gate: threading.Event,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedules = {
        "hangs": entry("hangs", kwargs={"entry": BeatLazyFunc(Sleepy(gate))}),
        "tick": entry("tick"),
    }
    with BeatService(shop(broker, key, schedules, leader_url=quick_server.url)) as sick:
        inbox.wait_for(3, entry="tick")
        wait_until(lambda: "has not returned" in caplog.text, PATIENCE)
        quick_server.pause()
        wait_until(lambda: "Demoted" in caplog.text, PATIENCE)
        quick_server.resume()
        wait_until(lambda: caplog.text.count("Elected leader") == 2 and sick.leads, PATIENCE)
        monkeypatch.setattr(Patience, "longest_call", 1.5)
        healthy = shop(broker, key, {"tick": entry("tick")}, leader_url=quick_server.url)
        with BeatService(healthy) as other:
            other.wait_leading()
            inbox.wait_for(3, entry="tick", since=time.monotonic())


def test_closing_a_beat_does_not_wait_for_a_call(
    quick_server: Server,
    broker: str,
    inbox: Inbox,
    key: str,
    gate: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hangs = entry("hangs", kwargs={"entry": BeatLazyFunc(Sleepy(gate))})
    with BeatService(shop(broker, key, {"hangs": hangs}, leader_url=quick_server.url)):
        wait_until(lambda: "has not returned" in caplog.text, PATIENCE)
    assert not gate.is_set()


def test_the_result_backend_of_somebody_else_may_hang(
    quick_server: Server,
    broker: str,
    inbox: Inbox,
    key: str,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = shop(broker, key, {"hangs": entry("hangs"), "tick": entry("tick", task="shop.quiet")})
    app.conf.leader_url = quick_server.url
    app.task(name="shop.quiet", shared=False, ignore_result=True)(nothing)
    sleepy = Sleepy(gate)

    monkeypatch.setattr(type(app.backend), "on_task_call", lambda self, producer, task_id: sleepy())
    with BeatService(app):
        wait_until(lambda: "the call of apply_entry has not returned" in caplog.text, 30)
        inbox.wait_for(5, entry="tick", since=time.monotonic())
        assert inbox.sent("hangs") == []
        gate.set()
        inbox.wait_for(3, entry="hangs")
        assert gaps(inbox.sent("hangs"), STEP) == []
        assert gaps(inbox.sent("tick"), STEP) == []
