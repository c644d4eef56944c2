"""What is right of the messages of a history, and what was seen of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

__all__ = ["Judge"]


@dataclass
class _Entry:
    start: int
    every: int
    silent: bool
    misses: bool
    changes: list[int] = field(default_factory=list)
    periods: set[int] = field(default_factory=set)
    ran: list[tuple[int, int]] = field(default_factory=list)


class Judge:
    """Takes down what happens. Moments are in microseconds, periods in seconds."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._nonces: dict[str, list[str]] = {}
        self.gone: set[str] = set()
        self.excuse = ""
        """Why a run may be doubled or lost."""
        self.is_lost = False
        """Whether Redis lost the ledger, and the leader has not restored it."""
        self.messages = 0

    @property
    def seen(self) -> set[str]:
        """Occurrences of all messages that were in the queue."""
        return set(self._nonces)

    def added(self, name: str, last_run: int, every: int, *, silent: bool, misses: bool) -> None:
        """Note an entry. ``silent``: no message comes of it; ``misses``: what is late is missed."""
        self._entries[name] = _Entry(last_run, every, silent, misses, periods={every * 1_000_000})

    def changed(self, name: str, now: int, every: int) -> None:
        """Note another schedule."""
        self._entries[name].changes.append(now)
        self._entries[name].periods.add(every * 1_000_000)

    def took(
        self, name: str, covers: tuple[int, int], occurrence: str, nonce: str, *, ran: bool
    ) -> None:
        """Note a message that was in the queue."""
        self.messages += 1
        before = self._nonces.setdefault(occurrence, [])
        before.append(nonce)
        if ran:
            self._entries[name].ran.append(covers)
        if len(before) > 1 and not self.excuse:
            assert len(set(before)) == len(before), f"{name}: the same message twice"
            once = [each for each in before if each.startswith("once-")]
            assert not once, f"{name}: published once, and again: {before}"

    def ended(self, done: Mapping[str, int], since: int, present: Collection[str]) -> None:
        """Check the ranges of every entry.

        Args:
            done: What the ledger says that each entry's last run is.
            since: Each entry of the schedule was due later than then.
            present: Entries of the schedule.
        """
        for name in present:
            assert done.get(name, 0) > since, f"{name} does not run any more"
        if self.excuse:
            return
        for name, entry in self._entries.items():
            if not entry.silent:
                self._check(name, entry)
                if entry.ran and name in present:
                    assert max(entry.ran)[1] == done[name], f"{name}: its last run is lost"

    def _check(self, name: str, entry: _Entry) -> None:
        before = (entry.start, entry.start)
        for covers in sorted(entry.ran):
            assert covers[0] > before[1], f"{name} ran twice: {before} {covers}"
            gap = covers[0] - before[1]
            is_right = gap in entry.periods or (
                # A run that was claimed, and then waited too long for the broker.
                entry.misses and any(gap % period == 0 for period in entry.periods)
            )
            # Made up for under a new schedule: it covers all that the old one may have owed.
            until = covers[1] if gap == 1 else covers[0]
            if not is_right and not any(
                before[1] - 1_000_000 <= change <= until for change in entry.changes
            ):
                raise AssertionError(f"{name}: a run is lost between {before} and {covers}")
            before = covers
