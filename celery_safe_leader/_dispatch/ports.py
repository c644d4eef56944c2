"""What the dispatcher needs of others: entries, messages and their publication."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.outcomes import Outcome
from celery_safe_leader._dispatch.tenure import Gate
from celery_safe_leader._ledger.codec import Claim

__all__ = ["MessageBuilder", "MessagePublisher", "Schedule"]


class Schedule(Protocol):
    """The entries, and which of them changed."""

    @property
    def entries(self) -> dict[str, Entry]:
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
        """Return the message of one run, for the publisher; never ``None``.

        Args:
            source: What the entry was made from.
            claim: The run.
            token: Fencing token of the tenure that publishes it.

        Raises:
            BuildError: Whatever is wrong with the entry.
        """

    def is_steady(self, source: Any) -> bool:
        """Return whether a message may be built a little before its moment.

        It may if it would be the same at the moment itself.
        """

    def forget(self, name: str) -> None:
        """Drop what is remembered of an entry that is gone."""


class MessagePublisher(Protocol):
    """Gets messages to the broker, in order, and never tries again."""

    def publish(self, batch: Sequence[Any], may_write: Gate) -> list[Outcome]:
        """Publish messages.

        Args:
            batch: What the builder built.
            may_write: Called when all is ready, right before each write. It may wait for the
                moment of the messages. If it returns false, nothing is written.

        Returns:
            One outcome for each message, in the same order.
        """

    def forget_declarations(self) -> None:
        """Declare queues anew. For a broker that has lost its data."""

    def close(self) -> None:
        """Close the connection. The next use opens another. May be called again."""
