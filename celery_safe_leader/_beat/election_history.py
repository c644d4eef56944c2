"""What the history of an election says of those who led meanwhile."""

from __future__ import annotations

from typing import Any

import redis

from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._store.errors import translate
from celery_safe_leader.leader import STOOD_DOWN

__all__ = ["somebody_led_well"]

_MOST = 200
"""Events that are looked at."""


def somebody_led_well(client: redis.Redis, history: str, me: str, since: int) -> bool:
    """Return whether somebody else led after a tenure of ours, and did not stand down like us.

    Where the history cannot be read, nobody did, as far as is known; the log says so.

    Args:
        client: Of the election's Redis.
        history: Key of the election's history.
        me: Our candidate id.
        since: The token of our tenure.
    """
    try:
        events: Any = client.xrevrange(history, count=_MOST)
    except (redis.RedisError, OSError) as exc:
        logger.warning(
            "The history of the election cannot be read, so it is not known whether another beat "
            "led meanwhile, and this one goes on by its own clock: %s",
            translate(history, exc),
        )
        return False
    led: set[int] = set()
    stood_down: set[int] = set()
    for _, fields in events:
        token = int(fields[b"token"])
        if token <= since:
            break
        if fields[b"event"] == b"elected" and fields[b"holder"] != me.encode():
            led.add(token)
        elif fields[b"event"] == b"resigned" and fields[b"reason"].startswith(STOOD_DOWN.encode()):
            stood_down.add(token)
    return bool(led - stood_down)
