"""The one place that reaches into Celery's consumer: what happens to a message before all else.

A consumer hands each message to the *strategy* of its task, which it keeps in the mapping
``consumer.strategies`` (celery/worker/consumer/consumer.py, read in 5.4.0, 5.5.3, 5.6.0 and 5.7.0:
``update_strategies`` assigns the items at every connect and at ``pool_restart``, and
``create_task_handler`` calls ``strategies[task](message, body, ack, reject, callbacks)``). A task
may have a strategy class of its own, so replacing Celery's would miss some; a mapping that guards
whatever is put into it misses none.
"""

from __future__ import annotations

from typing import Any, Protocol

import celery
from celery.exceptions import ImproperlyConfigured

__all__ = ["Guard", "GuardedStrategies"]


class Guard(Protocol):
    """Decides before a strategy does."""

    header: str
    """Messages without this header are none of its business."""

    def drops(self, message: Any, body: Any, ack: Any) -> bool:
        """Return whether the message must go no further; it is acknowledged then."""


class GuardedStrategies(dict[str, Any]):
    """A consumer's strategies, each behind a guard."""

    def __init__(self, guard: Guard) -> None:
        """Make an empty mapping."""
        super().__init__()
        self._guard = guard

    def __setitem__(self, name: str, strategy: Any) -> None:
        header, drops = self._guard.header, self._guard.drops

        def guarded(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> Any:
            if header in message.headers and drops(message, body, ack):
                return None
            return strategy(message, body, ack, reject, callbacks)

        guarded.__wrapped__ = strategy  # type: ignore[attr-defined]
        super().__setitem__(name, guarded)

    def check(self, consumer: Any) -> None:
        """Make sure that no message can pass by the guard.

        Raises:
            ImproperlyConfigured: This Celery keeps its strategies elsewhere, or something else
                has replaced them.
        """
        guarded = len(self) > 0 and all(hasattr(each, "__wrapped__") for each in self.values())
        if consumer.strategies is not self or not guarded:
            raise ImproperlyConfigured(
                f"second publications of periodic runs cannot be dropped: Celery "
                f"{celery.__version__}, or another extension, does not take the strategies of its "
                f"tasks from consumer.strategies; use another release of Celery, or remove "
                f"celery_safe_leader.install(app)"
            )
