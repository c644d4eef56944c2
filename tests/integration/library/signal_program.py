"""A candidate that is stopped in a signal handler: ``signal_program.py URL KEY VERB``.

The main thread is in ``wait_until_leader()`` when the signal comes.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

from celery_safe_leader import LifecycleError, create_safe_redis_leader
from tests.support.candidates.program import say


def main() -> None:
    url, key, verb = sys.argv[1:]
    leader = create_safe_redis_leader(redis=url, key=key, ttl=300, wait=300)

    def handle(*_: object) -> None:
        getattr(leader, verb)()

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
