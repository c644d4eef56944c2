"""A producer that asks before each write, and tells failures of the broker from refused messages.

Celery's schedulers catch ``Exception`` around each entry and count the run as done. What is raised
here must get past that, because the scheduler has to know whether the run was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.exceptions import OperationalError

__all__ = ["BrokerFailedError", "WithheldError", "gated"]


class WithheldError(BaseException):
    """This beat no longer leads, or is being closed: nothing was written."""


class BrokerFailedError(BaseException):
    """The connection to the broker failed. Whether the message arrived is not known."""


def gated(producer_class: type, require: Callable[[], None]) -> type:
    """Return a subclass that asks before each write and raises ``BrokerFailedError``.

    Args:
        producer_class: Kombu's ``Producer``, or a class derived from it.
        require: Called as the last thing before each write; raises ``WithheldError``.
    """

    class GatedProducer(producer_class):
        def publish(self, *args: Any, **kwargs: Any) -> Any:
            failures = _connection_failures(self.connection)
            try:
                return super().publish(*args, **kwargs)
            except failures as exc:
                raise BrokerFailedError(f"{type(exc).__name__}: {exc}") from exc

        def _publish(self, *args: Any, **kwargs: Any) -> Any:
            require()
            return super()._publish(*args, **kwargs)

    return GatedProducer


def _connection_failures(connection: Any) -> tuple[type[BaseException], ...]:
    """Return what is raised when the connection fails, as opposed to a message that is refused."""
    named = () if connection is None else connection.connection_errors
    return (*named, OperationalError, OSError)
