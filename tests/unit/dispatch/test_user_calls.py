"""Calls of user code: what hangs goes on alone, and is known until it returns."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from celery_safe_leader._dispatch.health.user_calls import (
    CallHangsError,
    CallQuestion,
    NextCall,
    UserCall,
    UserCalls,
)
from tests.support.processes.waiting import wait_until

WHAT = "its schedule"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Set, it lets everything return that hangs."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def calls() -> Iterator[UserCalls]:
    calls = UserCalls(limit=0.05)
    yield calls
    calls.close()


def hang(calls: UserCalls, name: str, gate: threading.Event) -> UserCall:
    with pytest.raises(CallHangsError) as raised:
        calls.run(name, WHAT, lambda: gate.wait(60) and name)
    assert raised.value.call is not None
    return raised.value.call


def test_what_returns_or_raises_is_as_if_it_were_called_here(calls: UserCalls):
    assert calls.run("a", WHAT, lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        calls.run("a", WHAT, lambda: 1 // 0)
    assert not calls.any_hang


def test_calls_that_return_share_one_thread_which_is_not_the_callers(calls: UserCalls):
    threads = {calls.run(name, WHAT, threading.get_ident) for name in "abc"}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_what_a_call_leaves_open_in_its_context_is_closed_for_the_next(calls: UserCalls):
    trace = contextvars.ContextVar("trace", default="none")
    assert calls.run("a", WHAT, lambda: trace.set("of a") and trace.get()) == "of a"
    assert calls.run("b", WHAT, trace.get) == "none"
    assert trace.get() == "none"


def test_every_call_is_prepared_on_its_thread():
    local = threading.local()
    calls = UserCalls(lambda: setattr(local, "app", "shop"))

    def use_another() -> str:
        found, local.app = local.app, "another"
        return str(found)

    assert [calls.run("a", WHAT, use_another) for _ in range(2)] == ["shop", "shop"]
    calls.close()


def test_user_code_that_wants_to_end_the_process_ends_its_call(calls: UserCalls):
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"its schedule raised SystemExit\(3\)"):
        calls.run("a", WHAT, leave)


def test_a_call_that_hangs_is_named_once_with_its_line(
    calls: UserCalls, gate: threading.Event, caplog: pytest.LogCaptureFixture
):
    call = hang(calls, "slow", gate)
    assert calls.hangs("slow")
    assert calls.hanging_since(call.started) == [call.started]
    for _ in range(2):
        with pytest.raises(CallHangsError) as raised:
            calls.run("slow", WHAT, lambda: pytest.fail("called again before it has returned"))
        assert raised.value.call is None
    [line] = [record.getMessage() for record in caplog.records]
    assert "Entry 'slow': the call of its schedule has not returned after 0.05 s" in line
    assert "threading.py:" in line
    assert "in wait" in line


def test_others_are_called_meanwhile(calls: UserCalls, gate: threading.Event):
    hang(calls, "slow", gate)
    assert calls.run("quick", WHAT, lambda: 5) == 5


def test_what_it_brings_in_the_end_is_told_once(
    calls: UserCalls, gate: threading.Event, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    call = hang(calls, "slow", gate)
    assert calls.returned() == []
    gate.set()
    assert call.wait(10)
    assert calls.returned() == [call]
    assert calls.returned() == []
    assert call.result() == "slow"
    assert not calls.hangs("slow")
    assert calls.run("slow", WHAT, lambda: 6) == 6
    assert "the call of its schedule has returned after" in caplog.text


def test_with_four_that_hang_no_further_one_is_started(
    calls: UserCalls, gate: threading.Event, caplog: pytest.LogCaptureFixture
):
    hung = [hang(calls, name, gate) for name in "abcd"]
    assert calls.is_full
    for _ in range(2):
        with pytest.raises(CallHangsError) as raised:
            calls.run("e", WHAT, lambda: pytest.fail("started"))
        assert raised.value.call is None
    assert calls.was_refused("e")
    assert caplog.text.count("Entry 'e' does not run: it needs a call of user code") == 1
    assert "(of entries 'a', 'b', 'c', 'd')" in caplog.text
    gate.set()
    assert all(call.wait(10) for call in hung)
    assert {call.name for call in calls.returned()} == set("abcd")
    assert not calls.was_refused("e")
    assert calls.run("e", WHAT, lambda: 7) == 7


def test_threads_end_with_their_calls(calls: UserCalls, gate: threading.Event):
    before = set(threading.enumerate())
    hang(calls, "slow", gate)
    more = set(calls.run("quick", WHAT, threading.enumerate)) - before
    assert len(more) == 2
    gate.set()
    calls.close()
    wait_until(lambda: not any(thread.is_alive() for thread in more), 10)


def test_each_thread_is_prepared(gate: threading.Event):
    prepared: list[int] = []
    calls = UserCalls(lambda: prepared.append(threading.get_ident()), limit=0.05)
    hang(calls, "slow", gate)
    ident = calls.run("quick", WHAT, threading.get_ident)
    assert len(set(prepared)) == 2
    assert ident in prepared
    calls.close()


# A series of calls


class Scene:
    """A series: which functions were called, on which threads, and what they found."""

    def __init__(self, calls: UserCalls, *functions: Callable[[Any], Any]) -> None:
        self.calls = calls
        self.waiting = deque((str(n), function) for n, function in enumerate(functions))
        self.threads: list[int] = []
        self.results: list[Any] = []
        self.left: list[tuple[str, UserCall | None, int]] = []
        self.answer: Callable[[CallQuestion], None] = CallQuestion.answer

    def take(self) -> NextCall | None:
        self.threads.append(threading.get_ident())
        if not self.waiting:
            return None
        name, function = self.waiting.popleft()
        return NextCall(name, WHAT, function, self.serve, self.returned, partial(self.alone, name))

    def serve(self, question: CallQuestion) -> None:
        self.threads.append(threading.get_ident())
        self.results.append((question.item, VALUE.get()))
        self.answer(question)

    def returned(self, call: UserCall) -> None:
        self.threads.append(threading.get_ident())
        self.results.append(call.result())

    def alone(self, name: str, call: UserCall | None) -> None:
        self.left.append((name, call, threading.get_ident()))

    def play(self) -> None:
        self.calls.series(self.take)


VALUE: ContextVar[str] = ContextVar("value", default="outside")


def asking(item: str, may_wait: Callable[[], bool] = lambda: True) -> Callable[[Any], str]:
    def function(ask: Callable[[CallQuestion], None]) -> str:
        VALUE.set("inside")
        question = CallQuestion(item)
        ask(question)
        question.wait(may_wait, TimeoutError())
        return f"after {item}"

    return function


def test_a_series_is_made_on_one_thread_with_the_work_between_its_calls(calls: UserCalls):
    scene = Scene(calls, lambda _: "first", asking("question"), lambda _: VALUE.get())
    scene.play()
    assert scene.results == ["first", ("question", "outside"), "after question", "outside"]
    [thread] = set(scene.threads)
    assert thread != threading.get_ident()
    assert calls.run("next", WHAT, threading.get_ident) == thread


def test_what_a_call_of_a_series_raises_is_its_result(calls: UserCalls):
    def leave(_: Any) -> None:
        raise SystemExit(3)

    scene = Scene(calls, leave)
    with pytest.raises(RuntimeError, match=r"its schedule raised SystemExit\(3\)"):
        scene.play()


def test_a_call_that_hangs_gives_the_rest_of_its_series_back(
    calls: UserCalls, gate: threading.Event
):
    def slow(ask: Callable[[CallQuestion], None]) -> str:
        gate.wait(60)
        return asking("late")(ask)

    scene = Scene(calls, slow, lambda _: threading.get_ident(), lambda _: "last")
    scene.play()
    [(name, call, here)] = scene.left
    assert (name, here) == ("0", threading.get_ident())
    assert calls.hangs("0")
    assert scene.results[1:] == ["last"]
    assert len(set(scene.threads)) == 2
    # What it asks and brings now is for the thread that dispatches.
    gate.set()
    [(asks, question)] = wait_until(calls.questions)
    assert (asks, question.item) == (call, "late")
    question.answer()
    assert wait_until(calls.returned) == [call]
    assert call is not None
    assert call.result() == "after late"
    assert scene.results[1:] == ["last"]


def test_a_question_without_an_answer_leaves_its_call_alone(calls: UserCalls):
    unanswered: list[CallQuestion] = []
    scene = Scene(calls, asking("open"), lambda _: "next")
    scene.answer = unanswered.append
    scene.play()
    [(name, call, _)] = scene.left
    assert name == "0"
    assert call is not None
    assert call.waits
    assert scene.results == [("open", "outside"), "next"]
    unanswered[0].answer()
    assert wait_until(calls.returned) == [call]


@pytest.mark.parametrize("place", ["take", "serve", "returned"])
def test_what_the_work_of_a_series_raises_is_raised_here(calls: UserCalls, place: str):
    over = threading.Event()
    first = asking("question", lambda: not over.is_set())
    scene = Scene(calls, first, lambda _: pytest.fail("called after an error"))

    def broken(*_: Any) -> Any:
        raise LookupError(place)

    setattr(scene, place, broken)
    with pytest.raises(LookupError, match=place):
        scene.play()
    over.set()
    wait_until(lambda: calls.returned() or not calls.any_hang)
    assert calls.run("other", WHAT, lambda: 5) == 5


def test_a_series_starts_no_call_while_too_many_hang(calls: UserCalls, gate: threading.Event):
    for number in range(4):
        hang(calls, f"slow-{number}", gate)
    scene = Scene(calls, lambda _: pytest.fail("it was called"))
    scene.play()
    [(name, call, _)] = scene.left
    assert (name, call) == ("0", None)
    assert calls.was_refused("0")
