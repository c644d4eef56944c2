"""The lists by which a leader is spoken to, read by one blocking command."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import redis

from celery_safe_leader._core.messages import Part, Received
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.server_now import read_time

__all__ = ["RedisChannel"]


class RedisChannel:
    """Takes what was sent to the leader of one election. Does no IO until ``take()``.

    One thread at a time; ``interrupt()`` may be called from any thread, also in a signal handler.
    """

    def __init__(self, client: redis.Redis, keys: ElectionKeys, parts: Collection[Part]) -> None:
        """Make a channel.

        Args:
            client: Used for nothing else, without retries. Its read limit is above the longest
                ``timeout``.
            keys: Of the election.
            parts: Which of the lists to read; of several that have values the first.
        """
        self._client: Any = client  # execute_command has no annotations in redis-py
        names = {Part.REQUESTS: keys.ask, Part.CHANGES: keys.changes}
        self._parts = {names[part].encode(): part for part in parts}
        self._is_wanted: Callable[[], bool] = lambda: True
        settings = client.connection_pool.connection_kwargs
        self._connect_hook = settings.get("redis_connect_func") or (lambda each: each.on_connect())
        settings["redis_connect_func"] = self._on_connect

    def take(self, timeout: float, is_wanted: Callable[[], bool]) -> Received | None:
        """Take the oldest value, or wait for one.

        Args:
            timeout: Seconds to wait at most; above 0.
            is_wanted: Asked before a connection is opened; after an interruption it returns false.

        Returns:
            ``None`` if nothing came.

        Raises:
            StoreUnavailableError: No answer, or interrupted. A value may be lost.
            StoreRefusedError: Redis answered with an error.
        """
        self._is_wanted = is_wanted
        try:
            reply = self._client.execute_command("BLPOP", *self._parts, timeout)
        except (AttributeError, ValueError) as exc:
            # interrupt() takes the connection away under the read, and redis-py then raises
            # whatever it stumbles over ("I/O operation on closed file").
            error = redis.ConnectionError("the blocking read was interrupted")
            raise translate(self._name, error) from exc
        except (redis.RedisError, OSError) as exc:
            raise translate(self._name, exc) from exc
        if reply is None:
            return None
        name, value = reply
        return Received(self._parts[name], value)

    def now_us(self) -> int:
        """Return Redis's clock, in microseconds since 1970. On the thread of ``take()``.

        Raises:
            StoreError: No answer, or the user lacks the right.
        """
        try:
            return read_time(self._client)
        except (AttributeError, ValueError) as exc:  # as in take()
            raise translate(self._name, redis.ConnectionError("interrupted")) from exc

    def interrupt(self) -> None:
        """Break off a read, and close the connection."""
        self._client.connection_pool.disconnect()

    @property
    def _name(self) -> str:
        return next(iter(self._parts)).decode()

    def _on_connect(self, connection: Any) -> None:
        if not self._is_wanted():
            raise redis.ConnectionError("the blocking read was interrupted")
        self._connect_hook(connection)
