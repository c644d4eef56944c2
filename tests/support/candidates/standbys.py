"""Very many standbys in few processes.

``python -m tests.support.candidates.standbys URL KEY COUNT TTL WAIT``.

Each is an asyncio candidate with connections of its own. Says ``ready`` when all wait, and
``elected`` when one leads. At SIGUSR1 the one that leads, if it is here, resigns and takes part
again.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from typing import Any

from celery_safe_leader import Elected, create_async_safe_redis_leader
from tests.support.candidates.program import say


async def main(url: str, key: str, count: int, ttl: float, wait: float) -> None:
    def elected(event: Elected) -> None:
        say(elected=event.fencing_token, at=time.monotonic())

    async def hand_over() -> None:
        for leader in leaders:
            if leader.is_leader:
                say(resigned=leader.fencing_token, at=time.monotonic())
                await leader.stop()
                await leader.elect()

    leaders: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: tasks.append(loop.create_task(hand_over())))
    for _ in range(count):
        leader = create_async_safe_redis_leader(redis=url, key=key, ttl=ttl, wait=wait)
        leader.on("elected", elected)
        leader.on("error", lambda error: say(error=str(error)))
        await leader.elect()
        leaders.append(leader)
        # Not all at once: they look on in turn, as processes that were started in turn do.
        await asyncio.sleep(0.002)
    gc.freeze()
    say(ready=count)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _, url, key, count, ttl, wait = sys.argv
    asyncio.run(main(url, key, int(count), float(ttl), float(wait)))
