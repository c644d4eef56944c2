"""A candidate whose resolver hangs for good as soon as a file is there.

Says when it is elected and demoted, and when ``is_leader`` changes, with CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from celery_safe_leader import create_async_safe_redis_leader, create_safe_redis_leader


def say(**fields: Any) -> None:
    """Write one line at once."""
    os.write(1, (json.dumps({**fields, "at": time.monotonic()}) + "\n").encode())


leaders: list[Any] = []
"""The one that is followed."""


def hang_when(flag: Path) -> None:
    """Let name resolution hang while the file is there."""
    resolve = socket.getaddrinfo

    def hanging(*args: Any, **kwargs: Any) -> Any:
        if flag.exists():
            say(what="hangs", left=max([leader.remaining for leader in leaders], default=0.0))
            while True:
                time.sleep(60)
        return resolve(*args, **kwargs)

    socket.getaddrinfo = hanging


def watch(leader: Any) -> None:
    """Say each change, as another thread sees it."""
    led, led_at = False, 0.0
    while True:
        asked_at = time.monotonic()
        leads = leader.is_leader
        if leads:
            led_at = asked_at
        if leads != led:
            led = leads
            say(what="leads" if leads else "leads no longer", led_at=led_at)
        time.sleep(0.002)


def follow(leader: Any) -> None:
    """Say what is told, and watch."""
    leader.on("elected", lambda _: say(what="elected"))
    leader.on("demoted", lambda event: say(what="demoted", reason=event.reason.value))
    leader.on("error", lambda _: None)
    leaders.append(leader)
    threading.Thread(target=watch, args=(leader,), daemon=True).start()


def block(options: dict[str, Any], ended: threading.Event) -> None:
    """Take part from a thread."""
    leader = create_safe_redis_leader(**options)
    follow(leader)
    leader.elect()
    ended.wait()
    leader.shutdown()


async def take_part(options: dict[str, Any], ended: threading.Event) -> None:
    """Take part on a loop."""
    leader = create_async_safe_redis_leader(**options)
    follow(leader)
    await leader.elect()
    # In a thread of its own, beside that of the resolver.
    await asyncio.to_thread(ended.wait)
    await leader.shutdown()


def main() -> None:
    """Take part until SIGTERM."""
    shell, url, flag, ttl = sys.argv[1:]
    hang_when(Path(flag))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    options = {"redis": url, "key": "resolver", "ttl": float(ttl)}
    if shell == "asyncio":
        asyncio.new_event_loop().run_until_complete(take_part(options, ended))
    else:
        block(options, ended)
    say(what="ended")
    os._exit(0)  # what hangs is not waited for


if __name__ == "__main__":
    main()
