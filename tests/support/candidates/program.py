"""A candidate in a process of its own, which says what it believes.

Each line of its output is one JSON object, and every time is that of CLOCK_MONOTONIC, which all
processes of a machine share:

``{"ready": candidate id}``, ``{"event": "elected" | "demoted" | "error", "at": …}``, and
``{"leads": token, "from": …, "to": …, "over": bool}``: at every instant in between it led. That
is certain: ``from`` is read after the first yes and ``to`` before the last one, and between two
yeses with the same token there is no no.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import threading
import time
from typing import Any, Protocol

from celery_safe_leader import (
    AsyncSafeLeader,
    Demoted,
    Elected,
    create_async_safe_redis_leader,
    create_safe_redis_leader,
)
from celery_safe_leader._runtime.views import LeaderViews

PERIOD = 0.005
"""Seconds between two samples."""
NEWS_EVERY = 10
"""Samples between two lines about a tenure that goes on."""


def say(**fields: Any) -> None:
    """Write one line at once, whole even beside other threads."""
    os.write(1, (json.dumps({**fields, "pid": os.getpid()}) + "\n").encode())


class Sampler:
    """Asks a candidate again and again whether it leads."""

    def __init__(self, leader: LeaderViews) -> None:
        self._leader = leader
        self._token: int | None = None
        self._since = self._until = 0.0
        self.samples = 0

    def sample(self) -> None:
        """Ask once."""
        before = time.monotonic()
        token = self._leader.fencing_token if self._leader.is_leader else None
        after = time.monotonic()
        self.samples += 1
        if token != self._token:
            self.tell(over=True)
            self._token, self._since, self._until = token, after, before
            self.tell()
        elif token is not None:
            self._until = before
            if self.samples % NEWS_EVERY == 0:
                self.tell()

    def tell(self, *, over: bool = False) -> None:
        """Say what the present tenure is."""
        if self._token is not None:
            say(**{"leads": self._token, "from": self._since, "to": self._until, "over": over})

    def run(self, ended: threading.Event) -> None:
        """Sample until the end."""
        while not ended.is_set():
            self.sample()
            time.sleep(PERIOD)
        self.sample()
        self.tell(over=True)
        say(ended=True, samples=self.samples)


def listen(leader: LeaderViews) -> None:
    """Say every event."""

    def elected(event: Elected) -> None:
        say(event="elected", at=time.monotonic(), token=event.fencing_token)

    def demoted(event: Demoted) -> None:
        reason, token = event.reason.value, event.fencing_token
        say(event="demoted", at=time.monotonic(), token=token, reason=reason, holder=event.holder)

    def failed(error: Exception) -> None:
        say(event="error", at=time.monotonic(), text=str(error))

    leader.on("elected", elected)
    leader.on("demoted", demoted)
    leader.on("error", failed)


class Shell(Protocol):
    """Runs the candidate."""

    views: LeaderViews

    def start(self) -> None: ...

    def stop(self) -> None: ...


class BlockingShell:
    """The blocking candidate; ``stop()`` is called in the signal handler itself."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._leader = create_safe_redis_leader(**options)
        self.views: LeaderViews = self._leader

    def start(self) -> None:
        self._leader.elect()

    def stop(self) -> None:
        self._leader.shutdown()


class AsyncioShell:
    """The asyncio candidate on an event loop in a thread of its own."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._leader: AsyncSafeLeader = create_async_safe_redis_leader(**options)
        self.views: LeaderViews = self._leader
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._leader.elect(), self._loop).result(5)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._leader.shutdown(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def main() -> None:
    """Take part until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shell", choices=["blocking", "asyncio"])
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("ttl", type=float)
    parser.add_argument("wait", type=float)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    options = {"redis": given.url, "key": given.key, "ttl": given.ttl, "wait": given.wait}
    options |= json.loads(os.environ.get("CANDIDATE_MORE", "{}"))
    shell: Shell = BlockingShell(options) if given.shell == "blocking" else AsyncioShell(options)
    ended = threading.Event()

    def terminate(*_: object) -> None:
        shell.stop()
        ended.set()

    signal.signal(signal.SIGTERM, terminate)
    listen(shell.views)
    shell.start()
    say(ready=shell.views.candidate_id, at=time.monotonic())
    # In a thread of its own, so that it also asks while the signal handler hands over.
    sampler = threading.Thread(target=Sampler(shell.views).run, args=(ended,))
    sampler.start()
    while not ended.is_set():
        time.sleep(0.02)
    sampler.join()


if __name__ == "__main__":
    main()
