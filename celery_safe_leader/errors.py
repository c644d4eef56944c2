"""All errors that this package raises, as one tree.

All arguments are positional and kept in ``args``, and the message is built in ``__str__``: an error
that is sent to another process (by pickle, or by Celery's result backend, which rebuilds
``cls(*args)`` from JSON) arrives with the same type, fields and message.

    SafeLeaderError
    ├── ConfigurationError     an invalid option; raised before anything starts
    ├── LifecycleError         a call that the present state does not allow
    ├── StoreError             the election's Redis
    │   ├── StoreUnavailableError   no answer: the outcome is unknown
    │   └── StoreRefusedError       it answered with an error
    └── NotLeaderError         leadership was required, and this process does not lead
        ├── LeadershipLostError     it did when the work began
        └── EntryWithheldError      a beat was told to send an entry, and does not lead
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "EntryWithheldError",
    "LeadershipLostError",
    "LifecycleError",
    "NotLeaderError",
    "SafeLeaderError",
    "StoreError",
    "StoreRefusedError",
    "StoreUnavailableError",
]


class SafeLeaderError(Exception):
    """Base class of all errors of this package."""


class ConfigurationError(SafeLeaderError, ValueError):
    """An option has a value that is not allowed.

    Raised when the option is given, before any thread, connection or process is started.

    Args:
        setting: Name of the setting or argument.
        value: ``repr`` of the refused value, without secrets.
        allowed: What is allowed, as the end of a sentence: "a number of seconds above 0".
    """

    def __init__(self, setting: str, value: str, allowed: str) -> None:
        super().__init__(setting, value, allowed)
        self.setting = setting
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.setting} is {self.value}; it must be {self.allowed}"


class LifecycleError(SafeLeaderError, RuntimeError):
    """A call that the present state does not allow, such as any call after ``shutdown()``."""


class StoreError(SafeLeaderError):
    """The election's Redis did not do what it was asked to do.

    The error of redis-py, if any, is in ``__cause__``.

    Args:
        key: The election, or the Redis key, that the request was for.
        detail: What happened, without secrets.
    """

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(key, detail)
        self.key = key
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.key}: {self.detail}"


class StoreUnavailableError(StoreError):
    """No answer: refused, timed out or cut off. The request may have been executed."""


class StoreRefusedError(StoreError):
    """Redis answered with an error: it is a replica, a right is missing, a key has another type.

    Args:
        key: The election, or the Redis key, that the request was for.
        detail: What happened, without secrets.
        is_missing_right: Whether the same would be refused for as long as the server's rights and
            slots are what they are.
    """

    def __init__(self, key: str, detail: str, is_missing_right: bool = False) -> None:
        super().__init__(key, detail)
        self.args = (key, detail, is_missing_right)
        self.is_missing_right = is_missing_right


class NotLeaderError(SafeLeaderError):
    """Leadership was required, and this process does not lead.

    Args:
        key: The election.
        holder: Candidate id of the presumed leader; empty if none is known.
    """

    def __init__(self, key: str, holder: str = "") -> None:
        super().__init__(key, holder)
        self.key = key
        self.holder = holder

    def __str__(self) -> str:
        who = f"{self.holder} does" if self.holder else "nobody is known to"
        return f"this process does not lead {self.key!r} ({who})"


class LeadershipLostError(NotLeaderError):
    """Leadership was held when the work began and has ended since, even if won again.

    Args:
        key: The election.
        fencing_token: The token under which the work began.
        reason: Why leadership ended.
    """

    def __init__(self, key: str, fencing_token: int = 0, reason: str = "") -> None:
        super().__init__(key)
        self.args = (key, fencing_token, reason)
        self.fencing_token = fencing_token
        self.reason = reason

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"leadership of {self.key!r} under token {self.fencing_token} has ended{why}"


class EntryWithheldError(NotLeaderError):
    """Somebody told a beat that does not lead to send an entry; nothing was sent.

    Args:
        key: The election.
        entry: Name of the entry; empty if it is not known.
    """

    def __init__(self, key: str, entry: str = "") -> None:
        super().__init__(key)
        self.args = (key, entry)
        self.entry = entry

    def __str__(self) -> str:
        what = f"entry {self.entry!r}" if self.entry else "the message"
        return (
            f"{what} was not sent: this beat does not lead {self.key!r} now, and only the beat "
            "that leads sends entries. To run the task all the same, call it with apply_async() or "
            "app.send_task()"
        )
