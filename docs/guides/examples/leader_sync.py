"""Run it in two terminals, as ``python leader_sync.py 1`` and ``python leader_sync.py 2``."""

import os
import sys
import threading

from celery_safe_leader import create_safe_redis_leader

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")


def main(number: str) -> None:
    """Take part in the election until Ctrl-C."""
    leader = create_safe_redis_leader(redis=REDIS, key="the-election", ttl=1.5, wait=3)
    leader.on("elected", lambda event: print(f"I'm the leader - {number}", flush=True))
    leader.on("demoted", lambda event: print(f"Not any more: {event.reason.value}", flush=True))
    leader.on("error", lambda error: print(f"Going on in spite of: {error}", flush=True))
    with leader:
        threading.Event().wait()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        print("Bye", flush=True)
