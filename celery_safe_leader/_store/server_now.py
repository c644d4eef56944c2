"""Reads a server's clock and epoch from outside, as far as the Redis user may."""

from __future__ import annotations

from typing import Any

import redis

from celery_safe_leader._store.errors import translate

__all__ = ["read_epoch", "read_time"]


def read_time(client: redis.Redis) -> int:
    """Return Redis's clock, in microseconds since 1970. Sends one ``TIME``.

    Raises:
        StoreError: No answer, or the user lacks the right.
    """
    seconds, micros = _execute(client, "TIME")
    return int(seconds) * 1_000_000 + int(micros)


def read_epoch(client: redis.Redis) -> str:
    """Return the epoch of the server, as the scripts of the election write it into a record.

    Sends two ``INFO``.

    Raises:
        StoreError: No answer, or the user lacks the right.
    """
    run_id = _execute(client, "INFO", "server").get("run_id", "")
    return f"{run_id}:{_execute(client, 'INFO', 'replication').get('master_replid', '')}"


def _execute(client: Any, *command: str) -> Any:
    try:
        return client.execute_command(*command)
    except (redis.RedisError, OSError) as exc:
        raise translate(command[0], exc) from exc
