"""The election of the beats, as everybody can see it in Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import Redis


@dataclass(frozen=True)
class Transition:
    """One entry of the election's history."""

    id: str
    event: str
    """``elected``, ``resigned`` or ``restored``."""
    holder: str
    token: int
    at: float
    """Seconds since 1970, by the clock of Redis."""

    @property
    def pid(self) -> int:
        """Process id of the candidate."""
        return pid_of(self.holder)


def pid_of(candidate: str) -> int:
    """Read the process id from a candidate id, ``<host>:<pid>:<random>``."""
    return int(candidate.rsplit(":", 2)[1])


class Election:
    """Reads the record and the history of one key's beats. Never writes.

    Args:
        client: A client with ``decode_responses=True``.
        key: The setting ``leader_key`` of the beats.
    """

    def __init__(self, client: Redis, key: str) -> None:
        self._client: Any = client  # redis-py's types leave open whether a call is awaited
        self._lease = f"{{leader:{key}}}:beat:lease"
        self._history = f"{{leader:{key}}}:beat:history"

    def leader(self) -> int | None:
        """Return the process id of the candidate that the record names, if it names one."""
        holder, resigned = self._client.hmget(self._lease, "holder", "resigned")
        if not holder or resigned == "1":
            return None
        return pid_of(holder)

    def transitions(self) -> list[Transition]:
        """Return the whole history, oldest first."""
        return [
            Transition(
                entry,
                fields["event"],
                fields["holder"],
                int(fields["token"]),
                int(fields["at"]) / 1000,
            )
            for entry, fields in self._client.xrange(self._history)
        ]

    def elected_after(self, token: int) -> Transition | None:
        """Return the first election under a token higher than this one."""
        for transition in self.transitions():
            if transition.event == "elected" and transition.token > token:
                return transition
        return None
