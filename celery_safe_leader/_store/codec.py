"""Turns requests into script calls and raw replies into answers.

Milliseconds and bytes appear only here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery_safe_leader._core.messages import (
    Answer,
    Campaign,
    Observe,
    Record,
    Renew,
    ReplyStatus,
    Request,
    Resign,
)
from celery_safe_leader._core.options import MAX_TTL
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.lua import Script, load
from celery_safe_leader.errors import StoreRefusedError

__all__ = ["ScriptCall", "by_connection", "checked_replies", "decode", "encode", "shown"]

_PACKAGE = "celery_safe_leader._store"
_END = 2**53
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
        resigning = (request.candidate_id, str(request.token), request.nonce, request.reason)
        return _call("resign", (keys.lease, keys.history, keys.wake), resigning, False)
    raise TypeError(f"{type(request).__name__} is not a script call")


def by_connection(call: ScriptCall, keys: ElectionKeys, label: str) -> ScriptCall:
    """Return a call that identifies the server by its connection instead of by INFO.

    Args:
        call: As ``encode`` made it.
        keys: Names of the election's keys.
        label: Of the connection that the call will be sent over.
    """
    script = load(_PACKAGE, call.script.name, "connection", "record")
    return ScriptCall(script, (*call.keys, keys.witness), (*call.args, label), call.confirm)


def decode(raw: object, keys: ElectionKeys, *, confirmed: bool = True) -> Answer:
    """Return the answer that a script replied with.

    Raises:
        StoreRefusedError: The reply does not have the shape that our scripts give it.
    """
    try:
        status, version, epoch, holder, token, ttl_ms, resigned = _texts(raw)
        record = Record(
            version,
            epoch,
            shown(holder),
            _whole(token),
            min(_whole(ttl_ms) / 1000, MAX_TTL),
            resigned == "1",
            given_up=resigned == "2",
        )
        known = ReplyStatus(status)
    except (TypeError, ValueError) as exc:
        detail = f"the server's reply has an unknown shape ({ascii(raw)[:80]})"
        raise StoreRefusedError(keys.lease, detail) from exc
    return Answer(known, record, confirmed)


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


def _texts(raw: object) -> list[str]:
    if not isinstance(raw, Sequence) or isinstance(raw, (str, bytes)):
        raise TypeError("not a list")
    # surrogateescape: a version goes back to the server byte for byte, whatever the record holds.
    return [
        item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)
        for item in raw
    ]


def _call(
    name: str, keys: tuple[str, ...], args: tuple[str | bytes, ...], confirm: bool
) -> ScriptCall:
    return ScriptCall(load(_PACKAGE, name, "epoch", "record"), keys, args, confirm)


def _ms(seconds: float) -> str:
    """Return milliseconds, rounded up so that a standby waits longer rather than shorter."""
    return str(math.ceil(seconds * 1000))
