"""What the messages of periodic tasks are: built, encoded, and not sent yet.

A message that is built can no longer fail for a reason of its own: its arguments are evaluated
and checked, its route is known, its body is encoded. One entry's mistake therefore shows here,
alone, and cannot take a batch with it. How it is built is in ``builder``; how it gets to the
broker, in ``publisher``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_safe_leader.errors import SafeLeaderError

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = [
    "COVERS",
    "ELECTION",
    "OCCURRENCE",
    "PUBLICATION",
    "TOKEN",
    "BuildError",
    "Built",
    "Call",
    "Message",
    "leader_headers",
]

ELECTION = "leader_election"
"""Header: the key whose ledger and acceptance records hold the occurrence."""

OCCURRENCE = "leader_occurrence"
"""Header: id of the occurrence, which is the task id too."""

PUBLICATION = "leader_publication"
"""Header: the nonce of one attempt to publish."""

TOKEN = "leader_token"  # noqa: S105 - the name of a header
"""Header: the fencing token under which it was published."""

COVERS = "leader_covers"
"""Header: "first,last" due moment that the run stands for, in microseconds."""

_LONGEST_DETAIL = 500

_LONGEST_TTL = (2**32 - 1) / 1000
"""Seconds that RabbitMQ accepts; it closes the channel upon more."""


class BuildError(SafeLeaderError):
    """The message of an entry cannot be built. Trying again will not help.

    What was raised, if anything was, is in ``__cause__``.

    Args:
        entry: Name of the entry.
        task: Name of its task.
        detail: What is wrong.
    """

    def __init__(self, entry: str, task: str, detail: str) -> None:
        super().__init__(entry, task, detail)
        self.entry = entry
        self.task = task
        self.detail = detail

    def __str__(self) -> str:
        return f"periodic task {self.entry!r} ({self.task}) cannot be sent: {self.detail}"

    @classmethod
    def because(cls, entry: str, task: str, cause: BaseException) -> BuildError:
        """Describe what was raised, in one line."""
        text = " ".join(str(cause).split()) or "no details"
        if len(text) > _LONGEST_DETAIL:
            text = f"{text[:_LONGEST_DETAIL]}…"
        return cls(entry, task, f"{type(cause).__name__}: {text}")


class Message(NamedTuple):
    """A message that is ready for the broker, but for the nonce of the attempt.

    It is never changed: each attempt sends a copy of the headers.
    """

    entry: str
    """Name of the entry."""
    task: str
    """Name of the task."""
    task_id: str
    """Id of the task."""
    headers: Mapping[str, Any]
    """All headers, without the nonce."""
    properties: Mapping[str, Any]
    """Other arguments for kombu's ``Producer.publish``, as Celery gives them."""
    content: Any
    """The body as Python objects, for receivers of Celery's signals."""
    body: bytes
    """The encoded body."""
    content_type: str
    """Type of ``body``."""
    content_encoding: str
    """Encoding of ``body``."""
    exchange: str
    """Name of the exchange; empty for the anonymous one."""
    routing_key: str
    """Routing key."""
    delivery_mode: Any
    """Persistent or transient, as Celery gives it."""
    declare: Sequence[Any]
    """Queues that have to be declared before."""
    expires_us: int | None
    """When it expires, for the time to live that AMQP brokers look at."""
    event: Mapping[str, Any] | None
    """Fields of the event task-sent, if it is to be sent."""

    def time_to_live(self, now: float) -> float | None:
        """Return the seconds for which a broker should keep it, if it expires.

        Args:
            now: Seconds since 1970.
        """
        if self.expires_us is None:
            return None
        left = max(0.0, self.expires_us / 1e6 - now)
        # For longer ones there is the header, at which workers look.
        return left if left < _LONGEST_TTL else None


class Call(NamedTuple):
    """A task that Celery, or the task class itself, has to send: see ``reason``.

    Its arguments are evaluated and checked; what else may be wrong with it shows when it is sent.
    """

    entry: str
    """Name of the entry."""
    task: str
    """Name of the task."""
    task_id: str
    """Id of the task."""
    headers: Mapping[str, Any]
    """The user's headers and ours, without the nonce."""
    target: Any
    """The task; ``None`` if it is not registered here."""
    args: Sequence[Any]
    """Evaluated positional arguments."""
    kwargs: Mapping[str, Any]
    """Evaluated keyword arguments."""
    options: Mapping[str, Any]
    """Options of the entry for ``apply_async``, without headers, relative times made absolute."""
    reason: str
    """Why it is not built here."""


if TYPE_CHECKING:
    Built: TypeAlias = Message | Call
else:
    Built = (Message, Call)


def leader_headers(
    election: str, occurrence: str, token: int, covers_us: tuple[int, int]
) -> dict[str, Any]:
    """Make the headers that workers need to recognize an occurrence.

    Args:
        election: Key of the ledger.
        occurrence: Id of the occurrence.
        token: Fencing token of the leader that publishes.
        covers_us: First and last due moment that the run stands for, in microseconds.
    """
    return {
        ELECTION: election,
        OCCURRENCE: occurrence,
        TOKEN: token,
        COVERS: f"{covers_us[0]},{covers_us[1]}",
    }
