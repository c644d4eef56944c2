"""An end that comes once, and that everybody waits for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from celery_safe_leader._runtime.ending import Ending
from tests.support.processes.waiting import PATIENCE, wait_until


def test_it_comes_once_and_all_who_ask_return_at_its_end() -> None:
    ending, go_on, ended, returned = Ending("end"), threading.Event(), list[int](), list[bool]()

    def end() -> None:
        assert go_on.wait(PATIENCE)
        ended.append(threading.get_ident())

    def ask() -> None:
        ending.run(end)
        returned.append(bool(ended))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(ending._changed._waiters) == 5, what="five who wait")
    assert returned == []
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    ending.run(end)
    assert returned == [True] * 5
    assert len(ended) == 1
    assert ended[0] not in {threading.get_ident(), *(thread.ident for thread in threads)}


def test_what_it_raised_is_raised_for_all_who_ask() -> None:
    ending = Ending("end")

    def fail() -> None:
        raise LookupError("no")

    for _ in range(2):
        with pytest.raises(LookupError, match="no"):
            ending.run(fail)


def test_who_asks_within_it_does_not_wait_for_itself() -> None:
    ending, asked = Ending("end"), list[int]()

    def end() -> None:
        ending.run(end)
        asked.append(1)

    ending.run(end)
    assert asked == [1]


def test_it_comes_although_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    ended: list[int] = []
    Ending("end").run(lambda: ended.append(1))
    assert ended == [1]


@pytest.mark.parametrize("stops", ["while it ends", "before it has begun"])
def test_a_signal_in_the_middle_of_a_signal_handler_waits_for_the_end_too(
    stops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, lock, order = Ending("end"), threading.Lock(), list[str]()
    start = threading.Thread.start

    def end() -> None:
        # What a signal handler may not wait for: a lock that its own thread holds, as redis-py 5.0
        # has one around the closing of its connections.
        with lock:
            order.append("begins")
            if stops == "while it ends":
                os.kill(os.getpid(), signal.SIGUSR2)
                wait_until(lambda: "second" in order, what="the second signal")
            order.append("ends")

    def start_interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        if stops == "before it has begun":
            os.kill(os.getpid(), signal.SIGUSR2)
        start(thread)

    def first(*_: object) -> None:
        ending.run(end)
        order.append("first returned")

    def second(*_: object) -> None:
        order.append("second")
        ending.run(end)
        order.append("second returned")
        raise SystemExit

    monkeypatch.setattr(threading.Thread, "start", start_interrupted)
    with (
        handling(signal.SIGUSR1, first),
        handling(signal.SIGUSR2, second),
        pytest.raises(SystemExit),
    ):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert order in (
        ["begins", "second", "ends", "second returned"],
        ["second", "begins", "ends", "second returned"],
    )


@contextmanager
def handling(number: signal.Signals, handler: Callable[..., None]) -> Iterator[None]:
    """Handle a signal for a while."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
