"""A candidate that is stopped in a signal handler: ``signal_program.py URL KEY VERB [WHEN]``.

The main thread is in ``wait_until_leader()`` when the signal comes. With LOCK, closing connections
takes a lock that the same thread cannot take twice, as in redis-py 5.0; and while it is held, the
process sends itself the signal again. With POOL it does so while redis-py closes the connections of
a pool, whatever this release of it locks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from redis.connection import AbstractConnection, ConnectionPool

from celery_safe_leader import LifecycleError, SafeLeader, create_safe_redis_leader
from tests.support.candidates.program import say


def lock_connections(leader: SafeLeader) -> None:
    store, lock, sent = leader._runner._store, threading.Lock(), list[int]()
    interrupt, close = store.interrupt, store.close

    def locked(function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: object) -> None:
            with lock:
                if not sent:
                    sent.append(signal.SIGTERM)
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(0.2)  # it interrupts the handler, if it can
                function(*args)

        return run

    store.interrupt = locked(interrupt)  # type: ignore[method-assign]
    store.close = locked(close)  # type: ignore[method-assign]


def is_closed_by_pool() -> bool:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code is not ConnectionPool.disconnect.__code__:
        frame = frame.f_back
    return frame.f_back is not None


def interrupt_pool() -> None:
    disconnect, sent = AbstractConnection.disconnect, list[bool]()

    def interrupted(self: AbstractConnection, *args: Any) -> None:
        if not sent and is_closed_by_pool():
            sent.append(True)
            say(interrupts="a pool")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # it interrupts the handler, if it can
        disconnect(self, *args)

    AbstractConnection.disconnect = interrupted  # type: ignore[method-assign]


def main() -> None:
    url, key, verb = sys.argv[1:4]
    leader = create_safe_redis_leader(redis=url, key=key, ttl=300, wait=300)
    if "LOCK" in sys.argv:
        lock_connections(leader)
    if "POOL" in sys.argv:
        interrupt_pool()

    def handle(*_: object) -> None:
        say(handler="begins")
        getattr(leader, verb)()
        say(handler="ends", closed="closed" in repr(leader))

    signal.signal(signal.SIGTERM, handle)
    leader.elect()
    say(waits=True)
    try:
        leader.wait_until_leader()
    except LifecycleError:
        leader.shutdown()
        time.sleep(0.1)
        threads = [thread.name for thread in threading.enumerate()]
        say(threads=threads)


if __name__ == "__main__":
    main()
