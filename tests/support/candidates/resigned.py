"""Elections whose last leader resigned, so that the next one need not wait for a lease."""

from __future__ import annotations

import uuid

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import (
    Answer,
    Campaign,
    Observe,
    ReplyStatus,
    Request,
    Resign,
)
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.sync import RedisStore

__all__ = ["leave_resigned"]

_NOW = Instant(0.0, 0.0, 0.0)
_TTL = 0.3


def leave_resigned(url: str, key: str, role: str = "") -> None:
    """Win an election and resign, as a leader does that is told to stop.

    The first candidate of an election waits for as long as its own ttl, since somebody may lead.
    Tests that say nothing about that can so have a ttl that outlasts every pause of a busy machine.

    Args:
        url: Of the server.
        key: Name of the election.
        role: ``"beat"`` or ``"worker"``; empty for a library's election.
    """
    keys = ElectionKeys(key, role)
    clients = [make_client(url, connect_timeout=10, read_timeout=10) for _ in range(2)]
    store, nonce = RedisStore(clients[0], clients[1], keys), uuid.uuid4().hex

    def ask(request: Request) -> Answer:
        reply = store.execute(request)
        assert isinstance(reply, Answer)
        return reply

    try:
        seen = ask(Observe(_NOW, nonce, _TTL, 0, False)).record
        won = ask(Campaign(_NOW, seen.version, "former", nonce, _TTL, _TTL, 0, False))
        assert won.status is ReplyStatus.ACCEPTED, won
        resigned = ask(Resign(_NOW, "former", won.record.token, nonce, "resigned"))
        assert resigned.status is ReplyStatus.RESIGNED, resigned
    finally:
        store.close()
