"""What the blocking and the asyncio store send for a request: one generator of steps for both.

The generator decides what is sent next by the replies. It does no IO: a store performs each step
and passes the reply, or the error, back in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

import redis

from celery_safe_leader._core.messages import Await, Reply, Request, Woken
from celery_safe_leader._store.codec import ScriptCall, checked_replies, decode, encode
from celery_safe_leader._store.connection.failover import is_ask
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.server_check import ServerCheck
from celery_safe_leader._store.server_identity import ServerIdentity

__all__ = ["STEP_ERRORS", "Block", "Command", "Connect", "Resend", "Send", "Step", "StoreCommands"]

Command: TypeAlias = tuple[str | bytes | int, ...]

STEP_ERRORS = (redis.RedisError, OSError)
"""Errors of a step that are passed to the generator; any other ends it."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect for requests, if there is no connection yet."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send commands over one connection, in one flight, and return their replies as a list.

    Of a single command an error is raised. Of several, errors stand in place of their replies.
    """

    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Resend:
    """Send commands to the cluster node that an ``ASK`` named; errors stand among the replies."""

    error: redis.exceptions.AskError
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Wait on the list that a resigning leader fills, and return whether it did."""

    request: Await


Step: TypeAlias = Connect | Send | Resend | Block


class StoreCommands:
    """Turns requests into steps, for one store. Repeats nothing that may have been executed.

    Args:
        keys: Names of the election's keys.
        wait_replicas: Replicas that must confirm a lease.
        confirm_timeout: Seconds that the server waits for them.
    """

    def __init__(self, keys: ElectionKeys, wait_replicas: int, confirm_timeout: float) -> None:
        self.keys = keys
        self.server_identity = ServerIdentity(keys)
        self._server_check = ServerCheck(keys)
        self._wait_replicas = wait_replicas
        self._wait: Command = ("WAIT", wait_replicas, max(1, int(confirm_timeout * 1000)))

    def execute(self, request: Request) -> Generator[Step, Any, Reply]:
        """Yield the steps that execute a request, take their replies, and return the reply.

        Raises:
            StoreUnavailableError: No answer; the request may have been executed.
            StoreRefusedError: Redis answered with an error, or with something else than a record.
        """
        try:
            if isinstance(request, Await):
                return Woken((yield Block(request)))
            raw, confirmations = yield from self._run(encode(request, self.keys))
            yield from self._check_server()
        except STEP_ERRORS as exc:
            key = self.keys.wake if isinstance(request, Await) else self.keys.lease
            raise translate(key, exc) from exc
        confirmed = confirmations is None or confirmations >= self._wait_replicas
        return decode(raw, self.keys, confirmed=confirmed)

    def _run(self, call: ScriptCall) -> Generator[Step, Any, tuple[Any, int | None]]:
        try:
            return (yield from self._run_identified(call))
        except redis.ResponseError as exc:
            identity = self.server_identity
            if identity.by_connection or not identity.denied(exc):
                raise
            return (yield from self._run_identified(call))

    def _run_identified(self, call: ScriptCall) -> Generator[Step, Any, tuple[Any, int | None]]:
        """Run a call in a way that tells one server from another."""
        identity = self.server_identity
        if not identity.by_connection:
            return (yield from self._run_once(call))
        yield Connect()
        label = identity.label
        result = yield from self._run_once(identity.labelled(call))
        identity.check(label)
        return result

    def _run_once(self, call: ScriptCall) -> Generator[Step, Any, tuple[Any, int | None]]:
        wait = (self._wait,) if call.confirm and self._wait_replicas > 0 else ()
        try:
            return (yield from self._send((("EVALSHA", *call.command), *wait)))
        except redis.exceptions.NoScriptError:
            # The server said that it ran nothing, so this is not a second execution.
            return (yield from self._send((("EVAL", *call.full_command), *wait)))

    def _send(self, commands: tuple[Command, ...]) -> Generator[Step, Any, tuple[Any, int | None]]:
        try:
            # One connection, one flight: WAIT speaks of the writes of its own connection only.
            return checked_replies((yield Send(commands)))
        except redis.exceptions.AskError as exc:
            if not is_ask(exc):
                raise
            return checked_replies((yield Resend(exc, commands)))

    def _check_server(self) -> Generator[Step, Any, None]:
        """Check the server, once; the election goes on whatever comes of it."""
        if self._server_check.due and not self.server_identity.by_connection:
            self._server_check.due = False
            with contextlib.suppress(*STEP_ERRORS):
                (info,) = yield Send((("INFO",),))
                self._server_check.check(info)
