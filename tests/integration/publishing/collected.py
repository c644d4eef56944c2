"""Messages that are collected, and what a Redis holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery.beat import ScheduleEntry
from kombu.messaging import Producer

from celery_safe_leader._dispatch.outcomes import Collected
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.publisher import Publisher
from tests.support.celery.periodic import DUE_US
from tests.support.servers import Server

__all__ = ["LARGEST", "build", "collect", "collect_one", "lists_of", "needs_batches", "payload"]

LARGEST = 128 * 1024
"""Bytes of a message that a script may carry."""

needs_batches = pytest.mark.skipif(not hasattr(Producer, "batch"), reason="kombu before 5.7")


def build(app: Any, number: int = 1, **fields: Any) -> Any:
    """Build the message of an entry."""
    given = {"name": f"entry-{number}", "task": "tests.plain", "schedule": 1, "args": (number, 0)}
    entry = ScheduleEntry(**{**given, **fields}, app=app)
    return Builder(app).build(entry, task_id=f"id-{number}", headers={}, due_us=DUE_US)


def collect(publisher: Publisher, *messages: Any) -> list[Any]:
    """Collect messages whose time to live counts from the due moment."""
    return publisher.collect(messages, [DUE_US] * len(messages))


def collect_one(publisher: Publisher, message: Any) -> Collected:
    """Collect a message that is plain."""
    found = collect(publisher, message)[0]
    assert isinstance(found, Collected), found
    return found


def lists_of(server: Server, db: int = 0) -> dict[bytes, list[bytes]]:
    """Read all lists of a server."""
    client: Any = server.client(decode_responses=False)
    client.execute_command("SELECT", db)
    return {key: client.lrange(key, 0, -1) for key in client.scan_iter(count=1000, _type="list")}


def payload(message: bytes) -> dict[str, Any]:
    """Decode a message, without what is random in each."""
    found: dict[str, Any] = json.loads(message)
    del found["properties"]["delivery_tag"]
    for name in ("election", "occurrence", "token", "covers", "publication"):
        found["headers"].pop(f"leader_{name}", None)
    return found
