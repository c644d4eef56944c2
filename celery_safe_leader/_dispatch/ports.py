"""What the dispatcher needs of others: entries, messages and their publication."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.outcomes import Outcome
from celery_safe_leader._ledger.codec import Claim

__all__ = ["Gate", "MessageBuilder", "MessagePublisher", "Schedule"]

Gate = Callable[[], bool]
"""Tells whether this process still leads under the token of the tenure."""


class Schedule(Protocol):
    """The entries, and which of them changed."""

    @property
    def items(self) -> dict[str, Entry]:
        """Every entry that can be followed, by name."""

    def changes(self) -> dict[str, Entry | None]:
        """Return the entries that are new, changed or gone since the last call.

        Returns:
            Name -> what it was at the last call; ``None`` if it was not there, or not followed.
        """

    def given_last_run(self, name: str) -> datetime | None:
        """Return the ``last_run_at`` that the user wrote into an entry, if any."""


class MessageBuilder(Protocol):
    """Builds messages. Does no IO, unless a lazy argument or a receiver does."""

    def build_run(self, source: Any, claim: Claim, token: int) -> Any:
        """Build the message of one run.

        Args:
            source: What the entry was made from.
            claim: The run.
            token: Fencing token of the tenure that publishes it.

        Raises:
            BuildError: Whatever is wrong with the entry.
        """

    def is_steady(self, source: Any) -> bool:
        """Tell whether a message that is built a little before its moment is the same as then."""

    def forget(self, name: str) -> None:
        """Drop what is remembered of an entry that is gone."""


class MessagePublisher(Protocol):
    """Gets messages to the broker, in order, and never tries again."""

    def publish(
        self, batch: Sequence[Any], *, together: bool = True, hold: Gate | None = None
    ) -> list[Outcome]:
        """Publish messages.

        Args:
            batch: What the builder built.
            together: ``False`` sends each in a request of its own.
            hold: Called when all is ready; if it says no, nothing is written.

        Returns:
            One outcome for each message, in the same order.
        """

    def forget_declarations(self) -> None:
        """Declare queues anew. For a broker that has lost its data."""

    def close(self) -> None:
        """Close the connection. The next use opens another. May be called again."""
