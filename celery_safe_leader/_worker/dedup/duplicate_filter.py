"""First publication wins: which messages of periodic runs a worker drops.

The decision is made before Celery turns a message into a request, so that a dropped one leaves no
trace in the result backend, in Celery's own events or in the worker's state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery_safe_leader._ledger.acceptance import Acceptance
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._publishing.headers import ELECTION, OCCURRENCE, ONCE, PUBLICATION
from celery_safe_leader._worker.dedup.inquirer import Inquirer

__all__ = ["DROPPED_EVENT", "DuplicateFilter"]

DROPPED_EVENT = "leader-duplicate-dropped"
"""Celery event for each dropped message."""


class DuplicateFilter:
    """Decides which messages of one worker are dropped, and counts them."""

    header = PUBLICATION

    def __init__(self, consumer: Any, inquirer: Inquirer) -> None:
        self._consumer = consumer
        self._inquirer = inquirer
        self.passed = 0
        """Messages that were let through as the first publication, also when they came again."""
        self.once = 0
        """Messages that were let through unasked as the only publication, also when they came
        again."""
        self.dropped = 0
        """Messages that were dropped."""
        self.unchecked = 0
        """Messages that were let through because Redis did not answer."""

    def drops(self, message: Any, body: Any, ack: Callable[..., Any]) -> bool:
        """Return whether a message must not run; it is acknowledged and reported then.

        Takes at most one round trip, and none for the only publication of a run.

        Args:
            message: As the transport delivered it.
            body: The decoded body if the message is of protocol 1, else ``None``.
            ack: Acknowledges the message.
        """
        headers = message.headers
        key = headers.get(ELECTION)
        occurrence = headers.get(OCCURRENCE)
        publication = headers.get(PUBLICATION)
        if not (_is_name(key) and _is_name(occurrence) and _is_name(publication)):
            return False
        # Protocol 1 keeps these in the body.
        fields: Mapping[str, Any] = body if isinstance(body, Mapping) else headers
        if fields.get("retries"):
            # A retry was accepted with its first attempt, perhaps longer ago than is remembered.
            return False
        if publication.startswith(ONCE):
            # Nor recorded: there is no other message that the record could stop.
            self.once += 1
            return False
        answer = self._inquirer.ask(key, occurrence, publication)
        if answer is None:
            self.unchecked += 1
            return False
        if answer.may_run:
            self.passed += 1
            return False
        self._drop(headers, fields, answer, ack)
        return True

    def _drop(
        self,
        headers: Mapping[str, Any],
        fields: Mapping[str, Any],
        answer: Acceptance,
        ack: Callable[..., Any],
    ) -> None:
        consumer = self._consumer
        ack(logger, consumer.connection_errors)
        self.dropped += 1
        logger.warning(
            "Dropped a second publication of periodic run %s (task %s, election %s): "
            "publication %s was accepted before this one, %s",
            headers[OCCURRENCE],
            fields.get("task"),
            headers[ELECTION],
            answer.publication,
            headers[PUBLICATION],
        )
        # The dispatcher is a new one after each reconnect.
        events = consumer.event_dispatcher
        if events and events.enabled:
            events.send(
                DROPPED_EVENT,
                uuid=fields.get("id"),
                name=fields.get("task"),
                election=headers[ELECTION],
                occurrence=headers[OCCURRENCE],
                publication=headers[PUBLICATION],
                accepted=answer.publication,
            )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""
