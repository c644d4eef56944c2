"""What became of an attempt to publish one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from celery_safe_leader.errors import SafeLeaderError

__all__ = [
    "BuildError",
    "Failed",
    "NotSent",
    "Outcome",
    "Refused",
    "Sent",
    "Uncertain",
    "of_the_rest",
    "replace_sent",
]

_LONGEST_DETAIL = 500
"""Characters of an error's message that are shown."""


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
        text = " ".join(str(cause).split()) or "no details"
        if len(text) > _LONGEST_DETAIL:
            text = f"{text[:_LONGEST_DETAIL]}…"
        return cls(entry, task, f"{type(cause).__name__}: {text}")


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
    """Whether there was a connection. If not, no message can be to blame."""


class Refused(NamedTuple):
    """It cannot be published, now or later: the task class or its message is at fault."""

    error: BuildError
    """What is wrong."""


class NotSent(NamedTuple):
    """It was withheld, because the leadership had ended or its moment did not come."""


Outcome: TypeAlias = Sent | Uncertain | Failed | Refused | NotSent


def of_the_rest(last: Outcome) -> Outcome:
    """Return the outcome of messages that were not tried after one that did not arrive."""
    return Failed(last.error) if isinstance(last, Uncertain) else last


def replace_sent(
    outcomes: Sequence[Outcome], replacement: Callable[[Sent], Outcome]
) -> list[Outcome]:
    """Return the outcomes with a replacement for each that was thought to be sent."""
    return [replacement(outcome) if isinstance(outcome, Sent) else outcome for outcome in outcomes]
