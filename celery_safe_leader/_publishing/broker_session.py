"""The connection of one publisher, with what is known as long as it lasts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import redis

from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._publishing.collector import MessageCollector
from celery_safe_leader._publishing.connection import broker_errors, open_connection
from celery_safe_leader._publishing.declarations import Declarations
from celery_safe_leader._publishing.eligibility import collector_for

__all__ = ["BrokerSession"]

_IDLE = 20.0
"""Seconds without use after which a connection is not trusted: firewalls forget, brokers close."""


class BrokerSession:
    """A connection to the broker that is opened when it is needed, and a producer on it.

    Not thread-safe. ``close()`` may be called from a signal handler.

    Args:
        app: The Celery app.
        timeout: Seconds that connecting, a read or a write may take.
    """

    def __init__(self, app: Any, timeout: float) -> None:
        self._app = app
        self._timeout = timeout
        self._connection: Any = None
        self._producer: Any = None
        self._owner = 0
        self._used_at = 0.0
        self.number = 0
        """Changes with each new connection to the broker, also where redis-py opens it unasked; 0
        before the first."""
        self.returned: list[Exception] = []
        """Messages that the broker gave back: they had no queue to go to."""
        self.errors: tuple[type[BaseException], ...] = ()
        """What the broker or the network raises."""
        self._message_errors: tuple[type[BaseException], ...] = ()
        self.declarations = Declarations()
        """What was declared on the connection."""
        self._collector: MessageCollector | str | None = None
        self._left: WeakSet[Any] = WeakSet()

    def open(self, *, may_be_idle: bool = False) -> Any:
        """Return a producer; connect first unless there is a connection to be trusted.

        Args:
            may_be_idle: Nothing will be read or written, so it does not matter how long the
                connection was not used.

        Raises:
            OperationalError: No connection.
        """
        if self._producer is not None and self._owner != os.getpid():
            # A fork: the socket is the parent's, too, and must not hear from us.
            self._forget()
        idle = time.monotonic() - self._used_at > _IDLE
        if self._producer is not None and idle and not may_be_idle:
            self.close()
        if self._producer is None:
            try:
                self._connect()
            except BaseException:
                self.close(broken=True)
                raise
        return self._producer

    def has_lost(self, producer: Any) -> bool:
        """Return whether a producer's connection was closed meanwhile, as by a signal handler.

        What kombu raises then may be anything, and no message is to blame.
        """
        return self._producer is not producer and producer not in self._left

    def is_broken_by(self, error: BaseException) -> bool:
        """Return whether an error is one of the connection, and not of one message only."""
        return not isinstance(error, self._message_errors)

    def collector(self) -> MessageCollector | str:
        """Return what collects messages on the open connection, or why they cannot be collected.

        Only for a broker against which ``why_not_connecting`` has nothing.
        """
        if self._collector is None:
            self._collector = collector_for(self._producer)
        return self._collector

    def abandon(self) -> Callable[[], None]:
        """Leave the connection to user code that uses it still. The next use opens another.

        Returns:
            What closes it, for when that code has returned.
        """
        connection = self._connection
        if connection is None:
            return lambda: None
        self._left.add(self._producer)
        self._forget()

        def close() -> None:
            try:
                connection.collect()
            except Exception:
                logger.debug("closing an abandoned connection failed", exc_info=True)

        return close

    def note_use(self) -> None:
        """Note that the broker has just answered."""
        self._used_at = time.monotonic()

    def close(self, *, broken: bool = False) -> None:
        """Close the connection, if there is one. The next use opens another.

        Args:
            broken: The broker is not told: the answer would not come.
        """
        connection = self._connection
        self._forget()
        if connection is None:
            return
        try:
            connection.collect() if broken else connection.release()
        except Exception:
            logger.debug("closing the connection to the broker failed", exc_info=True)

    def leave_value(self, key: str, value: str, seconds: int) -> str:
        """Write a value on the Redis that the connection leads to, without any prefix.

        Args:
            key: The key, as it is.
            value: The value.
            seconds: How long it is kept.

        Returns:
            The server's ``run_id``; empty where INFO is denied.

        Raises:
            Exception: What kombu and redis-py raise; the connection is closed.
        """
        channel = self.open().channel
        try:
            with channel.conn_or_acquire() as client:
                # Past kombu's client, which may prefix the key. One connection for both.
                pipeline: Any = redis.Redis.pipeline(client, transaction=False)
                pipeline.execute_command("SET", key, value, "EX", seconds)
                pipeline.execute_command("INFO", "server")
                written, info = pipeline.execute(raise_on_error=False)
        except BaseException:
            self.close(broken=True)
            raise
        self.note_use()
        if isinstance(written, Exception):
            self.close()
            raise written
        return str(info.get("run_id", "")) if isinstance(info, dict) else ""

    def _connect(self) -> None:
        self._connection = open_connection(self._app, self._timeout)
        self.errors = broker_errors(self._connection)
        self._message_errors = self._connection.channel_errors
        channel = self._connection.channel()
        if hasattr(channel, "events"):  # AMQP
            returned = self.returned
            channel.events["basic_return"].add(lambda exc, *_: returned.append(exc))
        self._count_connections(channel)
        self._producer = self._app.amqp.Producer(channel, auto_declare=False)
        self._owner = os.getpid()
        self.number += 1
        self.note_use()

    def _count_connections(self, channel: Any) -> None:
        """Count the connections that redis-py opens, which replaces a broken one unasked."""
        arguments = getattr(getattr(channel, "pool", None), "connection_kwargs", None)
        if not isinstance(arguments, dict):
            return
        greet = arguments.get("redis_connect_func") or (lambda connection: connection.on_connect())

        def on_connect(connection: Any) -> None:
            self.number += 1
            greet(connection)

        arguments["redis_connect_func"] = on_connect

    def _forget(self) -> None:
        self._connection = self._producer = None
        self.returned = []
        self.declarations = Declarations()
        self._collector = None
