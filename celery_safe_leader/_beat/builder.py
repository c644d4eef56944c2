"""Builds the message of an entry, and remembers of it what does not change from run to run.

An entry whose arguments and options are plain values is composed and encoded once; a later run of
it only gets its own id, times and headers. What may differ each time is composed each time: lazy
arguments, values that are not plain, routers that are functions, and everything once somebody
listens to ``before_task_publish``.

Settings of the app and attributes of a task are taken to be what they were at the first run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, tzinfo
from numbers import Real
from typing import Any, NamedTuple

from celery import signals
from celery.app.routes import MapRoute

from celery_safe_leader._beat.encoding import check_headers, encode
from celery_safe_leader._beat.evaluation import (
    LARGEST_KEPT,
    Arguments,
    check_call,
    evaluate,
    fingerprint_of,
)
from celery_safe_leader._beat.messages import BuildError, Built, Call, Message
from celery_safe_leader._beat.routing import COMPOSED_OPTIONS, celerys_own, compose
from celery_safe_leader._beat.rules import from_datetime, to_datetime

try:
    from celery.utils.quorum_queues import detect_quorum_queues
except ImportError:  # Celery 5.4 knows no native delayed delivery

    def detect_quorum_queues(app: Any, driver_type: str) -> tuple[bool, str]:
        """Find none."""
        return False, ""


__all__ = ["Builder"]

_OWN_FIELDS = frozenset({"id", "root_id", "eta", "expires"})
"""Header fields that differ from run to run, besides ours."""


class _Times(NamedTuple):
    """The times of an entry, counted from the due moment, in seconds; ``None`` if not so given."""

    countdown: Any
    expires: Any


class _Plan(NamedTuple):
    """A message of an entry, to be repeated as long as the entry stays as it is."""

    fingerprint: bytes
    task: Any
    message: Message
    times: _Times


class Builder:
    """Builds messages for the entries of one beat.

    Not thread-safe.

    Args:
        app: The Celery app.
        now: Seconds since 1970; what is left of an expiry is counted from it.
    """

    def __init__(self, app: Any, now: Callable[[], float] = time.time) -> None:
        self._app = app
        self._now = now
        self._plans: dict[str, _Plan] = {}
        self._basis: tuple[Any, ...] = ()
        self._repeatable = False
        self._driver = ""

    def build(self, entry: Any, *, task_id: str, headers: Mapping[str, Any], due_us: int) -> Built:
        """Build the message of one run. Does no IO, unless a lazy argument or a receiver does.

        Args:
            entry: The ``ScheduleEntry``. It is read and not changed.
            task_id: Id of the task.
            headers: Headers to add to those of the entry.
            due_us: The due moment in microseconds; ``expires`` and ``countdown`` count from it.

        Raises:
            BuildError: Whatever is wrong with the entry.
        """
        name, task = str(entry.name), str(entry.task)
        try:
            return self._build(entry, task_id, headers, due_us)
        except BuildError:
            raise
        except Exception as exc:
            raise BuildError.because(name, task, exc) from exc

    def forget(self, name: str) -> None:
        """Drop what is remembered of an entry that is gone."""
        self._plans.pop(name, None)

    def _build(self, entry: Any, task_id: str, headers: Mapping[str, Any], due_us: int) -> Built:
        self._check_basis()
        task = self._app.tasks.get(entry.task)
        fingerprint = fingerprint_of(entry) if self._repeatable else None
        plan = self._plans.get(entry.name)
        if plan and fingerprint == plan.fingerprint and task is plan.task:
            return self._repeat(plan, task_id, headers, due_us)
        arguments = evaluate(entry.args, entry.kwargs)
        options = dict(entry.options)
        times = _times(task, options)
        self._set_times(options, times, due_us)
        options["headers"] = {
            **(options.get("headers") or {}),
            "celery_beat_task": True,
            **headers,
        }
        reason = self._why_not_here(task, options)
        if reason:
            return _call(entry, task_id, task, arguments, options, reason)
        message = self._compose(entry, task_id, task, arguments, options)
        if fingerprint and self._may_keep(message, entry):
            self._plans[entry.name] = _Plan(fingerprint, task, message, times)
        return message

    def _check_basis(self) -> None:
        """Forget everything when something changed that all messages depend on."""
        app = self._app
        listened = bool(signals.before_task_publish.receivers)
        # After a fork, ``origin`` in the headers would name the parent.
        basis = (os.getpid(), app.amqp.router, listened)
        if basis == self._basis:
            return
        self._basis = basis
        self._plans.clear()
        self._driver = app.connection_for_write().get_transport_cls().driver_type
        self._repeatable = (
            not listened
            # Version 1 of the protocol has the id in the body.
            and app.conf.task_protocol == 2
            and all(isinstance(route, MapRoute) for route in app.amqp.routes)
        )

    def _set_times(self, options: dict[str, Any], times: _Times, due_us: int) -> None:
        options.pop("countdown", None)
        if times.countdown is not None:
            options["eta"] = self._later(due_us, times.countdown)
        if times.expires is not None:
            options["expires"] = self._later(due_us, times.expires)

    def _later(self, due_us: int, seconds: float) -> datetime:
        moment = to_datetime(due_us) + timedelta(seconds=seconds)
        zone: tzinfo = self._app.timezone
        return moment.astimezone(zone)

    def _why_not_here(self, task: Any, options: Mapping[str, Any]) -> str:
        """Say why Celery has to send this itself; empty if it need not."""
        unknown = options.keys() - COMPOSED_OPTIONS
        if unknown:
            return f"options {', '.join(sorted(unknown))}"
        if any(isinstance(options.get(name), str) for name in ("eta", "expires")):
            return "times given as text"
        if task is not None and self._app.conf.task_always_eager:
            return "task_always_eager"
        if not celerys_own(self._app, task):
            return "the class of the task or of the app has its own way of sending"
        if options.get("eta") and detect_quorum_queues(self._app, self._driver)[0]:
            return "native delayed delivery"
        return ""

    def _compose(
        self,
        entry: Any,
        task_id: str,
        task: Any,
        arguments: Arguments,
        options: dict[str, Any],
    ) -> Message:
        if task is not None:
            check_call(task, arguments)
        expires = options.get("expires")
        expires_us = from_datetime(expires) if expires else None
        if expires_us is not None:
            options["expiration"] = max(0.0, expires_us / 1e6 - self._now())
        draft = compose(self._app, task, entry.task, arguments, options, task_id)
        body, content_type, content_encoding = encode(draft)
        check_headers(draft.headers, self._driver)
        return Message(
            entry.name,
            entry.task,
            task_id,
            draft.headers,
            draft.properties,
            draft.content,
            body,
            content_type,
            content_encoding,
            draft.exchange,
            draft.routing_key,
            draft.delivery_mode,
            tuple(draft.declare),
            expires_us,
            draft.event,
        )

    @staticmethod
    def _may_keep(message: Message, entry: Any) -> bool:
        given = entry.options.get("headers") or {}
        return len(message.body) <= LARGEST_KEPT and not _OWN_FIELDS & given.keys()

    def _repeat(
        self, plan: _Plan, task_id: str, headers: Mapping[str, Any], due_us: int
    ) -> Message:
        """Make the message of another run from that of an earlier one."""
        first, times = plan.message, plan.times
        own: dict[str, Any] = {"root_id": task_id}
        expires_us = first.expires_us
        if times.countdown is not None:
            own["eta"] = self._later(due_us, times.countdown).isoformat()
        if times.expires is not None:
            expires = self._later(due_us, times.expires)
            own["expires"] = expires.isoformat()
            expires_us = from_datetime(expires)
        event = first.event
        if event:
            event = {**event, **own, "uuid": task_id}
        return first._replace(
            task_id=task_id,
            headers={**first.headers, **own, "id": task_id, **headers},
            properties={**first.properties, "correlation_id": task_id},
            expires_us=expires_us,
            event=event,
        )


def _times(task: Any, options: Mapping[str, Any]) -> _Times:
    expires = options.get("expires", getattr(task, "expires", None))
    return _Times(
        # As stock has it, a countdown of 0 is none.
        countdown=options.get("countdown") or None,
        expires=expires if isinstance(expires, Real) else None,
    )


def _call(
    entry: Any,
    task_id: str,
    task: Any,
    arguments: Arguments,
    options: dict[str, Any],
    reason: str,
) -> Call:
    kept = {
        name: value
        for name, value in options.items()
        # A retry by kombu would send the nonce of the attempt again.
        if name not in ("leader", "task_id", "headers", "retry", "retry_policy")
    }
    return Call(entry.name, entry.task, task_id, options["headers"], task, *arguments, kept, reason)
