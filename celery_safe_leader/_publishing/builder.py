"""Builds the message of an entry, and remembers what does not change from run to run.

A task with options that are plain values is composed once for all entries that have these; the body
of an entry with plain arguments is encoded once. A later run only gets its own id, times and
headers. What may differ each time is composed each time: lazy arguments, values that are not
plain, routers that are functions. What somebody could notice to be composed here goes Celery's own
way instead (``own_way``).

Settings of the app and attributes of a task are taken to be what they were at the first run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import timezone, tzinfo
from numbers import Real
from typing import Any

from celery.app.routes import MapRoute

from celery_safe_leader._dispatch.outcomes import BuildError, Called
from celery_safe_leader._dispatch.ports import Making
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._publishing.composing.arguments import (
    Arguments,
    check_call,
    describe,
    evaluate,
    fingerprint_of,
)
from celery_safe_leader._publishing.composing.compose import COMPOSED_OPTIONS, Draft, compose
from celery_safe_leader._publishing.composing.encoding import check_headers, encode
from celery_safe_leader._publishing.composing.templates import (
    EntryTemplate,
    SharedTemplate,
    Templates,
    Times,
    common_part,
)
from celery_safe_leader._publishing.headers import leader_headers
from celery_safe_leader._publishing.messages import Message
from celery_safe_leader._publishing.own_way.called_message import CalledMessage
from celery_safe_leader._publishing.own_way.celerys_calls import CelerysCalls
from celery_safe_leader._publishing.own_way.detection import (
    Detection,
    are_told_after,
    are_told_before,
)
from celery_safe_leader._schedules.moments import SECOND_US, from_datetime
from celery_safe_leader._schedules.safe_text import is_containable, safe_repr
from celery_safe_leader.errors import LifecycleError

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
        expires_from: What a number of seconds in ``expires`` counts from, where the entry does not
            say: "publication" or "due".
        now: Returns seconds since 1970, from which the rest of an expiry is counted.
        detection: Of what somebody has changed in Celery.
        calls: Lets Celery's own code send a run.
    """

    def __init__(
        self,
        app: Any,
        *,
        key: str = "",
        expires_from: str = "publication",
        now: Callable[[], float] = time.time,
        detection: Detection | None = None,
        calls: CelerysCalls | None = None,
    ) -> None:
        self._app = app
        self._key = key
        self._expires_from = expires_from
        self._now = now
        self._detection = detection or Detection(app)
        self._calls = calls
        self._templates = Templates()
        self._basis: tuple[Any, ...] = ()
        # Properties of the app, each of which takes its time.
        self._amqp: Any = None
        self._tasks: Mapping[str, Any] = {}
        self._zone: tzinfo = timezone.utc
        self._repeatable = False
        self._driver = ""
        self._quorum = False
        self._always_called = ""

    def build_run(self, source: Any, claim: Claim, token: int) -> Message:
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
        return self.build(
            source,
            task_id=claim.occurrence,
            headers=headers,
            due_us=claim.moment,
            name=claim.entry,
        )

    def build(
        self,
        entry: Any,
        *,
        task_id: str,
        headers: Mapping[str, Any],
        due_us: int,
        name: str = "",
    ) -> Message:
        """Return the message of one run. Does no IO, unless a lazy argument or a receiver does.

        Args:
            entry: The ``ScheduleEntry``. It is read and not changed.
            task_id: Id of the task.
            headers: Headers to add to those of the entry.
            due_us: The due moment in microseconds; ``expires`` and ``countdown`` count from it
                if the message is published then.
            name: What the entry is called; empty: as it says itself.

        Raises:
            BuildError: Whatever is wrong with the entry.
        """
        try:
            name = name or str(entry.name)
            return self._build(entry, name, task_id, headers, due_us)
        except BuildError:
            raise
        except BaseException as exc:
            if not is_containable(exc):
                raise
            raise BuildError.of(name or safe_repr(entry), entry, exc) from exc

    def making(self, entry: Any) -> Making:
        """Return how the message of an entry's next run is made.

        It may be built a little before its moment if it would be the same at the moment itself:
        lazy arguments may look at the clock. Celery's own code makes it if somebody could notice
        that it did not.
        """
        try:
            self._check_basis()
            if self.why_called(entry):
                return Making.CALLED
            if are_told_after():
                return Making.CALLED_WITHIN
            if are_told_before():
                return Making.CALLED
            fields = (entry.task, entry.args, entry.kwargs, entry.options)
            is_steady = self._repeatable and fingerprint_of(*fields) is not None
        except Exception:
            return Making.AT_THE_MOMENT  # building says what is wrong
        return Making.EARLY if is_steady else Making.AT_THE_MOMENT

    def why_called(self, entry: Any) -> str:
        """Return why Celery's own code has to make the messages of an entry, but for receivers."""
        task = self._tasks.get(entry.task)
        reason = self._detection.why(task) or (self._always_called if task is not None else "")
        return reason or (self._why_options(entry.options) if entry.options else "")

    def call(
        self,
        source: Any,
        claim: Claim,
        token: int,
        publish: Callable[[CalledMessage], None] | None,
    ) -> Called:
        """Let Celery's own code send one run, on the publisher's connection.

        Args:
            source: The ``ScheduleEntry``.
            claim: The run.
            token: Fencing token of the leader that publishes it.
            publish: Called with each message; what it raises, that code gets. Without, messages are
                only returned.
        """
        if self._calls is None:
            raise LifecycleError("this builder has no scheduler whose code could be called")
        times = self._times(self._tasks.get(source.task), source.options or {})
        expires = times.later(claim.moment, self._zone).get("expires")
        own = {"expires": expires} if times.expires_from_due and expires else {}
        relative = times.relative(claim.moment, self._zone)
        return self._calls.call(source, claim, token, publish, own, relative)

    def begin(self) -> None:
        """Look anew at what others have changed, at the begin of a tenure."""
        self._detection.look_again()

    def forget(self, name: str) -> None:
        """Drop what is remembered of an entry that is gone."""
        self._templates.forget(name)

    def _build(
        self, entry: Any, name: str, task_id: str, headers: Mapping[str, Any], due_us: int
    ) -> Message:
        self._check_basis()
        task, zone, run = self._tasks.get(entry.task), self._zone, (task_id, headers, due_us)
        fingerprint = shared = None
        if self._repeatable:
            fingerprint = fingerprint_of(entry.task, entry.args, entry.kwargs, entry.options)
            template = self._templates.of_entry(name, task, fingerprint)
            if template is not None:
                return template.message(name, evaluate(entry.args, entry.kwargs), run, zone)
            shared = self._templates.shared(entry, task)
        arguments = evaluate(entry.args, entry.kwargs)
        if shared is None:
            return self._afresh(entry, name, arguments, run, fingerprint)
        template = self._entry_template(shared, arguments, fingerprint)
        self._templates.keep(name, template)
        return template.message(name, arguments, run, zone)

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
        name: str,
        arguments: Arguments,
        run: tuple[str, Mapping[str, Any], int],
        fingerprint: bytes | None,
    ) -> Message:
        """Return a message that is composed as Celery would for a call."""
        task_id, headers, due_us = run
        task = self._tasks.get(entry.task)
        times = self._times(task, entry.options)
        options = {**entry.options, **times.later(due_us, self._zone)}
        options.pop("countdown", None)
        options["headers"] = {
            **(options.get("headers") or {}),
            "celery_beat_task": True,
            **headers,
        }
        message, draft = self._compose(entry, name, task_id, task, arguments, options)
        if "eta" in message.headers:  # version 1 of the protocol has times in the body
            message = message._replace(relative=times.relative(due_us, self._zone))
        if self._repeatable:
            shared = SharedTemplate(
                task, common_part(message, headers), times, draft.serializer, draft.compression
            )
            if self._templates.keep_shared(entry, shared):
                texts = (message.headers["argsrepr"], message.headers["kwargsrepr"])
                template = EntryTemplate(fingerprint, shared, message.body, *texts)
                self._templates.keep(name, template)
        return message

    def _times(self, task: Any, options: Mapping[str, Any]) -> Times:
        expires = options.get("expires", getattr(task, "expires", None))
        own = options.get("leader") or {}
        return Times(
            # As stock has it, a countdown of 0 is none.
            countdown=options.get("countdown") or None,
            expires=expires if isinstance(expires, Real) else None,
            expires_from_due=own.get("expires_from", self._expires_from) == "due",
        )

    def _check_basis(self) -> None:
        """Forget everything if something changed that all messages depend on."""
        app = self._app
        if self._amqp is None:
            self._amqp, self._tasks = app.amqp, app.tasks
        # After a fork, ``origin`` in the headers would name the parent.
        basis = (os.getpid(), self._amqp.router)
        if basis == self._basis:
            return
        self._basis = basis
        self._zone = app.timezone
        self._templates.clear()
        self._driver = app.connection_for_write().get_transport_cls().driver_type
        self._repeatable = all(isinstance(route, MapRoute) for route in app.amqp.routes)
        self._quorum = detect_quorum_queues(app, self._driver)[0]
        self._always_called = self._why_always()

    def _why_always(self) -> str:
        """Return why Celery has to send all messages itself, by settings; empty if it need not."""
        conf = self._app.conf
        if conf.task_always_eager:
            return "task_always_eager"
        if conf.task_protocol != 2:
            return "task_protocol is not 2"
        # Celery's own backends prepare for reading the result, which beat never does.
        if not type(self._app.backend).on_task_call.__module__.startswith("celery."):
            return "the result backend has to be told before a task is sent"
        return ""

    def _why_options(self, options: Mapping[str, Any]) -> str:
        """Return why Celery has to send a message of these options itself."""
        unknown = options.keys() - COMPOSED_OPTIONS
        if unknown:
            return f"options {', '.join(sorted(map(str, unknown)))}"
        if any(isinstance(options.get(name), str) for name in ("eta", "expires")):
            return "times given as strings"
        if self._quorum and (options.get("eta") or options.get("countdown")):
            return "native delayed delivery"
        return ""

    def _compose(
        self,
        entry: Any,
        name: str,
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
            name,
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
