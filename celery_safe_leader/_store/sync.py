"""The store of a blocking candidate: runs scripts on redis-py's client."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import redis

from celery_safe_leader._core.messages import Await, Reply, Request, Woken
from celery_safe_leader._store.codec import ScriptCall, decode, encode, flight
from celery_safe_leader._store.connection.failover import ask_there, is_elsewhere_for_now
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.server_check import ServerCheck
from celery_safe_leader._store.server_identity import ANY_COMMAND, ServerIdentity

__all__ = ["RedisStore"]


class RedisStore:
    """Executes requests, each at most once: nothing here repeats what may have been executed.

    One thread at a time; ``interrupt()`` and ``close()`` come from any thread.
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
        self._reading: Await | None = None
        self._interrupted: Await | None = None
        self._broken_off = threading.Event()
        self._lineage = ServerIdentity(keys)
        self._checkup = ServerCheck(keys)
        settings = client.connection_pool.connection_kwargs
        self._greet_first = settings.get("redis_connect_func") or (lambda each: each.on_connect())
        settings["redis_connect_func"] = self._first_connected
        settings = waiting_client.connection_pool.connection_kwargs
        self._greet = settings.get("redis_connect_func") or (lambda each: each.on_connect())
        settings["redis_connect_func"] = self._connected
        self._wait_replicas = wait_replicas
        self._confirm_ms = max(1, int(confirm_timeout * 1000))

    def execute(self, request: Request) -> Reply:
        """Execute a request and return its reply.

        Raises:
            StoreUnavailableError: No answer; it may have been executed.
            StoreRefusedError: Redis answered with an error, or with something else than a record.
        """
        try:
            if isinstance(request, Await):
                self._reading = request
                return Woken(self._await(request.timeout))
            call = encode(request, self.keys)
            raw, confirmations = self._run(call)
            self._look_around()
        except (redis.RedisError, OSError) as exc:
            key = self.keys.wake if isinstance(request, Await) else self.keys.lease
            raise translate(key, exc) from exc
        confirmed = confirmations is None or confirmations >= self._wait_replicas
        return decode(raw, self.keys, confirmed=confirmed)

    def interrupt(self, request: Await | None = None) -> None:
        """Break a blocking read off. From any thread.

        Args:
            request: The read that is meant: if it is only about to begin, it never does.
        """
        # In this order: whichever connection is open is closed, and a new one meets the check.
        self._interrupted = request
        self._broken_off.set()
        self._waiting_client.connection_pool.disconnect()

    def _connected(self, connection: Any) -> None:
        """Greet the server, unless the read for which it was connected is off already."""
        if self._interrupted is not None and self._interrupted is self._reading:
            raise redis.exceptions.ConnectionError("the blocking read was broken off")
        self._greet(connection)

    def _first_connected(self, connection: Any) -> None:
        """Greet the server, over a connection that is another one from now on."""
        self._lineage.connected()
        self._greet_first(connection)

    def close(self) -> None:
        """Close all connections. From any thread."""
        self._client.connection_pool.disconnect()
        self._waiting_client.connection_pool.disconnect()

    def _await(self, timeout: float) -> bool:
        try:
            reply = self._waiting_client.execute_command("BLPOP", self.keys.wake, timeout)
        except (AttributeError, ValueError) as exc:
            # interrupt() takes the connection away under the read, and redis-py then raises
            # whatever it stumbles over ("I/O operation on closed file").
            raise redis.ConnectionError("the pause was broken off") from exc
        except redis.exceptions.AskError as exc:
            if not is_elsewhere_for_now(exc):
                raise
            # While the slot migrates, there is nothing to block on.
            self._broken_off.clear()
            if self._interrupted is None or self._interrupted is not self._reading:
                self._broken_off.wait(timeout)
            return False
        return reply is not None

    def _run(self, call: ScriptCall) -> tuple[Any, int | None]:
        try:
            return self._run_known(call)
        except redis.ResponseError as exc:
            if self._lineage.by_connection or not self._lineage.denied(exc):
                raise
            return self._run_known(call)

    def _run_known(self, call: ScriptCall) -> tuple[Any, int | None]:
        """Run a call in a way that tells one server from another."""
        if not self._lineage.by_connection:
            return self._run_once(call)
        pool = self._client.connection_pool
        pool.release(pool.get_connection(*ANY_COMMAND))  # connects, if it has to
        label = self._lineage.label
        result = self._run_once(self._lineage.labelled(call))
        self._lineage.check(label)
        return result

    def _run_once(self, call: ScriptCall) -> tuple[Any, int | None]:
        confirm = call.confirm and self._wait_replicas > 0
        try:
            return self._send("EVALSHA", *call.command, confirm=confirm)
        except redis.exceptions.NoScriptError:
            # The server said that it ran nothing, so this is no second execution.
            return self._send("EVAL", *call.full_command, confirm=confirm)

    def _look_around(self) -> None:
        """Check the server, once: whatever comes of it, the election goes on."""
        if self._checkup.due and not self._lineage.by_connection:
            self._checkup.due = False
            with contextlib.suppress(redis.RedisError, OSError):
                self._checkup.take(self._client.execute_command("INFO"))

    def _send(self, *command: str | bytes | int, confirm: bool) -> tuple[Any, int | None]:
        try:
            return self._send_here(*command, confirm=confirm)
        except redis.exceptions.AskError as exc:
            if not is_elsewhere_for_now(exc):
                raise
            wait = [("WAIT", self._wait_replicas, self._confirm_ms)] if confirm else []
            replies = ask_there(self._client.connection_pool, exc, [command, *wait])
            raw, confirmations = flight(*replies, *([] if confirm else [0]))
            return raw, confirmations if confirm else None

    def _send_here(self, *command: str | bytes | int, confirm: bool) -> tuple[Any, int | None]:
        if not confirm:
            return self._client.execute_command(*command), None
        # One connection, one flight: WAIT speaks of the writes of its own connection only.
        pipeline = self._client.pipeline(transaction=False)
        pipeline.execute_command(*command)
        pipeline.execute_command("WAIT", self._wait_replicas, self._confirm_ms)
        return flight(*pipeline.execute(raise_on_error=False))
