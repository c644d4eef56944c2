"""What is remembered of messages, to be repeated run after run.

There is one template for each entry, and a shared one for all entries that differ only in their
arguments: 10,000 entries of one task then cost little more than their arguments and bodies. The
first message of the second entry is not composed either: all but its arguments is there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any, NamedTuple

from celery_safe_leader._publishing.composing.arguments import (
    LARGEST_KEPT,
    Arguments,
    fingerprint_of,
)
from celery_safe_leader._publishing.messages import Message, RelativeTimes
from celery_safe_leader._schedules.moments import from_datetime

__all__ = ["EntryTemplate", "SharedTemplate", "Templates", "Times", "common_part"]

_OWN_FIELDS = frozenset({"id", "root_id", "eta", "expires", "argsrepr", "kwargsrepr"})
"""Header fields that shared templates do not have, unless they are ``None``."""

_MOST_SHARED = 1_000
"""Where each entry has options of its own, nothing is gained by keeping more."""


class Times(NamedTuple):
    """The times of an entry that are given in seconds; ``None`` if not so given."""

    countdown: Any
    expires: Any
    expires_from_due: bool = False
    """Whether the expiry counts from the due moment, and not from the publication."""

    def later(self, due_us: int, zone: tzinfo) -> dict[str, datetime]:
        """Return them as moments, named ``eta`` and ``expires``, if it is published when due."""
        return RelativeTimes(self.countdown, self.expires, due_us, zone).at(due_us)

    def relative(self, due_us: int, zone: tzinfo) -> RelativeTimes | None:
        """Return those that count from the publication."""
        expires = None if self.expires_from_due else self.expires
        if self.countdown is None and expires is None:
            return None
        return RelativeTimes(self.countdown, expires, due_us, zone)


class SharedTemplate(NamedTuple):
    """What the messages of all entries with the same task and options have in common."""

    task: Any
    message: Message
    """Without anything that belongs to one entry or one run; ``content`` is its last part."""
    times: Times
    serializer: str
    compression: str | None


class EntryTemplate(NamedTuple):
    """The message of an entry, valid as long as the entry stays as it is."""

    fingerprint: bytes | None
    shared: SharedTemplate
    body: bytes
    args_text: str
    kwargs_text: str

    def message(
        self,
        name: str,
        arguments: Arguments,
        run: tuple[str, Mapping[str, Any], int],
        zone: tzinfo,
    ) -> Message:
        """Return the message of a run of an entry, given by task id, headers and due moment."""
        task_id, headers, due_us = run
        common, times = self.shared.message, self.shared.times
        own: dict[str, Any] = {"root_id": task_id}
        expires_us = None
        relative = None
        if times[:2] != (None, None):
            relative = times.relative(due_us, zone)
            moments = times.later(due_us, zone)
            own |= {name: moment.isoformat() for name, moment in moments.items()}
            expires_us = from_datetime(moments["expires"]) if "expires" in moments else None
        texts = {"argsrepr": self.args_text, "kwargsrepr": self.kwargs_text}
        event = common.event and {
            **common.event, **own,
            "uuid": task_id, "args": self.args_text, "kwargs": self.kwargs_text,
        }  # fmt: skip
        # Not _replace, which takes three times as long.
        return Message(
            name,
            common.task,
            task_id,
            {**common.headers, **texts, **own, "id": task_id, **headers},
            {**common.properties, "correlation_id": task_id},
            (*arguments, common.content),
            self.body,
            common.content_type,
            common.content_encoding,
            common.exchange,
            common.routing_key,
            common.delivery_mode,
            common.declare,
            expires_us,
            event,
            relative,
            common,
        )


class Templates:
    """The templates of all entries, by name, and those that they share."""

    def __init__(self) -> None:
        self._of_entries: dict[str, EntryTemplate] = {}
        self._shared: dict[bytes, SharedTemplate] = {}

    def of_entry(self, name: str, task: Any, fingerprint: bytes | None) -> EntryTemplate | None:
        """Return the template of an entry, if it was made for this task and fingerprint."""
        template = self._of_entries.get(name)
        if template is None or template.fingerprint != fingerprint:
            return None
        return template if template.shared.task is task else None

    def keep(self, name: str, template: EntryTemplate) -> None:
        """Remember the template of an entry, unless its arguments may change or are large."""
        if template.fingerprint is not None and len(template.body) <= LARGEST_KEPT:
            args_text, kwargs_text = map(sys.intern, template[3:])
            self._of_entries[name] = EntryTemplate(*template[:3], args_text, kwargs_text)

    def forget(self, name: str) -> None:
        """Drop the template of an entry."""
        self._of_entries.pop(name, None)

    def clear(self) -> None:
        """Drop all."""
        self._of_entries.clear()
        self._shared.clear()

    def shared(self, entry: Any, task: Any) -> SharedTemplate | None:
        """Return the template for the task and the options of an entry, if there is one."""
        key = fingerprint_of(entry.task, entry.options)
        template = self._shared.get(key) if key is not None else None
        return template if template is not None and template.task is task else None

    def keep_shared(self, entry: Any, template: SharedTemplate) -> bool:
        """Remember a shared template, if the options of the entry allow it to be used again.

        Returns:
            Whether they do.
        """
        key = fingerprint_of(entry.task, entry.options)
        if key is None or _OWN_FIELDS & (entry.options.get("headers") or {}).keys():
            return False
        if len(self._shared) >= _MOST_SHARED:
            self._shared.clear()
        self._shared[key] = template
        return True


def common_part(message: Message, headers: Mapping[str, Any]) -> Message:
    """Return a message of protocol 2 without what belongs to one entry or one run.

    Args:
        message: The message of some run.
        headers: Headers that were added for this one run.
    """
    run_only = _OWN_FIELDS | headers.keys()
    # What is not set for each run has to stay: None for times that the entries do not have.
    kept = {
        name: value
        for name, value in message.headers.items()
        if name not in run_only or value is None
    }
    event = message.event and {
        name: value
        for name, value in message.event.items()
        if name not in ("uuid", "root_id", "args", "kwargs", "eta", "expires") or value is None
    }
    dropped = ("correlation_id", "expiration")
    return message._replace(
        entry="",
        task_id="",
        headers=kept,
        properties={k: v for k, v in message.properties.items() if k not in dropped},
        content=message.content[2],
        body=b"",
        expires_us=None,
        event=event,
        relative=None,
    )
