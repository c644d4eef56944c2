"""A producer that asks before each write, and tells failures of the broker from refused messages.

Celery's schedulers catch ``Exception`` around each entry and count the run as done. What is raised
here must get past that, because the scheduler has to know whether the run was sent.
"""

from __future__ import annotations

from typing import Any, Protocol

from kombu.exceptions import OperationalError

from celery_safe_leader._publishing.headers import OCCURRENCE, numbered

__all__ = ["BrokerFailedError", "Gate", "WithheldError", "gated"]


class WithheldError(BaseException):
    """This beat no longer leads, or is being closed: nothing was written."""


class BrokerFailedError(BaseException):
    """The connection to the broker failed. Whether the message arrived is not known."""


class Gate(Protocol):
    """What a producer asks before it writes."""

    @property
    def is_at_work(self) -> bool:
        """Whether the calling thread is in a tick of the scheduler."""

    def require_publishing(self) -> None:
        """Raise if nothing may be written now."""

    def message_number(self, occurrence: str) -> int:
        """Count the messages that have this occurrence in their headers, from 1 on."""


def gated(producer_class: type, gate: Gate) -> type:
    """Return a subclass that asks before each write, and raises ``BrokerFailedError``.

    Of several messages with one occurrence, as a scheduler sends them that has a message for each
    tenant, all but the first get ids of their own.

    Args:
        producer_class: Kombu's ``Producer``, or a class derived from it.
        gate: Asked as the last thing before each write.
    """

    class GatedProducer(producer_class):
        def publish(self, body: Any, *args: Any, **options: Any) -> Any:
            occurrence = (options.get("headers") or {}).get(OCCURRENCE)
            if occurrence is not None:
                body, options = numbered(gate.message_number(occurrence), body, options)
            failures = _connection_failures(self.connection)
            try:
                return super().publish(body, *args, **options)
            except failures as exc:
                if not gate.is_at_work:
                    raise
                raise BrokerFailedError(f"{type(exc).__name__}: {exc}") from exc

        def _publish(self, *args: Any, **kwargs: Any) -> Any:
            gate.require_publishing()
            return super()._publish(*args, **kwargs)

    return GatedProducer


def _connection_failures(connection: Any) -> tuple[type[BaseException], ...]:
    """Return what is raised when the connection fails, as opposed to a message that is refused."""
    named = () if connection is None else connection.connection_errors
    return (*named, OperationalError, OSError)
