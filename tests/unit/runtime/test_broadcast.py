"""Waking threads that wait for a condition."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

import pytest

from celery_safe_leader._runtime.broadcast import Broadcast
from tests.support.processes.waiting import wait_until


@pytest.fixture
def broadcast() -> Broadcast:
    return Broadcast()


def test_who_need_not_wait_does_not(broadcast: Broadcast) -> None:
    assert broadcast.wait(lambda: True, 0.0)
    assert broadcast.wait(lambda: True, None)


@pytest.mark.parametrize("timeout", [0.0, -1.0, 0.01])
def test_time_out_returns_what_is_true_then(broadcast: Broadcast, timeout: float) -> None:
    assert not broadcast.wait(lambda: False, timeout)


def test_a_condition_that_comes_true_at_the_last_moment_counts(broadcast: Broadcast) -> None:
    answers = iter([False, False, True])
    assert broadcast.wait(lambda: next(answers), 0.0)


def test_all_who_wait_are_woken(broadcast: Broadcast) -> None:
    ready = threading.Event()
    woken: list[bool] = []
    threads = [
        threading.Thread(target=lambda: woken.append(broadcast.wait(ready.is_set, 30.0)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(broadcast._waiters) == 8, what="eight threads that wait")
    ready.set()
    broadcast.notify_all()
    for thread in threads:
        thread.join(10)
    assert woken == [True] * 8


def test_who_is_woken_for_nothing_waits_on(broadcast: Broadcast) -> None:
    ready = threading.Event()
    asked = []

    def is_ready() -> bool:
        asked.append(ready.is_set())
        return asked[-1]

    thread = threading.Thread(target=lambda: broadcast.wait(is_ready, 30.0))
    thread.start()
    for _ in range(3):
        wait_until(lambda: len(broadcast._waiters) > 0)
        broadcast.notify_all()
    assert thread.is_alive()
    ready.set()
    broadcast.notify_all()
    thread.join(10)
    assert not thread.is_alive()
    assert len(asked) > 6


def test_notifying_nobody_is_nothing(broadcast: Broadcast) -> None:
    broadcast.notify_all()
    broadcast.notify_all()


def test_who_gave_up_is_not_waited_for_and_costs_nothing_any_more(broadcast: Broadcast) -> None:
    # Nobody ever notifies a worker that stays out of the election, and it waits again and again.
    for _ in range(1000):
        assert not broadcast.wait(lambda: False, 0.0)
    broadcast.wait(lambda: False, 0.001)
    assert not broadcast._waiters


def test_who_became_ready_at_the_last_look_leaves_nothing_behind(broadcast: Broadcast) -> None:
    answers = iter([False, True, True])
    assert broadcast.wait(lambda: next(answers), 30.0)
    assert not broadcast._waiters


def test_a_signal_handler_that_raises_in_the_middle_of_a_wait_leaves_nothing_behind(
    broadcast: Broadcast,
) -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        raise SystemExit

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(SystemExit):
            broadcast.wait(lambda: False, 100.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not broadcast._waiters


def test_notifying_ends_although_those_who_are_woken_wait_on(broadcast: Broadcast) -> None:
    # As fast as that: who waits is in the list again before the next one is taken from it.
    class Eager:
        def release(self) -> None:
            broadcast._waiters.append(self)  # type: ignore[arg-type]

    broadcast._waiters.extend((Eager(), Eager()))  # type: ignore[arg-type]
    broadcast.notify_all()
    assert len(broadcast._waiters) == 2


def test_a_signal_handler_may_notify_in_the_middle_of_a_wait(broadcast: Broadcast) -> None:
    ready = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        ready.set()
        broadcast.notify_all()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        began = time.monotonic()
        assert broadcast.wait(ready.is_set, 100.0)
        assert time.monotonic() - began < 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
