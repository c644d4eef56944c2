"""Turns requests into script calls and raw replies into answers.

Milliseconds and bytes appear only here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import (
    Answer,
    Campaign,
    LedgerLook,
    Observe,
    Record,
    Renew,
    ReplyStatus,
    Request,
    Resign,
)
from celery_safe_leader._core.options import MAX_TTL
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from celery_safe_leader._store.lua import Script, load
from celery_safe_leader.errors import StoreRefusedError

__all__ = [
    "ScriptCall",
    "by_connection",
    "checked_replies",
    "decode",
    "encode",
    "encode_looking",
    "encode_saying",
    "shown",
]

_PACKAGE = "celery_safe_leader._store"
_END = 2**53
_RECORD_LENGTH = 7  # fields of a reply before those of a look
_LONGEST = 256
"""Characters of a holder that are shown."""


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One script call."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | bytes, ...]
    confirm: bool
    """Whether replicas have to confirm it, if the candidate asks any."""

    @property
    def command(self) -> tuple[str | bytes | int, ...]:
        """Arguments of ``EVALSHA`` after its name."""
        return (self.script.sha, len(self.keys), *self.keys, *self.args)

    @property
    def full_command(self) -> tuple[str | bytes | int, ...]:
        """Arguments of ``EVAL`` after its name, for a server that does not know the script."""
        return (self.script.text, *self.command[1:])


def encode(request: Request, keys: ElectionKeys) -> ScriptCall:
    """Return the script call of a request."""
    if isinstance(request, Observe):
        witness = "1" if request.confirm else ""
        looking = (request.nonce, _ms(request.ttl), str(request.token), witness)
        # One key if possible: while a slot migrates, a cluster refuses requests for several.
        seen = (keys.lease, keys.witness) if request.confirm else (keys.lease,)
        return _call("observe", seen, looking, request.confirm)
    if isinstance(request, Campaign):
        return _call(
            "campaign",
            (keys.lease, keys.history, keys.wake),
            (
                request.version.encode("utf-8", "surrogateescape"),
                request.candidate_id,
                request.nonce,
                _ms(request.ttl),
                _ms(request.longest_ttl),
                str(request.token),
                "1" if request.keep else "",
            ),
            True,
        )
    if isinstance(request, Renew):
        ttls = (_ms(request.ttl), _ms(request.longest_ttl))
        renewing = (request.candidate_id, str(request.token), request.nonce, *ttls)
        return _call("renew", (keys.lease,), renewing, True)
    if isinstance(request, Resign):
        favoured = ("to", request.successor) if request.successor else ()
        me, token = request.candidate_id, str(request.token)
        resigning = (me, token, request.nonce, request.reason, *favoured)
        return _call("resign", (keys.lease, keys.history, keys.wake), resigning, False)
    raise TypeError(f"{type(request).__name__} is not a script call")


def encode_looking(request: Renew, keys: ElectionKeys) -> ScriptCall:
    """Return the script call of a renewal that also looks at the ledger of the election's key."""
    call, ledger = encode(request, keys), LedgerKeys(keys.key, keys.prefix)
    looking = (*call.keys, ledger.runs, ledger.pending)
    return replace(call, keys=looking, args=(*call.args, "1"))


def encode_saying(
    call: ScriptCall, keys: ElectionKeys, me: str, text: str, cursor: str
) -> ScriptCall:
    """Return the call of an observation or a renewal with what the candidate says of itself.

    Args:
        call: As ``encode`` or ``encode_looking`` made it.
        keys: Of the election.
        me: Candidate id.
        text: What it says.
        cursor: From where to look for candidates that say no more; empty not to.
    """
    # A renewal that does not look has no argument that says so.
    gap = ("",) if call.script.name == "renew" and len(call.keys) == 1 else ()
    saying = (*call.args, *gap, me, text, cursor)
    return replace(call, keys=(*call.keys, keys.presences), args=saying)


def by_connection(call: ScriptCall, keys: ElectionKeys, label: str) -> ScriptCall:
    """Return a call that identifies the server by its connection instead of by INFO.

    Args:
        call: As ``encode`` made it.
        keys: Names of the election's keys.
        label: Of the connection that the call will be sent over.
    """
    script = _script(call.script.name, "connection")
    return ScriptCall(script, (*call.keys, keys.witness), (*call.args, label), call.confirm)


def decode(
    raw: object, keys: ElectionKeys, *, confirmed: bool = True, looked_at: Instant | None = None
) -> Answer:
    """Return the answer that a script replied with.

    Args:
        raw: The reply, as redis-py returns it.
        keys: Of the election.
        confirmed: Whether enough replicas confirmed.
        looked_at: A moment before the request was sent, if it looked at the ledger.

    Raises:
        StoreRefusedError: The reply does not have the shape that our scripts give it.
    """
    try:
        fields = _fields(raw)
        look = None
        if looked_at is not None:
            fields, seen = fields[:_RECORD_LENGTH], fields[_RECORD_LENGTH:]
            look = _look(looked_at, *seen)
        status, version, epoch, holder, token, ttl_ms, marks = map(_text, fields)
        resigned, _, successor = marks.partition(" ")
        record = Record(
            version,
            epoch,
            shown(holder),
            _whole(token),
            min(_whole(ttl_ms) / 1000, MAX_TTL),
            resigned == "1",
            given_up=resigned == "2",
            successor=successor,
        )
        known = ReplyStatus(status)
    except (TypeError, ValueError) as exc:
        detail = f"the server's reply has an unknown shape ({ascii(raw)[:80]})"
        raise StoreRefusedError(keys.lease, detail) from exc
    return Answer(known, record, confirmed, look)


def checked_replies(replies: Sequence[Any]) -> tuple[Any, int | None]:
    """Return the reply of a script and that of ``WAIT``, ``None`` if that was not sent along.

    Raises:
        Exception: Whatever redis-py put in place of a reply.
    """
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies[0], int(replies[1]) if len(replies) > 1 else None


def shown(text: str) -> str:
    """Return a string of unknown origin in a form that is safe in one line of a log."""
    if text.isprintable() and len(text) <= _LONGEST:
        return text
    plain = text[:_LONGEST].encode("unicode_escape", "surrogateescape").decode("ascii", "replace")
    return f"{plain[:_LONGEST]}…" if len(plain) > _LONGEST else plain


def _whole(text: str) -> int:
    """Return a number as the scripts write it: digits, below 2^53.

    Raises:
        ValueError: It is anything else.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_END)) and int(text) < _END):
        raise ValueError(text[:80])
    return int(text)


def _fields(raw: object) -> Sequence[Any]:
    if not isinstance(raw, Sequence) or isinstance(raw, (str, bytes)):
        raise TypeError("not a list")
    return raw


def _text(field: object) -> str:
    # surrogateescape: a version goes back to the server byte for byte, whatever the record holds.
    return field.decode("utf-8", "surrogateescape") if isinstance(field, bytes) else str(field)


def _look(sent_at: Instant, runs: object, pending: object, server_us: object) -> LedgerLook:
    if not (isinstance(runs, bytes) and isinstance(pending, bytes)):
        raise TypeError("not a look")
    return LedgerLook(sent_at, runs, pending, _whole(_text(server_us)))


def _call(
    name: str, keys: tuple[str, ...], args: tuple[str | bytes, ...], confirm: bool
) -> ScriptCall:
    return ScriptCall(_script(name, "epoch"), keys, args, confirm)


def _script(name: str, identity: str) -> Script:
    """Return a script that tells one server from another in one of the two ways."""
    presence = ("presence",) if name in ("observe", "renew") else ()
    return load(_PACKAGE, name, identity, "record", *presence)


def _ms(seconds: float) -> str:
    """Return milliseconds, rounded up so that a standby waits longer rather than shorter."""
    return str(math.ceil(seconds * 1000))
