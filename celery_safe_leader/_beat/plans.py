"""What is remembered of messages, to be repeated run after run.

There is one plan for each entry, and one shape for all entries that differ in nothing but their
arguments: 10,000 entries of one task then cost little more than their arguments and bodies.
"""

from __future__ import annotations

import marshal
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any, NamedTuple

from celery_safe_leader._beat.evaluation import LARGEST_KEPT, evaluate
from celery_safe_leader._beat.messages import Message
from celery_safe_leader._beat.rules import from_datetime, to_datetime

__all__ = ["Plan", "Plans", "Times"]

_OF_A_RUN = ("id", "root_id", "eta", "expires")
_OF_AN_ENTRY = ("argsrepr", "kwargsrepr")
_OWN_FIELDS = frozenset((*_OF_A_RUN, *_OF_AN_ENTRY))
"""Header fields that shapes do not have."""


class Times(NamedTuple):
    """The times of an entry, counted from the due moment, in seconds; ``None`` if not so given."""

    countdown: Any
    expires: Any

    def later(self, due_us: int, zone: tzinfo) -> dict[str, datetime]:
        """Make them moments, as ``eta`` and ``expires``."""
        named = {"eta": self.countdown, "expires": self.expires}
        return {
            name: (to_datetime(due_us) + timedelta(seconds=seconds)).astimezone(zone)
            for name, seconds in named.items()
            if seconds is not None
        }


class Plan(NamedTuple):
    """The message of an entry, good as long as the entry stays as it is."""

    fingerprint: bytes
    task: Any
    shape: Message
    times: Times
    body: bytes
    args_text: str
    kwargs_text: str

    def repeat(
        self, entry: Any, task_id: str, headers: Mapping[str, Any], due_us: int, zone: tzinfo
    ) -> Message:
        """Make the message of another run."""
        shape = self.shape
        own: dict[str, Any] = {"root_id": task_id}
        expires_us = None
        if self.times != (None, None):
            moments = self.times.later(due_us, zone)
            own |= {name: moment.isoformat() for name, moment in moments.items()}
            expires_us = from_datetime(moments["expires"]) if "expires" in moments else None
        texts = {"argsrepr": self.args_text, "kwargsrepr": self.kwargs_text}
        event = shape.event and {
            **shape.event, **own,
            "uuid": task_id, "args": self.args_text, "kwargs": self.kwargs_text,
        }  # fmt: skip
        return shape._replace(
            entry=entry.name,
            task_id=task_id,
            headers={**shape.headers, **texts, **own, "id": task_id, **headers},
            properties={**shape.properties, "correlation_id": task_id},
            content=(*evaluate(entry.args, entry.kwargs), shape.content),
            body=self.body,
            expires_us=expires_us,
            event=event,
        )


class Plans:
    """The plans of all entries, by name."""

    def __init__(self) -> None:
        self._plans: dict[str, Plan] = {}
        self._shapes: dict[Any, Message] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._plans

    def get(self, name: str, task: Any, fingerprint: bytes | None) -> Plan | None:
        """Return the plan of an entry, if it was made for this task and fingerprint."""
        plan = self._plans.get(name)
        if plan is None or plan.fingerprint != fingerprint or plan.task is not task:
            return None
        return plan

    def forget(self, name: str) -> None:
        """Drop the plan of an entry."""
        self._plans.pop(name, None)

    def clear(self) -> None:
        """Drop all."""
        self._plans.clear()
        self._shapes.clear()

    def keep(
        self,
        entry: Any,
        message: Message,
        plan_of: tuple[bytes, Any, Times],
        headers: Mapping[str, Any],
    ) -> None:
        """Remember a message, unless it is large or an entry sets fields of the protocol.

        Args:
            entry: The entry.
            message: Its message, of version 2 of the protocol.
            plan_of: Fingerprint, task and times of the entry.
            headers: Headers that were added for this one run.
        """
        given = entry.options.get("headers") or {}
        if len(message.body) > LARGEST_KEPT or _OWN_FIELDS & given.keys():
            return
        shape = self._shared(_shape_of(message, headers))
        fingerprint, task, times = plan_of
        texts = (message.headers[name] for name in _OF_AN_ENTRY)
        self._plans[entry.name] = Plan(
            fingerprint, task, shape, times, message.body, *map(sys.intern, texts)
        )

    def _shared(self, shape: Message) -> Message:
        """Return an equal shape that is there already."""
        plain: Any = (*shape._replace(declare=()),)
        try:
            key = marshal.dumps(plain, 2)
        except ValueError:
            return shape
        # Queues of one name may differ. The shape keeps them alive, and so their ids.
        return self._shapes.setdefault((key, *map(id, shape.declare)), shape)


def _shape_of(message: Message, headers: Mapping[str, Any]) -> Message:
    """Remove what belongs to one entry or one run."""
    run_only = _OWN_FIELDS | headers.keys()
    # Fields that are not set again have to stay: None for times that the entry does not have.
    kept = {
        name: value
        for name, value in message.headers.items()
        if name not in run_only or value is None
    }
    dropped = ("correlation_id", "expiration")
    event = message.event
    return message._replace(
        entry="",
        task_id="",
        headers=kept,
        properties={k: v for k, v in message.properties.items() if k not in dropped},
        content=message.content[2],
        body=b"",
        expires_us=None,
        event=event
        and {
            name: value
            for name, value in event.items()
            if name not in ("uuid", "root_id", "args", "kwargs", "eta", "expires") or value is None
        },
    )
