"""The election of the beats, as everybody can see it in Redis."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Reads the record and the history of one key's beats. Never writes."""

    def __init__(self, client: Redis, key: str) -> None:
        self._client = client
        self._lease = f"{{leader:{key}}}:beat:lease"
        self._history = f"{{leader:{key}}}:beat:history"

    def leader(self) -> int | None:
        """Return the process id of the candidate that the record names, if it names one."""
        holder, resigned = self._client.hmget(self._lease, "holder", "resigned")
        if not holder or resigned == b"1":
            return None
        return pid_of(holder.decode())

    def transitions(self) -> list[Transition]:
        """Return the whole history, oldest first."""
        return [
            Transition(
                entry.decode(),
                fields[b"event"].decode(),
                fields[b"holder"].decode(),
                int(fields[b"token"]),
                int(fields[b"at"]) / 1000,
            )
            for entry, fields in self._client.xrange(self._history)
        ]

    def elected_after(self, token: int) -> Transition | None:
        """Return the first election under a token higher than this one."""
        for transition in self.transitions():
            if transition.event == "elected" and transition.token > token:
                return transition
        return None
