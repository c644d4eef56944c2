"""Runs that go Celery's own way, since somebody listens, overrides or has replaced something."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from datetime import datetime
from typing import Any

import celery
import pytest
from celery import Task, current_app, signals
from celery.backends.base import DisabledBackend
from celery.beat import ScheduleEntry, Scheduler
from kombu.exceptions import OperationalError

from celery_safe_leader._dispatch.health.run_counts import RunCounts
from celery_safe_leader._ledger import packed_commands
from celery_safe_leader._ledger.acceptance import accept
from celery_safe_leader._schedules.occurrence_id import message_id
from celery_safe_leader.beat import LeaderScheduler
from tests.integration.beat.driven_leaders import (
    HOUR,
    TRANSACTIONAL,
    WRITE_AHEAD,
    DrivenLeaders,
    Leader,
)
from tests.integration.beat.random_history import Tenants
from tests.support.celery.stock_beat import stock_messages
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

WAYS = [TRANSACTIONAL, WRITE_AHEAD]
BY_STOCK = {"celery_beat_task": True} if celery.VERSION >= (5, 7) else {}
"""Headers that stock beat adds."""

trace: ContextVar[str] = ContextVar("trace", default="")


@pytest.fixture
def listen() -> Iterator[Callable[[str, Callable[..., Any]], None]]:
    connected: list[tuple[Any, Any]] = []

    def connect(name: str, receiver: Callable[..., Any]) -> None:
        signal = getattr(signals, name)
        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)


def overdue(stage: DrivenLeaders, *names: str, **more: Any) -> dict[str, Any]:
    return {name: stage.entry(name, -1.0, **more) for name in names}


def run_until(leader: Leader, condition: Callable[[], Any]) -> None:
    wait_until(lambda: (leader.run(), condition())[1], 30)
    leader.run()  # what is left to commit


def names_of(stage: DrivenLeaders) -> list[str]:
    return [sent.headers["kwargsrepr"].split("'")[3] for sent in stage.messages()]


def test_before_and_after_of_one_message_are_told_one_after_the_other_with_it_in_its_queue(
    stage: DrivenLeaders, listen: Any
) -> None:
    told: list[tuple[str, str, int]] = []

    def note(kind: str) -> Callable[..., None]:
        def receive(sender: str, headers: Any, **_: Any) -> None:
            told.append((kind, headers["id"], len(stage.messages())))

        return receive

    listen("before_task_publish", note("before"))
    listen("after_task_publish", note("after"))
    entries = overdue(stage, "a", "b", "c")
    by_stock = [each["headers"]["id"] for each in stock_messages(entries, 3)]
    assert [each[:2] for each in told] == [
        (kind, task_id) for task_id in by_stock for kind in ("before", "after")
    ]
    told.clear()
    leader = stage.leader(stage.app(**entries))
    run_until(leader, lambda: len(stage.messages()) == 3)
    ids = [sent.headers["id"] for sent in stage.messages()]
    assert told == [
        (kind, ids[n], n + (kind == "after")) for n in range(3) for kind in ("before", "after")
    ]
    assert {sent.way for sent in stage.messages()} == {stage.takes}
    assert stage.pending() == set()
    assert leader.run() > 0
    assert len(told) == 6


def test_calls_see_the_context_of_the_thread_that_dispatches_and_none_of_each_other(
    stage: DrivenLeaders, listen: Any
) -> None:
    def receive(headers: Any, **_: Any) -> None:
        headers["trace"] = trace.get()
        trace.set("left open")

    listen("before_task_publish", receive)
    # As somebody sets it where the app is imported, or at beat_init.
    before = trace.set("of this beat")
    try:
        leader = stage.leader(stage.app(**overdue(stage, "a", "b", "c")))
        run_until(leader, lambda: len(stage.messages()) == 3)
        assert [sent.headers["trace"] for sent in stage.messages()] == ["of this beat"] * 3
        assert trace.get() == "of this beat"
    finally:
        trace.reset(before)


class Notes(Scheduler):
    """Notes how its methods are called."""

    calls: list[tuple[str, Any, Any]]

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        self.calls.append(("apply_entry", entry, (producer, self.producer, current_app.main)))
        trace.set(entry.name)
        super().apply_entry(entry, producer=producer)

    def apply_async(self, entry: Any, *args: Any, **options: Any) -> Any:
        self.calls.append(("apply_async", entry, trace.get()))
        return super().apply_async(entry, *args, **options)

    def send_task(self, *args: Any, **options: Any) -> Any:
        self.calls.append(("send_task", args[0], options.get("task_id")))
        return super().send_task(*args, **options)


class Noting(Notes, LeaderScheduler):
    """Ours that does."""


class KeptElsewhere(ScheduleEntry):
    @property
    def options(self) -> Any:
        return self.kept

    @options.setter
    def options(self, value: Any) -> None:
        self.kept = value


@pytest.mark.parametrize("told", ["before", "after"])
def test_an_entry_whose_options_are_a_property_is_sent_with_the_id_of_its_run(
    stage: DrivenLeaders, listen: Any, told: str
) -> None:
    stage.scheduler_class = type("Keeping", (LeaderScheduler,), {"Entry": KeptElsewhere})
    listen(f"{told}_task_publish", lambda **_: None)
    leader = stage.leader(stage.app(**overdue(stage, "a")))
    run_until(leader, lambda: len(stage.messages()) == 1)
    [sent] = stage.messages()
    assert sent.headers["id"] == sent.headers["leader_occurrence"]
    assert "task_id" not in leader.scheduler.schedule["a"].options


def test_overridden_methods_are_called_as_stock_beat_calls_them(stage: DrivenLeaders) -> None:
    stage.scheduler_class = type("NotingHere", (Noting,), {"calls": []})
    options = {"headers": {"tenant": "a"}, "leader": {"missed_runs": "skip"}}
    entries = overdue(stage, "a", options=options)
    entries |= overdue(stage, "b", task="elsewhere.unknown")
    plain = {name: {**each, "options": {}} for name, each in entries.items()}
    stock: Any = type("StockNoting", (Notes,), {"calls": []})
    copy_context().run(stock_messages, plain, 2, stock)  # on this thread, which notes a trace
    leader = stage.leader(stage.app(**entries))
    run_until(leader, lambda: len(stage.messages()) == 2)
    calls = leader.scheduler.calls
    assert [call[0] for call in calls] == [
        "apply_entry", "apply_async", "apply_entry", "apply_async", "send_task",
    ]  # fmt: skip
    assert Counter(call[0] for call in calls) == Counter(call[0] for call in stock.calls)
    first = next(call for call in calls if call[1].name == "a")
    _, copy, (producer, same, main) = first
    assert producer is same
    assert main == "shop"
    assert copy is not leader.scheduler.schedule["a"]
    assert copy.options["headers"] == {"tenant": "a", **BY_STOCK}
    assert "leader" not in copy.options
    assert leader.scheduler.schedule["a"].options == options
    sent = dict(zip(names_of(stage), stage.messages(), strict=True))
    assert copy.options["task_id"] == sent["a"].headers["id"]
    assert calls[-1][1:] == ("elsewhere.unknown", sent["b"].headers["id"])
    assert [call[2] for call in calls if call[0] == "apply_async"] == ["a", "b"]
    assert trace.get() == ""
    assert {each.way for each in sent.values()} == {stage.takes}


def test_a_tool_that_wraps_apply_entry_sees_each_run_as_it_does_in_stock_beat(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentry's check-ins of periodic tasks, for one."""
    told: list[tuple[str, Any, str]] = []
    original = Scheduler.apply_entry

    def wrapper(*args: Any, **more: Any) -> Any:
        # Exactly these two: the producer comes by its name.
        scheduler, entry = args
        headers = entry.options.pop("headers", {})
        entry.options["headers"] = {**headers, "check-in": f"of {entry.name}"}
        told.append((entry.name, entry.schedule, scheduler.app.main))
        return original(*args, **more)

    monkeypatch.setattr(Scheduler, "apply_entry", wrapper)

    def entries() -> dict[str, Any]:
        return {
            name: stage.entry(name, -1.0, options={"headers": {"tenant": "t"}}) for name in "ab"
        }

    by_stock = [each["headers"] for each in stock_messages(entries(), 2)]
    told_of_stock = told.copy()
    told.clear()
    leader = stage.leader(stage.app(**entries()))
    run_until(leader, lambda: len(stage.messages()) == 2)
    assert len(told) == 2
    assert sorted(told, key=str) == sorted(told_of_stock, key=str)
    ours = [sent.headers for sent in stage.messages()]
    for found in (by_stock, ours):
        assert sorted(each["check-in"] for each in found) == ["of a", "of b"]
        assert {each["tenant"] for each in found} == {"t"}
    assert {sent.way for sent in stage.messages()} == {stage.takes}
    # Nothing of it stays on the entries that the next run begins with.
    for entry in leader.scheduler.schedule.values():
        assert "check-in" not in entry.options.get("headers", {})


def test_a_replaced_method_of_the_tasks_class_is_called_for_each_run(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[str] = []
    original = Task.apply_async

    def wrapper(self: Any, *args: Any, **options: Any) -> Any:
        traced.append(options["task_id"])
        options["headers"] = {**options["headers"], "trace": "t"}
        return original(self, *args, **options)

    monkeypatch.setattr(Task, "apply_async", wrapper)
    leader = stage.leader(stage.app(**overdue(stage, "a", "b", "c")))
    run_until(leader, lambda: len(stage.messages()) == 3)
    assert traced == [sent.headers["id"] for sent in stage.messages()]
    assert {sent.headers["trace"] for sent in stage.messages()} == {"t"}
    assert {sent.way for sent in stage.messages()} == {stage.takes}


def test_each_of_several_messages_of_a_run_has_an_id_that_the_next_leader_would_give_it(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.scheduler_class = Tenants
    app = stage.app(**overdue(stage, "a"))
    first = stage.leader(app)
    # It dies when the first of the two is written.
    allowed = iter([True])
    publish: Any = first.dispatcher._publisher.publish

    def publish_one(batch: Any, gate: Callable[[], bool]) -> Any:
        def closing() -> bool:
            if gate() and next(allowed, False):
                return True
            first.still_leads = lambda: False
            return False

        return publish(batch, closing)

    monkeypatch.setattr(first.dispatcher._publisher, "publish", publish_one)
    wait_until(lambda: (first.run(), stage.pending())[1], 30)
    pending: Any = stage.client.hget(stage.names.pending, "a")
    assert pending.endswith(b" x2")
    before = [sent.headers for sent in stage.messages()]
    assert len(before) == 1
    second = stage.leader(stage.app(**overdue(stage, "a")))
    run_until(second, lambda: len(stage.messages()) == len(before) + 2)
    assert stage.pending() == set()
    sent = [each.headers for each in stage.messages()]
    assert [each["tenant"] for each in sent[-2:]] == ["", "~"]
    assert len({each["leader_occurrence"] for each in sent}) == 2
    for each in sent:
        assert each["id"] == each["leader_occurrence"] == each["root_id"]
    assert sent[-1]["id"] == message_id(sent[-2]["id"], 2)
    assert {each.way for each in stage.messages()} == {WRITE_AHEAD}
    # Workers run each of the two once, whichever publication comes first.
    accepted = [
        accept(stage.client, stage.key, each["leader_occurrence"], nonce, window=60).may_run
        for each in sent
        if (nonce := each["leader_publication"])
    ]
    assert sum(accepted) == 2


@pytest.mark.filterwarnings("ignore:task_always_eager")
@pytest.mark.parametrize(
    "fails", ["override", "receiver", "one of two receivers", "nothing sent", "eager"]
)
def test_what_brings_no_message_is_done_and_costs_the_others_nothing(
    stage: DrivenLeaders, listen: Any, fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "celery_safe_leader.beat")

    class Odd(LeaderScheduler):
        def apply_entry(self, entry: Any, producer: Any = None) -> None:
            if entry.name == "odd" and fails == "override":
                raise LookupError("no tenant")
            if entry.name == "odd" and fails == "nothing sent":
                return
            super().apply_entry(entry, producer=producer)

    stage.scheduler_class = Odd
    if "receiver" in fails:

        def leave(headers: Any, **_: Any) -> None:
            if "'odd'" in headers["kwargsrepr"]:
                raise SystemExit(3)

        listen("before_task_publish", leave)
        if fails == "one of two receivers":
            listen("after_task_publish", lambda **_: None)
    app = stage.app(**overdue(stage, "odd", "good"))
    ran: list[Any] = []
    if fails == "eager":
        app.conf.task_always_eager = True
        app.conf.task_store_eager_result = False

        @app.task(name="shop.eager", shared=False)
        def task(**kwargs: Any) -> None:
            ran.append(kwargs)

        app.conf.beat_schedule["odd"] = {**app.conf.beat_schedule["odd"], "task": task.name}
        app.conf.beat_schedule["good"]["task"] = "elsewhere.unknown"
    leader = stage.leader(app)
    run_until(leader, lambda: stage.runs()["odd"].split()[1] == b"1" and stage.messages())
    assert names_of(stage) == ["good"]
    assert stage.pending() == set()
    assert leader.run() > 0
    if fails == "eager":
        assert ran == [{"entry": "odd"}]
    elif fails == "override":
        assert "cannot be sent: LookupError: no tenant" in caplog.text
    elif "receiver" in fails:
        assert "SystemExit(3)" in caplog.text
    else:
        assert "Entry 'odd': its run is done, and no message of it was sent" in caplog.text


def test_a_result_backend_that_cannot_be_reached_leaves_the_run_due(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def on_task_call(self: Any, producer: Any, task_id: str) -> None:
        told.append(task_id)
        if len(told) < 3:
            raise OperationalError("no backend")

    monkeypatch.setattr(DisabledBackend, "on_task_call", on_task_call)
    leader = stage.leader(stage.app(**overdue(stage, "a")))
    run_until(leader, stage.messages)
    [sent] = stage.messages()
    assert told == [sent.headers["id"]] * 3
    assert "The run stays due; trying again in 0.5 s" in caplog.text


def test_nobody_is_called_while_the_ledger_is_paused_or_the_broker_is_away(
    stage: DrivenLeaders, quick_server: Server
) -> None:
    stage.scheduler_class = type("NotingHere", (Noting,), {"calls": []})
    due_in = 3.0  # time enough to pause
    leader = stage.leader(stage.app(a=stage.entry("a", due_in)))
    leader.run()
    calls = leader.scheduler.calls
    assert stage.pause(1)
    leader.run_for(due_in + 0.5)
    assert calls == []
    assert stage.pause(1, resumed=True)
    run_until(leader, stage.messages)
    assert [call[0] for call in calls] == ["apply_entry", "apply_async"]


def tell_of_calls(
    stage: DrivenLeaders, listen: Any, own: str, tell: Callable[[str], object]
) -> None:
    """Tell the id of each run that Celery's code is called for, by an override or a receiver."""

    class Telling(LeaderScheduler):
        def apply_entry(self, entry: Any, producer: Any = None) -> None:
            super().apply_entry(entry, producer=producer)
            tell(entry.options["task_id"])

    if own == "override":
        stage.scheduler_class = Telling
    else:
        listen("before_task_publish", lambda headers, **_: tell(headers["id"]))


@pytest.mark.parametrize("own", ["before", "override"])
def test_messages_that_have_to_wait_are_published_without_a_second_call(
    stage: DrivenLeaders, listen: Any, own: str
) -> None:
    ids: list[str] = []

    def pause(task_id: str) -> None:
        if not ids:
            assert stage.pause(1)
        ids.append(task_id)

    tell_of_calls(stage, listen, own, pause)
    leader = stage.leader(stage.app(**overdue(stage, "a", "b")))
    wait_until(lambda: (leader.run(), ids)[1], 30)
    leader.run_for(1.2)
    assert stage.messages() == []
    assert stage.pause(1, resumed=True)
    run_until(leader, lambda: len(stage.messages()) == 2)
    assert sorted(ids) == sorted(sent.headers["id"] for sent in stage.messages())


@pytest.mark.parametrize("own", ["before", "override"])
def test_a_message_that_has_to_wait_keeps_what_its_own_call_gave(
    stage: DrivenLeaders, listen: Any, own: str
) -> None:
    """A receiver writes into one dictionary for all runs, as stock beat lets it."""
    context: dict[str, str] = {}

    def give(headers: Any, **_: Any) -> None:
        if not context:
            assert stage.pause(1)
        context["id"] = headers["id"]
        headers["context"] = context

    if own == "override":
        stage.scheduler_class = type("NotingHere", (Noting,), {"calls": []})
    listen("before_task_publish", give)
    leader = stage.leader(stage.app(**overdue(stage, "a", "b", "c")))
    wait_until(lambda: (leader.run(), context)[1], 30)
    leader.run()
    assert stage.pause(1, resumed=True)
    run_until(leader, lambda: len(stage.messages()) == 3)
    assert all(sent.headers["context"]["id"] == sent.headers["id"] for sent in stage.messages())


@pytest.mark.parametrize("own", ["before", "override"])
def test_a_message_that_has_to_wait_counts_from_its_publication(
    stage: DrivenLeaders, listen: Any, own: str
) -> None:
    told: list[str] = []

    def pause(task_id: str) -> None:
        if not told:
            assert stage.pause(1)
        told.append(task_id)

    tell_of_calls(stage, listen, own, pause)
    options = {"expires": 1, "countdown": 0.5}
    leader = stage.leader(stage.app(**overdue(stage, "a", options=options)))
    wait_until(lambda: (leader.run(), told)[1], 30)
    leader.run_for(1.5)
    before = time.time()
    assert stage.pause(1, resumed=True)
    run_until(leader, stage.messages)
    [sent] = stage.messages()
    assert expiry(sent) >= before + 1
    assert expiry(sent) - moment(sent, "eta") == pytest.approx(0.5, abs=0.01)
    assert len(told) == 1


@pytest.mark.parametrize("is_claimed", [False, True], ids=["scheduled", "claimed"])
@pytest.mark.parametrize("own", ["before", "after", "override"])
def test_a_run_that_is_too_late_after_its_call_or_after_those_before_it_is_missed(
    stage: DrivenLeaders,
    listen: Any,
    own: str,
    is_claimed: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    told: list[str] = []

    def take_long(_: str) -> None:
        told.append("call")
        for name in ("a", "b"):
            leader.scheduler._roster.entries[name].max_lateness_us = 0

    due = overdue(stage, "a", "b")
    if is_claimed:
        due = {name: stage.entry(name, HOUR, 4 * HOUR) for name in due}
        stage.leader(stage.app(**due)).run()
        for name in due:
            stage.claim(name, -1.0)
    tell_of_calls(stage, listen, own, take_long)
    if own == "after":
        listen("after_task_publish", lambda **_: None)
    leader = stage.leader(stage.app(**due))
    said = "which is more than the entry allows" if is_claimed else "1 are too late to run"
    run_until(leader, lambda: caplog.text.count(said) == 2)
    assert stage.messages() == []
    assert stage.pending() == set()
    assert told == ["call"]
    if is_claimed:
        assert {name: run.split()[1] for name, run in stage.runs().items() if name in due} == {
            "a": b"1",
            "b": b"1",
        }


@pytest.mark.parametrize("own", ["before", "override"])
def test_while_redis_publishes_one_run_the_next_is_called(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch, listen: Any, own: str
) -> None:
    told: list[str] = []

    tell_of_calls(stage, listen, own, lambda _: told.append("call"))
    read = packed_commands._reply

    def reply(connection: Any) -> Any:
        found = read(connection)
        if not isinstance(found, Exception):  # the server knows the script
            told.append("reply")
        return found

    monkeypatch.setattr(packed_commands, "_reply", reply)
    stage.client.script_flush()
    leader = stage.leader(stage.app(**overdue(stage, "a", "b", "c")))
    run_until(leader, lambda: len(stage.messages()) == 3)
    # Write-ahead waits for the broker instead, and reads no reply of this kind.
    expected = ["call", "call", "reply", "call", "reply", "reply"]
    assert told == [each for each in expected if each == "call" or stage.takes == TRANSACTIONAL]


def test_no_run_waits_for_the_next_call_where_the_server_does_not_know_the_script(
    stage: DrivenLeaders,
) -> None:
    class Waiting(LeaderScheduler):
        def apply_entry(self, entry: Any, producer: Any = None) -> None:
            wait_until(lambda: len(stage.messages()) == len(calls), 4)
            calls.append(entry.name)
            super().apply_entry(entry, producer=producer)

    calls: list[str] = []
    stage.client.script_flush()
    stage.scheduler_class = Waiting
    leader = stage.leader(stage.app(**overdue(stage, "a", "b", "c")))
    run_until(leader, lambda: len(stage.messages()) == 3)
    assert len(calls) == 3


def test_a_run_is_not_as_late_as_its_reply_is_read(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    told: list[float] = []

    class Slow(LeaderScheduler):
        def apply_entry(self, entry: Any, producer: Any = None) -> None:
            calls.append(entry.name)
            if len(calls) == 3:  # by now the server knows the script
                wait_until(lambda: len(stage.messages()) == 2, 4)
                seen.append(time.time())
                time.sleep(0.05)
            super().apply_entry(entry, producer=producer)

    calls: list[str] = []
    arrived = RunCounts.arrived

    def tell(self: RunCounts, count: int, way: str, lateness: float) -> None:
        told.append(lateness)
        arrived(self, count, way, lateness)

    monkeypatch.setattr(RunCounts, "arrived", tell)
    stage.scheduler_class = Slow
    leader = stage.leader(stage.app(**overdue(stage, "a", "b", "c")))
    run_until(leader, lambda: len(stage.messages()) == 3)
    due = stage.messages()[1].covers[1] / 1e6
    assert 0 < told[1] <= seen[0] - due


def test_a_run_that_went_out_before_does_not_say_that_the_broker_is_back(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stage.scheduler_class = type("NotingHere", (Noting,), {"calls": []})
    leader = stage.leader(stage.app(**overdue(stage, "a", "b")))
    publisher = leader.dispatcher._publisher
    connect, asked, is_away = publisher.connect, 0, True

    def connect_once() -> None:
        nonlocal asked
        asked += 1
        if asked > 1 and is_away:
            raise ConnectionRefusedError("away")
        connect()

    monkeypatch.setattr(publisher, "connect", connect_once)
    wait_until(lambda: (leader.run(), asked > 2)[1], 30)
    assert caplog.text.count("The broker does not accept messages") == 1
    assert "accepts messages again" not in caplog.text
    assert len(stage.messages()) == 1
    is_away = False
    run_until(leader, lambda: len(stage.messages()) == 2)
    assert caplog.text.count("The broker accepts messages again") == 1


@pytest.mark.parametrize("own", ["before", "after", "override"])
def test_the_event_task_sent_follows_its_message(
    stage: DrivenLeaders, quick_server: Server, listen: Any, own: str
) -> None:
    if own == "override":
        stage.scheduler_class = type("NotingHere", (Noting,), {"calls": []})
    else:
        listen(f"{own}_task_publish", lambda **_: None)
    app = stage.app(**overdue(stage, "a", "b"))
    app.conf.task_send_sent_event = True
    subscriber: Any = quick_server.client().pubsub(ignore_subscribe_messages=True)
    subscriber.psubscribe("*celeryev*")
    subscriber.get_message(timeout=5)
    leader = stage.leader(app)
    run_until(leader, lambda: len(stage.messages()) == 2)
    heard = [subscriber.get_message(timeout=5)["channel"] for _ in range(2)]
    assert all(channel.endswith("task.sent") for channel in heard)
    subscriber.close()


@pytest.mark.parametrize("own", ["before", "after", "override"])
def test_expires_counts_from_the_due_moment_where_the_entry_says_so(
    stage: DrivenLeaders, listen: Any, own: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Any] = []
    if own == "override":
        stage.scheduler_class = type("NotingHere", (Noting,), {"calls": calls})
    else:
        listen(f"{own}_task_publish", lambda headers, **_: calls.append(headers))
    options = {"expires": 60, "leader": {"expires_from": "due"}}
    app = stage.app(
        late=stage.entry("late", -1800.0, options=options),
        soon=stage.entry("soon", 0.2, options=options),
        usual=stage.entry("usual", -1800.0, options={"expires": 60}),
    )
    before = time.time()
    leader = stage.leader(app)
    run_until(leader, lambda: len(stage.messages()) == 2 and "'late'" in caplog.text)
    sent = dict(zip(names_of(stage), stage.messages(), strict=True))
    assert sorted(sent) == ["soon", "usual"]
    assert expiry(sent["soon"]) - sent["soon"].covers[1] / 1e6 == pytest.approx(60, abs=0.001)
    assert expiry(sent["usual"]) >= before + 60
    assert "periodic task 'late' (shop.work) is missed: it expired 17" in caplog.text
    # It is done: nobody is called for it again, and nothing is owed.
    assert stage.runs()["late"].split()[1] == b"1"
    assert stage.pending() == set()
    called = len(calls)
    leader.run()
    assert len(calls) == called


def expiry(sent: Any) -> float:
    return moment(sent, "expires")


def moment(sent: Any, header: str) -> float:
    return datetime.fromisoformat(sent.headers[header]).timestamp()
