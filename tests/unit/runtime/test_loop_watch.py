"""Whether a loop turns: one that says so by itself, and one that has to be asked."""

from __future__ import annotations

import threading
import time

from celery_safe_leader._runtime.service.loop_watch import LoopWatch


def test_a_loop_that_is_heard_of_turns() -> None:
    watch = LoopWatch(0.05)
    assert watch.is_turning()
    time.sleep(0.06)
    assert not watch.is_turning()
    watch.turned()
    assert watch.is_turning()


def test_a_loop_that_is_asked_has_time_from_the_question_on() -> None:
    asked: list[float] = []
    watch = LoopWatch(0.2, lambda: asked.append(time.monotonic()))
    time.sleep(0.3)  # nobody asked: nobody knows
    assert watch.is_turning(0.0)
    assert watch.is_turning(0.0)
    assert len(asked) == 1, "a loop that stands collects no questions"
    time.sleep(0.25)
    assert not watch.is_turning(0.0)
    watch.turned()
    assert watch.is_turning(0.0)
    assert len(asked) == 2


def test_an_answer_is_waited_for() -> None:
    watch = LoopWatch(0.0, lambda: threading.Timer(0.05, lambda: watch.turned()).start())
    assert watch.is_turning(30.0)
