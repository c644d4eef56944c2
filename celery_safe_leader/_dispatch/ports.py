"""What the dispatcher needs of others: entries, messages and their publication."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Protocol

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.outcomes import Called, CollectOutcome, Outcome
from celery_safe_leader._dispatch.tenure import Gate
from celery_safe_leader._ledger.codec import Claim

__all__ = ["Making", "MessageBuilder", "MessagePublisher", "Schedule"]


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


class Making(Enum):
    """How the message of a run is made."""

    EARLY = "early"
    """It is built, and may be a little before its moment: it would be the same then."""
    AT_THE_MOMENT = "at the moment"
    """It is built, at the moment itself."""
    CALLED = "called"
    """Celery's own code makes it, at the moment. What it makes is published afterwards."""
    CALLED_WITHIN = "called, within"
    """The same, and it is published before that code goes on."""

    @property
    def is_called(self) -> bool:
        """Whether Celery's own code makes it."""
        return self in (Making.CALLED, Making.CALLED_WITHIN)


class MessageBuilder(Protocol):
    """Builds messages. Does no IO, unless user code does."""

    def making(self, source: Any) -> Making:
        """Return how the message of an entry's next run is made."""

    def build_run(self, source: Any, claim: Claim, token: int) -> Any:
        """Return the message of one run, for the publisher; never ``None``.

        Args:
            source: What the entry was made from.
            claim: The run.
            token: Fencing token of the tenure that publishes it.

        Raises:
            BuildError: Whatever is wrong with the entry.
        """

    def call(
        self,
        source: Any,
        claim: Claim,
        token: int,
        publish: Callable[[Any], None] | None,
    ) -> Called:
        """Let Celery's own code send one run, on the publisher's connection.

        Args:
            source: What the entry was made from.
            claim: The run.
            token: Fencing token of the tenure that publishes it.
            publish: Called with each message, for the publisher; what it raises, that code gets.
                Without, messages are only returned.
        """

    def begin(self) -> None:
        """Look anew at what a new tenure has to know of other people's code."""

    def forget(self, name: str) -> None:
        """Drop what is remembered of an entry that is gone."""


class MessagePublisher(Protocol):
    """Gets messages to the broker, in order, and never tries again."""

    @property
    def connection_number(self) -> int:
        """Another one for each new connection to the broker; 0 before the first."""

    def counted_from(self, message: Any, moment_us: int) -> Any:
        """Return a message with times that count from a moment, if they count from publication.

        Args:
            message: What the builder built.
            moment_us: When it is published.
        """

    def expired_for(self, message: Any, moment_us: int) -> float | None:
        """Return for how many seconds a message is expired at a moment; ``None`` if it is not."""

    def why_not_transactional(self) -> str:
        """Return why no script can push the messages of this broker, as a clause.

        Opens the connection if there is none, and raises what that raises.

        Returns:
            Empty if a script can.
        """

    def leave_probe(self, key: str, value: str, seconds: int) -> str:
        """Write a value over the broker's connection, under the key as it stands.

        Args:
            key: To write to.
            value: To write.
            seconds: For which it is kept.

        Returns:
            The server's ``run_id``; empty where the broker's user may not ask for it.
        """

    def collect(self, batch: Sequence[Any], at_us: Sequence[int]) -> list[CollectOutcome]:
        """Make the command of each message that ``publish`` would send, and send none.

        Args:
            batch: What the builder built.
            at_us: When each goes out, in microseconds since 1970: its time to live starts then.

        Returns:
            One outcome for each message, in the same order.
        """

    def notify(self, published: Sequence[tuple[Any, str]]) -> None:
        """Tell who listens that collected messages are in their queues.

        Args:
            published: Messages, and the nonces that they were collected with.
        """

    def publish(self, batch: Sequence[Any], may_write: Gate) -> list[Outcome]:
        """Publish messages.

        Args:
            batch: What the builder built, or a tuple of several messages for one run.
            may_write: Called when all is ready, right before each write. It may wait for the
                moment of the messages. If it returns false, nothing is written.

        Returns:
            One outcome for each of the batch, in the same order.
        """

    def connect(self) -> None:
        """Open the connection if there is none; raise what that raises."""

    def leave_connection(self) -> Callable[[], None]:
        """Leave the connection to a call that uses it still. The next use opens another.

        Returns:
            What closes it, for when that call has returned.
        """

    def refuses(self, message: Any, error: BaseException) -> str:
        """Return what refused a message, in words; empty if the connection is at fault.

        Args:
            message: What the builder built.
            error: What publishing it ended with.
        """

    def forget_declarations(self) -> None:
        """Declare queues anew. For a broker that has lost its data."""

    def close(self) -> None:
        """Close the connection. The next use opens another. May be called again."""
