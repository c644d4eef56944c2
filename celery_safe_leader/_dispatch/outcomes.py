"""What became of an attempt to publish one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from celery_safe_leader._ledger.publications import Push
from celery_safe_leader._schedules.safe_text import safe_str
from celery_safe_leader.errors import SafeLeaderError

__all__ = [
    "BuildError",
    "Called",
    "CollectOutcome",
    "Collected",
    "ExpiredRunError",
    "Failed",
    "NotPlain",
    "NotPublishedError",
    "NotSent",
    "Outcome",
    "Refused",
    "Sent",
    "Uncertain",
    "of_the_rest",
    "replace_sent",
]


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
        """Return the error for what was raised, described in one line."""
        return cls(entry, task, f"{type(cause).__name__}: {safe_str(cause)}")

    @classmethod
    def of(cls, entry: str, source: Any, cause: BaseException) -> BuildError:
        """Return the error for what was raised while the message of an entry was built.

        Args:
            entry: What the entry is called.
            source: What it is made from, if its task can be read from it.
            cause: What was raised.
        """
        return cls.because(entry, _task_of(source), cause)


class ExpiredRunError(BuildError):
    """A message would go out expired, and no worker would run its task."""

    def __str__(self) -> str:
        return f"periodic task {self.entry!r} ({self.task}) is missed: {self.detail}"

    @classmethod
    def by(cls, entry: str, source: Any, seconds: float) -> ExpiredRunError:
        """Return the error for a message that has been expired for so long."""
        detail = f"it expired {seconds:.1f} s before it could be published"
        return cls(entry, _task_of(source), detail)


class NotPublishedError(SafeLeaderError):
    """A message of a periodic run is not in its queue.

    Celery's own code gets it from the producer, as it would get an error of the broker.

    Args:
        entry: Name of the entry.
        detail: Why, as a clause.
    """

    def __init__(self, entry: str, detail: str) -> None:
        super().__init__(entry, detail)
        self.entry = entry
        self.detail = detail

    def __str__(self) -> str:
        return f"the run of periodic task {self.entry!r} was not published: {self.detail}"


class Sent(NamedTuple):
    """The broker has it."""

    nonce: str
    """The nonce of the attempt, as the message carries it."""


class Uncertain(NamedTuple):
    """The broker may have it or not. It has to be published again, under a new nonce."""

    error: BaseException
    """What happened instead of an answer."""
    nonce: str
    """The nonce that the message carries, if it arrived."""

    @property
    def reached(self) -> bool:
        """There was a connection: it broke while the message was sent, or after."""
        return True


class Failed(NamedTuple):
    """The broker certainly does not have it. It has to be published again."""

    error: BaseException
    """What happened, to this message or to an earlier one of the batch."""
    reached: bool = True
    """Whether it was tried over a connection. If not, it cannot be to blame."""


class Refused(NamedTuple):
    """It cannot be published, now or later: the task class or its message is at fault."""

    error: BuildError
    """What is wrong."""


class NotSent(NamedTuple):
    """It was withheld, because the leadership had ended or its moment did not come."""


class Collected(NamedTuple):
    """It can be published by the script that records its run, and was not sent."""

    push: Push
    """What the script has to write."""
    nonce: str
    """The nonce of the attempt, as the message carries it; it begins with ``once-``."""


class NotPlain(NamedTuple):
    """It cannot be published by the script; it goes by write-ahead."""

    reason: str
    """Why, as a clause for people."""


class Called(NamedTuple):
    """What came of letting Celery's own code send a run."""

    messages: Sequence[Any]
    """What it gave to the producer."""
    error: BuildError | None = None
    """What it raised, if that is the entry's fault."""
    trouble: BaseException | None = None
    """What a connection raised: the run is due still."""
    is_broker: bool = False
    """Whether that was the broker's."""


CollectOutcome: TypeAlias = Collected | NotPlain | Refused | Failed

Outcome: TypeAlias = Sent | Uncertain | Failed | Refused | NotSent


def of_the_rest(last: Outcome) -> Outcome:
    """Return the outcome of messages that were not tried after one that did not arrive."""
    return Failed(last.error, reached=False) if isinstance(last, Uncertain | Failed) else last


def replace_sent(
    outcomes: Sequence[Outcome], replacement: Callable[[Sent], Outcome]
) -> list[Outcome]:
    """Return the outcomes with a replacement for each that was thought to be sent."""
    return [replacement(outcome) if isinstance(outcome, Sent) else outcome for outcome in outcomes]


def _task_of(source: Any) -> str:
    try:
        return str(source.task)
    except Exception:
        return "a task that cannot be shown"
