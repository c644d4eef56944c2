"""Builds the message of an entry, and remembers what does not change from run to run.

A task with options that are plain values is composed once for all entries that have these; the body
of an entry with plain arguments is encoded once. A later run only gets its own id, times and
headers. What may differ each time is composed each time: lazy arguments, values that are not
plain, routers that are functions, and everything once somebody listens to
``before_task_publish``.

Settings of the app and attributes of a task are taken to be what they were at the first run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import timezone, tzinfo
from numbers import Real
from typing import Any

from celery import signals
from celery.app.routes import MapRoute

from celery_safe_leader._dispatch.outcomes import BuildError
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._publishing.arguments import (
    Arguments,
    check_call,
    describe,
    evaluate,
    fingerprint_of,
)
from celery_safe_leader._publishing.compose import COMPOSED_OPTIONS, Draft, celerys_own, compose
from celery_safe_leader._publishing.encoding import check_headers, encode
from celery_safe_leader._publishing.headers import leader_headers
from celery_safe_leader._publishing.messages import Built, CeleryCall, Message
from celery_safe_leader._publishing.templates import (
    EntryTemplate,
    SharedTemplate,
    Templates,
    Times,
    common_part,
)
from celery_safe_leader._schedules.moments import SECOND_US, from_datetime

try:
    from celery.utils.quorum_queues import detect_quorum_queues
except ImportError:  # Celery 5.4 knows no native delayed delivery

    def detect_quorum_queues(app: Any, driver_type: str) -> tuple[bool, str]:
        """Return that there are none."""
        return False, ""


__all__ = ["Builder"]


class Builder:
    """Builds messages for the entries of one beat.

    Not thread-safe.

    Args:
        app: The Celery app.
        key: Of the ledger; it is named in the headers of claimed runs.
        now: Returns seconds since 1970, from which the rest of an expiry is counted.
    """

    def __init__(self, app: Any, *, key: str = "", now: Callable[[], float] = time.time) -> None:
        self._app = app
        self._key = key
        self._now = now
        self._templates = Templates()
        self._basis: tuple[Any, ...] = ()
        # Properties of the app, each of which takes its time.
        self._amqp: Any = None
        self._tasks: Mapping[str, Any] = {}
        self._zone: tzinfo = timezone.utc
        self._repeatable = False
        self._driver = ""

    def build_run(self, source: Any, claim: Claim, token: int) -> Built:
        """Return the message of a claimed run, with the headers by which workers recognize it.

        Args:
            source: The ``ScheduleEntry``.
            claim: The run.
            token: Fencing token of the leader that publishes it.

        Raises:
            BuildError: Whatever is wrong with the entry.
        """
        covers = (claim.first, claim.moment)
        headers = leader_headers(self._key, claim.occurrence, token, covers)
        return self.build(source, task_id=claim.occurrence, headers=headers, due_us=claim.moment)

    def build(self, entry: Any, *, task_id: str, headers: Mapping[str, Any], due_us: int) -> Built:
        """Return the message of one run. Does no IO, unless a lazy argument or a receiver does.

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

    def is_steady(self, entry: Any) -> bool:
        """Return whether a message may be built a little before its moment.

        It may if it would be the same at the moment itself. Lazy arguments and receivers of
        ``before_task_publish`` may look at the clock.
        """
        try:
            self._check_basis()
        except Exception:
            return False  # building says what is wrong
        fields = (entry.task, entry.args, entry.kwargs, entry.options)
        return self._repeatable and fingerprint_of(*fields) is not None

    def forget(self, name: str) -> None:
        """Drop what is remembered of an entry that is gone."""
        self._templates.forget(name)

    def _build(self, entry: Any, task_id: str, headers: Mapping[str, Any], due_us: int) -> Built:
        self._check_basis()
        task, zone, run = self._tasks.get(entry.task), self._zone, (task_id, headers, due_us)
        fingerprint = shared = None
        if self._repeatable:
            fingerprint = fingerprint_of(entry.task, entry.args, entry.kwargs, entry.options)
            template = self._templates.of_entry(entry.name, task, fingerprint)
            if template is not None:
                return template.message(entry, evaluate(entry.args, entry.kwargs), run, zone)
            shared = self._templates.shared(entry, task)
        arguments = evaluate(entry.args, entry.kwargs)
        if shared is None:
            return self._afresh(entry, arguments, run, fingerprint)
        template = self._entry_template(shared, arguments, fingerprint)
        self._templates.keep(entry.name, template)
        return template.message(entry, arguments, run, zone)

    def _entry_template(
        self, shared: SharedTemplate, arguments: Arguments, fingerprint: bytes | None
    ) -> EntryTemplate:
        """Return the template for an entry's arguments; checks what composing would."""
        arguments = (arguments[0] or (), arguments[1])
        if shared.task is not None:
            check_call(shared.task, arguments)
        content = (*arguments, shared.message.content)
        body = encode(content, shared.serializer, shared.compression).body
        texts = describe(self._app, arguments)
        if self._driver == "amqp":  # JSON takes any string
            check_headers(dict(zip(("argsrepr", "kwargsrepr"), texts, strict=True)), "amqp")
        return EntryTemplate(fingerprint, shared, body, *texts)

    def _afresh(
        self,
        entry: Any,
        arguments: Arguments,
        run: tuple[str, Mapping[str, Any], int],
        fingerprint: bytes | None,
    ) -> Built:
        """Return a message that is composed as Celery would for a call."""
        task_id, headers, due_us = run
        task = self._tasks.get(entry.task)
        times = _times(task, entry.options)
        options = {**entry.options, **times.later(due_us, self._zone)}
        options.pop("countdown", None)
        options["headers"] = {
            **(options.get("headers") or {}),
            "celery_beat_task": True,
            **headers,
        }
        reason = self._why_not_here(task, options)
        if reason:
            return _call(entry, task_id, task, arguments, options, reason)
        message, draft = self._compose(entry, task_id, task, arguments, options)
        if self._repeatable:
            shared = SharedTemplate(
                task, common_part(message, headers), times, draft.serializer, draft.compression
            )
            if self._templates.keep_shared(entry, shared):
                texts = (message.headers["argsrepr"], message.headers["kwargsrepr"])
                template = EntryTemplate(fingerprint, shared, message.body, *texts)
                self._templates.keep(entry.name, template)
        return message

    def _check_basis(self) -> None:
        """Forget everything if something changed that all messages depend on."""
        app = self._app
        if self._amqp is None:
            self._amqp, self._tasks = app.amqp, app.tasks
        listened = bool(signals.before_task_publish.receivers)
        # After a fork, ``origin`` in the headers would name the parent.
        basis = (os.getpid(), self._amqp.router, listened)
        if basis == self._basis:
            return
        self._basis = basis
        self._zone = app.timezone
        self._templates.clear()
        self._driver = app.connection_for_write().get_transport_cls().driver_type
        self._repeatable = (
            not listened
            # Version 1 of the protocol has the id in the body.
            and app.conf.task_protocol == 2
            and all(isinstance(route, MapRoute) for route in app.amqp.routes)
        )

    def _why_not_here(self, task: Any, options: Mapping[str, Any]) -> str:
        """Return why Celery has to send this itself; empty if it need not."""
        unknown = options.keys() - COMPOSED_OPTIONS
        if unknown:
            return f"options {', '.join(sorted(unknown))}"
        if any(isinstance(options.get(name), str) for name in ("eta", "expires")):
            return "times given as strings"
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
    ) -> tuple[Message, Draft]:
        if task is not None:
            check_call(task, arguments)
        expires = options.get("expires")
        expires_us = from_datetime(expires) if expires else None
        if expires_us is not None:
            options["expiration"] = max(0.0, expires_us / SECOND_US - self._now())
        draft = compose(self._app, task, entry.task, arguments, options, task_id)
        encoded = encode(draft.content, draft.serializer, draft.compression)
        if encoded.compression:
            draft.headers["compression"] = encoded.compression
        check_headers(draft.headers, self._driver)
        message = Message(
            entry.name,
            entry.task,
            task_id,
            draft.headers,
            draft.properties,
            draft.content,
            *encoded[:3],
            draft.exchange,
            draft.routing_key,
            draft.delivery_mode,
            tuple(draft.declare),
            expires_us,
            draft.event,
        )
        return message, draft


def _times(task: Any, options: Mapping[str, Any]) -> Times:
    expires = options.get("expires", getattr(task, "expires", None))
    return Times(
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
) -> CeleryCall:
    kept = {
        name: value
        for name, value in options.items()
        # A retry by kombu would send the nonce of the attempt again.
        if name not in ("leader", "task_id", "headers", "retry", "retry_policy")
    }
    return CeleryCall(
        entry.name, entry.task, task_id, options["headers"], task, *arguments, kept, reason
    )
