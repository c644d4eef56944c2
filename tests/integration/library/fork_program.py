"""A leader that forks: ``fork_program.py HOW SHELL URL KEY TTL``.

Both processes say what they believe, as in ``candidate_program``, each line with its pid. Either
ends at SIGTERM.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any

from celery_safe_leader import create_async_safe_redis_leader, create_safe_redis_leader
from tests.support.candidates.program import Sampler, say

ended = threading.Event()


class Blocking:
    def __init__(self, options: dict[str, Any]) -> None:
        self.leader = create_safe_redis_leader(**options)

    def elect(self) -> None:
        self.leader.elect()

    def finish(self) -> None:
        self.leader.shutdown()


class Asyncio:
    """Each process has its own event loop, in a thread that a fork does not copy."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.leader = create_async_safe_redis_leader(**options)

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(5)

    def elect(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._run(self.leader.elect())

    def finish(self) -> None:
        self._run(self.leader.shutdown())


def child(shell: Any, ttl: float) -> None:
    """Look on for three ttl, then take part as a candidate of its own."""
    leader = shell.leader
    say(
        child=os.getpid(), id=leader.candidate_id, active=leader.active, leads=leader.is_leader,
        token=leader.fencing_token, remaining=leader.remaining,
        threads=[t.name for t in threading.enumerate()],
    )  # fmt: skip
    sampler, until = Sampler(leader), time.monotonic() + 3 * ttl
    while time.monotonic() < until:
        sampler.sample()
        time.sleep(0.005)
    sampler.tell(over=True)
    say(looked_on=sampler.samples)
    shell.elect()
    say(elects=leader.candidate_id)
    run(shell)


def run(shell: Any) -> None:
    sampler = Sampler(shell.leader)
    thread = threading.Thread(target=sampler.run, args=(ended,))
    thread.start()
    while not ended.is_set():
        time.sleep(0.02)
    shell.finish()
    thread.join()


def fork(how: str, shell: Any, ttl: float) -> None:
    if how == "os.fork":
        if os.fork() == 0:
            child(shell, ttl)
            os._exit(0)
    elif how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=child, args=(shell, ttl))
        process.start()
    else:
        import billiard

        billiard.get_context("fork").Process(target=child, args=(shell, ttl)).start()


def main() -> None:
    how, kind, url, key, ttl = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    options = {"redis": url, "key": key, "ttl": float(ttl), "wait": float(ttl) / 5}
    shell = Blocking(options) if kind == "blocking" else Asyncio(options)
    shell.leader.on("error", lambda error: say(error=str(error)))
    shell.elect()
    while not shell.leader.is_leader:
        time.sleep(0.005)
    say(parent=os.getpid(), id=shell.leader.candidate_id, token=shell.leader.fencing_token)
    fork(how, shell, float(ttl))
    run(shell)
    say(parent_ended=True)


if __name__ == "__main__":
    main()
