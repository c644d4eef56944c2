"""The store of a blocking candidate: runs scripts on redis-py's client."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import redis

from celery_safe_leader._core.messages import Await, Reply, Request
from celery_safe_leader._store.commands import (
    STEP_ERRORS,
    Block,
    Connect,
    Resend,
    Step,
    StoreCommands,
)
from celery_safe_leader._store.connection.failover import is_ask, resend_after_ask
from celery_safe_leader._store.errors import secrets_of
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.server_identity import ANY_COMMAND

__all__ = ["RedisStore"]


class RedisStore:
    """Executes requests, each at most once: nothing here repeats what may have been executed.

    One thread at a time; ``interrupt()`` and ``close()`` may be called from any thread.
    """

    def __init__(
        self,
        client: redis.Redis,
        waiting_client: redis.Redis,
        keys: ElectionKeys,
        *,
        wait_replicas: int = 0,
        confirm_timeout: float = 1.0,
    ) -> None:
        """Make a store. Does no IO.

        Args:
            client: For requests; has time limits well below the ttl and no retries.
            waiting_client: For the blocking read; its read limit is above ``wait``.
            keys: Names of the election's keys.
            wait_replicas: Replicas that must confirm a lease.
            confirm_timeout: Seconds that the server waits for them.
        """
        self.keys = keys
        # Any: execute_command has no annotations in redis-py.
        self._client: Any = client
        self._waiting_client: Any = waiting_client
        secrets = secrets_of(client.connection_pool.connection_kwargs)
        self._commands = StoreCommands(keys, wait_replicas, confirm_timeout, secrets)
        self._reading: Await | None = None
        self._interrupted: Await | None = None
        self._interrupt = threading.Event()
        settings = client.connection_pool.connection_kwargs
        self._connect_hook = settings.get("redis_connect_func") or (lambda each: each.on_connect())
        settings["redis_connect_func"] = self._on_connect
        settings = waiting_client.connection_pool.connection_kwargs
        self._waiting_connect_hook = settings.get("redis_connect_func") or (
            lambda each: each.on_connect()
        )
        settings["redis_connect_func"] = self._on_waiting_connect

    def execute(self, request: Request) -> Reply:
        """Execute a request and return its reply.

        Raises:
            StoreUnavailableError: No answer; it may have been executed.
            StoreRefusedError: Redis answered with an error, or with something else than a record.
        """
        steps = self._commands.execute(request)
        try:
            step = next(steps)
            while True:
                try:
                    reply = self._perform(step)
                except STEP_ERRORS as exc:
                    step = steps.throw(exc)
                else:
                    step = steps.send(reply)
        except StopIteration as done:
            answer: Reply = done.value
            return answer

    def announce(self, read: Callable[[], tuple[str, str]], every: float) -> None:
        """Let the candidate say something of itself along with observations and renewals.

        Args:
            read: Returns its id, and what it says; called on the thread of ``execute()``.
            every: Seconds: not more often.
        """
        self._commands.announcements.begin(read, every)

    def interrupt(self, request: Await | None = None) -> None:
        """Abort a blocking read. From any thread.

        Args:
            request: The read that is meant: if it is only about to begin, it never does.
        """
        # In this order: whichever connection is open is closed, and a new one meets the check.
        self._interrupted = request
        self._interrupt.set()
        self._waiting_client.connection_pool.disconnect()

    def close(self) -> None:
        """Close all connections. From any thread."""
        self._client.connection_pool.disconnect()
        self._waiting_client.connection_pool.disconnect()

    def _on_connect(self, connection: Any) -> None:
        """Run the connect hook; the server may be another one from now on."""
        self._commands.server_identity.connected()
        self._connect_hook(connection)

    def _on_waiting_connect(self, connection: Any) -> None:
        """Run the connect hook unless the read that opened the connection was cancelled."""
        if self._interrupted is not None and self._interrupted is self._reading:
            raise redis.exceptions.ConnectionError("the blocking read was interrupted")
        self._waiting_connect_hook(connection)

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Block):
            return self._block(step.request)
        pool = self._client.connection_pool
        if isinstance(step, Connect):
            return pool.release(pool.get_connection(*ANY_COMMAND))  # connects if necessary
        if isinstance(step, Resend):
            return resend_after_ask(pool, step.error, step.commands)
        if len(step.commands) == 1:
            return [self._client.execute_command(*step.commands[0])]
        pipeline = self._client.pipeline(transaction=False)
        for command in step.commands:
            pipeline.execute_command(*command)
        return pipeline.execute(raise_on_error=False)

    def _block(self, request: Await) -> bool:
        self._reading = request
        try:
            reply = self._waiting_client.execute_command("BLPOP", self.keys.wake, request.timeout)
        except (AttributeError, ValueError) as exc:
            # interrupt() takes the connection away under the read, and redis-py then raises
            # whatever it stumbles over ("I/O operation on closed file").
            raise redis.ConnectionError("the blocking read was interrupted") from exc
        except redis.exceptions.AskError as exc:
            if not is_ask(exc):
                raise
            # While the slot migrates, there is nothing to block on.
            self._interrupt.clear()
            if self._interrupted is None or self._interrupted is not self._reading:
                self._interrupt.wait(request.timeout)
            return False
        return reply is not None
