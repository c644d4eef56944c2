"""Requests with plain values, and the shortest way to a leader."""

from __future__ import annotations

from celery_safe_leader._core.instant import Instant
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
from tests.contract.conftest import StoreUnderTest

NOW = Instant(0.0, 0.0, 0.0)


def observe(ttl: float = 10.0, token: int = 0, *, confirm: bool = False) -> Observe:
    return Observe(NOW, "n-observe", ttl, token, confirm)


def campaign(version: str, who: str = "a", *, token: int = 0, keep: bool = False) -> Campaign:
    return Campaign(NOW, version, who, f"n-{who}", 10.0, 20.0, token, keep)


def renew(token: int, who: str = "a") -> Renew:
    return Renew(NOW, who, token, f"n-{who}", 10.0, 20.0)


def resign(token: int, who: str = "a") -> Resign:
    return Resign(NOW, who, token, f"n-{who}", "resigned")


def ask(store: StoreUnderTest, request: Request) -> Answer:
    reply = store.execute(request)
    assert isinstance(reply, Answer)
    return reply


def win(store: StoreUnderTest, who: str = "a") -> Record:
    """Take whatever record there is."""
    answer = ask(store, campaign(ask(store, observe()).record.version, who))
    assert answer.status is ReplyStatus.ACCEPTED
    return answer.record
