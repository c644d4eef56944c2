"""Work on another thread, while the main thread stays open to signals."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from celery_safe_leader._beat.background import BackgroundThread


@pytest.fixture
def aside() -> Iterator[BackgroundThread]:
    aside = BackgroundThread("aside")
    yield aside
    aside.close()


def test_it_returns_and_raises_what_the_function_does_on_one_other_thread(aside: BackgroundThread):
    def refuse() -> None:
        raise ValueError("no")

    first, second = aside.run(threading.get_ident), aside.run(threading.get_ident)
    assert first == second != threading.get_ident()
    with pytest.raises(ValueError, match="no"):
        aside.run(refuse)
    assert aside.run(lambda: 7) == 7
    assert aside.wait_idle(1)


def test_a_signal_handler_waits_for_the_end_of_what_runs(aside: BackgroundThread):
    done: list[str] = []
    started = threading.Event()

    def work() -> None:
        started.set()
        time.sleep(0.2)
        done.append("work")

    def handler(*_: object) -> None:
        assert aside.wait_idle(5)
        done.append("handler")
        raise SystemExit

    def send() -> None:
        started.wait()
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        sender = threading.Thread(target=send)
        sender.start()
        with pytest.raises(SystemExit):
            aside.run(work)
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert done == ["work", "handler"]


def test_waiting_for_what_takes_too_long_says_so(aside: BackgroundThread):
    release, caller = threading.Event(), threading.Thread(target=lambda: aside.run(release.wait))
    caller.start()
    while aside.wait_idle(0):
        time.sleep(0.001)
    assert not aside.wait_idle(0.05)
    release.set()
    caller.join()
    assert aside.wait_idle(1)


def test_closing_ends_the_thread_and_without_one_does_nothing():
    idle = BackgroundThread("idle")
    idle.close()
    used = BackgroundThread("used")
    thread = used.run(threading.current_thread)
    used.close()
    thread.join(2)
    assert not thread.is_alive()
