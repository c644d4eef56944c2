"""The mapping of Celery's strategies, in which each message is looked at before anything else.

A consumer hands each message to the *strategy* of its task, which it keeps in the mapping
``consumer.strategies`` (celery/worker/consumer/consumer.py, read in 5.4.0, 5.5.3, 5.6.0 and 5.7.0:
``update_strategies`` assigns the items at every connect and at ``pool_restart``, and
``create_task_handler`` calls ``strategies[task](message, body, ack, reject, callbacks)``). A task
may have a strategy class of its own, so replacing Celery's would miss some; a mapping that wraps
whatever is put into it misses none.
"""

from __future__ import annotations

from typing import Any, Protocol

import celery
from celery.exceptions import ImproperlyConfigured

__all__ = ["FilteredStrategies", "MessageFilter"]


class MessageFilter(Protocol):
    """Decides whether a message reaches its strategy."""

    header: str
    """Messages without this header are not looked at."""

    def drops(self, message: Any, body: Any, ack: Any) -> bool:
        """Return whether the message must go no further; it is acknowledged then."""


class FilteredStrategies(dict[str, Any]):
    """A consumer's strategies, each behind a filter."""

    def __init__(self, message_filter: MessageFilter) -> None:
        super().__init__()
        self._filter = message_filter

    def __setitem__(self, name: str, strategy: Any) -> None:
        header, drops = self._filter.header, self._filter.drops

        def filtered(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> Any:
            if header in message.headers and drops(message, body, ack):
                return None
            return strategy(message, body, ack, reject, callbacks)

        filtered.__wrapped__ = strategy  # type: ignore[attr-defined]
        super().__setitem__(name, filtered)

    def check(self, consumer: Any) -> None:
        """Check that no message can bypass the filter.

        Raises:
            ImproperlyConfigured: This Celery keeps its strategies elsewhere, or something else
                has replaced them.
        """
        wrapped = len(self) > 0 and all(hasattr(each, "__wrapped__") for each in self.values())
        if consumer.strategies is not self or not wrapped:
            raise ImproperlyConfigured(
                f"second publications of periodic runs cannot be dropped: Celery "
                f"{celery.__version__}, or another extension, does not take the strategies of its "
                f"tasks from consumer.strategies; use another release of Celery, or remove "
                f"celery_safe_leader.install(app)"
            )
