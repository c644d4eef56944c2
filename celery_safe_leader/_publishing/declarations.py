"""Which queues were declared on a connection, and whether the broker still knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Declarations"]


class _Addressed(Protocol):
    """What goes to an exchange and may need queues."""

    @property
    def declare(self) -> Sequence[Any]: ...
    @property
    def exchange(self) -> str: ...


class Declarations:
    """The queues of one connection.

    kombu declares a queue once per connection and believes in it from then on. With Redis as the
    broker the bindings of an exchange are a key like any other: once it is lost, a message to that
    exchange goes nowhere, without any error. (A queue on a direct exchange is reached by its name
    and needs no binding.) So bindings are looked up again, once for each group of messages.
    """

    def __init__(self) -> None:
        self._declared: dict[str, Any] = {}
        self._bound: set[tuple[str, str]] = set()

    def begin_group(self) -> None:
        """Look the bindings up again, for a new group of messages."""
        self._bound.clear()

    def are_known(self, message: _Addressed) -> bool:
        """Return whether the queues of a message are declared, with no binding to look up."""
        if message.exchange:
            return False
        for queue in message.declare:
            if self._declared.get(queue.name) is not queue:
                return False
        return True

    def ensure(self, channel: Any, message: _Addressed) -> None:
        """Declare the queues of a message, unless they are declared and still bound."""
        for queue in message.declare:
            if self._declared.get(queue.name) is not queue:
                queue.bind(channel).declare()
                self._declared[queue.name] = queue
            if message.exchange and hasattr(channel, "get_table"):
                self._ensure_bound(channel, message.exchange, queue)

    def _ensure_bound(self, channel: Any, exchange: str, queue: Any) -> None:
        if (exchange, queue.name) in self._bound:
            return
        bound = {queue_name for _, _, queue_name in channel.get_table(exchange)}
        if queue.name not in bound:
            # The transport remembers what it has bound, and would do nothing.
            channel.state.queue_bindings_delete(queue.name)
            queue.bind(channel).declare()
        self._bound.update((exchange, queue_name) for queue_name in (*bound, queue.name))
