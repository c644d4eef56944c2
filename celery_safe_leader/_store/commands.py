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

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Await, Leave, Observe, Renew, Reply, Request, Woken
from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._store.announcements import Announcements
from celery_safe_leader._store.codec import (
    ScriptCall,
    checked_replies,
    decode,
    encode,
    encode_looking,
    encode_saying,
)
from celery_safe_leader._store.connection.failover import is_ask
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import BEAT, ElectionKeys
from celery_safe_leader._store.server_check import ServerCheck
from celery_safe_leader._store.server_identity import ServerIdentity

__all__ = ["STEP_ERRORS", "Block", "Command", "Connect", "Resend", "Send", "Step", "StoreCommands"]

Command: TypeAlias = tuple[str | bytes | int, ...]

STEP_ERRORS = (redis.RedisError, OSError)
"""Errors of a step that are passed to the generator; any other ends it."""

_TOO_MANY_KEYS = (
    redis.exceptions.NoPermissionError,
    redis.exceptions.ClusterCrossSlotError,
    redis.exceptions.TryAgainError,  # while a slot migrates
)
"""Errors by which a server refuses a request for its keys, before it runs anything."""


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
_Extended: TypeAlias = tuple[Any, int | None, Instant | None]
"""The reply of a script, replicas that confirmed, and when the ledger was looked at, if it was."""


class StoreCommands:
    """Turns requests into steps, for one store. Repeats nothing that may have been executed.

    Args:
        keys: Names of the election's keys.
        wait_replicas: Replicas that must confirm a lease.
        confirm_timeout: Seconds that the server waits for them.
        secrets: What no error may show.
    """

    def __init__(
        self,
        keys: ElectionKeys,
        wait_replicas: int,
        confirm_timeout: float,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.keys = keys
        self._secrets = secrets
        self.server_identity = ServerIdentity(keys)
        self._server_check = ServerCheck(keys)
        self._token_without_look = 0
        """Of the tenure in which the server refuses to look at the ledger with a renewal."""
        self.announcements = Announcements(keys)
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
            if isinstance(request, Leave):
                me = self.announcements.taken_back()
                if me:
                    yield Send((("HDEL", self.keys.presences, me),))
                return Woken(False)
            if isinstance(request, Observe | Renew):
                raw, confirmations, looked_at = yield from self._run_extended(request)
            else:
                raw, confirmations = yield from self._run(encode(request, self.keys))
                looked_at = None
            yield from self._check_server()
        except STEP_ERRORS as exc:
            key = self.keys.wake if isinstance(request, Await) else self.keys.lease
            raise translate(key, exc, self._secrets) from exc
        confirmed = confirmations is None or confirmations >= self._wait_replicas
        return decode(raw, self.keys, confirmed=confirmed, looked_at=looked_at)

    def _looks(self, renewal: Renew) -> bool:
        return self.keys.role == BEAT and renewal.token != self._token_without_look

    def _run_extended(self, request: Observe | Renew) -> Generator[Step, Any, _Extended]:
        """Observe or renew, with what goes along with it."""
        renewal = request if isinstance(request, Renew) else None
        if renewal is not None and self._looks(renewal):
            call, looked_at = encode_looking(renewal, self.keys), renewal.sent_at
        else:
            call, looked_at, renewal = encode(request, self.keys), None, None
        said = self.announcements.due(request.sent_at)
        if said is None:
            return (yield from self._renew_looking(renewal, call, looked_at))
        saying = encode_saying(call, self.keys, *said)
        try:
            raw, confirmations = yield from self._run(saying)
        except _TOO_MANY_KEYS as refusal:
            result = yield from self._renew_looking(renewal, call, looked_at)
            if isinstance(refusal, redis.exceptions.TryAgainError):
                self.announcements.put_off(request.sent_at)
            elif result[2] is looked_at:  # else it was the look that was refused
                self.announcements.refused(str(refusal), request.sent_at)
            return result
        if isinstance(raw, list) and raw:
            self.announcements.answered(raw[-1], request.sent_at)
            raw = raw[:-1]
        return raw, confirmations, looked_at

    def _renew_looking(
        self, renewal: Renew | None, call: ScriptCall, looked_at: Instant | None
    ) -> Generator[Step, Any, _Extended]:
        """Run a call; if it looks at the ledger, at once without that if the server refuses it.

        Args:
            renewal: What looks; ``None`` if nothing does.
            call: Of it.
            looked_at: When it was sent, if it looks.
        """
        try:
            return (*(yield from self._run(call)), looked_at)
        except _TOO_MANY_KEYS as exc:
            if renewal is None:
                raise
            if not isinstance(exc, redis.exceptions.TryAgainError):
                self._token_without_look = renewal.token
            refusal = exc
        # A renewal that is executed twice does no harm: the lease counts from before the first.
        result = yield from self._run(encode(renewal, self.keys))
        if self._token_without_look == renewal.token:
            logger.warning(
                "Election %s: renewals cannot look at the ledger (%s), so this leader looks "
                "in a request of its own",
                self.keys.election,
                " ".join(str(refusal).split()),
            )
        return (*result, None)

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
