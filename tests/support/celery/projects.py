"""Entries of public projects, with the settings beside them that a message shows.

Each is written anew from what was read at the commit named: the options of an entry and the
settings that have a say in its message, under queues of the test. Names of tasks are ours. Nothing
of the projects' own code is here.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from kombu.entity import Exchange, Queue

from tests.support.celery.periodic import Case

__all__ = ["PROJECTS"]


class Priority(int, Enum):
    """As onyx has it: a number to JSON and to kombu, and an object to Python."""

    MEDIUM = 2


def _sharing_an_exchange(name: str) -> dict[str, Any]:
    exchange = Exchange(f"{name}-shared")
    queues = [Queue(f"{name}-{each}", exchange, routing_key=each) for each in ("a", "b")]
    return {
        "task_queues": [Queue(name, exchange, routing_key=f"{name}.own"), *queues],
        "task_create_missing_queues": False,
    }


def _by_text(name: str) -> dict[str, Any]:
    queue = _text(name)
    return {
        "task_queues": [Queue(queue, Exchange(queue), routing_key=queue)],
        "task_default_queue": queue,
        "task_default_exchange": queue,
        "task_default_routing_key": queue,
    }


def _text(name: str) -> Any:
    """Return text whose class is not ``str``: a member of an enumeration, as the Palace has it."""
    QueueNames = Enum("QueueNames", {"default": name}, type=str)  # noqa: N806
    return QueueNames["default"]


def _enqueued_at(headers: Any = None, **_: Any) -> None:
    headers.setdefault("enqueued_at", "2026-01-01T00:00:00+00:00")


PROJECTS = [
    Case(
        "mozilla/treeherder 0119af3",
        args=(),
        task="tests.any",
        options=lambda name: {"queue": name},
        conf=_sharing_an_exchange,
    ),
    Case(
        "onyx-dot-app/onyx 04bbe10",
        options=lambda name: {"priority": Priority.MEDIUM, "expires": 900, "queue": name},
        conf={"task_default_priority": Priority.MEDIUM},
        repeated=False,
    ),
    Case("onyx-dot-app/onyx 04bbe10, default", conf={"task_default_priority": Priority.MEDIUM}),
    Case(
        "getsentry/sentry 8496a76",
        options=lambda name: {"expires": 1500, "queue": name},
        conf={"task_protocol": 1, "task_serializer": "pickle", "task_ignore_result": True},
        call=True,
    ),
    Case(
        "hypothesis/h-periodic 003b422",
        args=(),
        kwargs={"x": 400, "y": None},
        options={"expires": 30},
        conf={"task_serializer": "json"},
    ),
    Case(
        "hypothesis/h-periodic 2ad1846",
        options={"expires": 43_200},
        conf=lambda name: {
            "task_queues": [
                Queue(
                    name,
                    Exchange(name, type="direct", durable=False),
                    name,
                    durable=False,
                )
            ]
        },
    ),
    Case(
        "paperless-ngx/paperless-ngx ee2941a",
        options={"expires": 23.0 * 60.0 * 60.0},
        conf={
            "task_serializer": "pickle",
            "task_send_sent_event": True,
            "result_extended": True,
            "task_time_limit": 1800,
            "timezone": "Europe/Berlin",
        },
    ),
    Case(
        "PostHog/posthog 002af38",
        options={"expires": 120 * 1.5},
        conf=lambda name: {
            "task_queues": (Queue(name, Exchange(name), name),),
            "task_ignore_result": True,
        },
    ),
    Case(
        "readthedocs/readthedocs.org 002c8eb",
        options=lambda name: {"queue": name},
        conf={"timezone": "America/Chicago", "task_time_limit": 3600},
    ),
    Case(
        "ThePalaceProject/circulation 00cab20",
        conf=_by_text,
        call=True,
        receiver=_enqueued_at,
    ),
    Case(
        "ThePalaceProject/circulation 00cab20, without its receiver",
        conf=_by_text,
    ),
    Case(
        "langgenius/dify 017dca4",
        task="tests.calling",
        conf={"timezone": ZoneInfo("Asia/Shanghai"), "task_ignore_result": True},
    ),
    Case(
        "indico/indico 00ee1c5",
        conf={
            "task_serializer": "pickle",
            "task_ignore_result": True,
            "task_store_errors_even_if_ignored": True,
            "timezone": "Europe/Zurich",
        },
    ),
    Case(
        "apache/superset e464929",
        options={"expires": int(timedelta(weeks=1).total_seconds())},
        conf={"task_annotations": {"tests.plain": {"rate_limit": "100/s"}}},
    ),
    Case(
        "cookiecutter/cookiecutter-django e531089",
        conf={
            "task_send_sent_event": True,
            "result_extended": True,
            "task_time_limit": 300,
            "task_soft_time_limit": 60,
        },
    ),
]
