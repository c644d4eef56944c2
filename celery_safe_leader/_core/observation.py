"""What a candidate has seen of the record, and whether that lets it campaign."""

from __future__ import annotations

from dataclasses import replace

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Record
from celery_safe_leader._core.options import MARGIN, MAX_TTL, Options

__all__ = ["Observation"]


class Observation:
    """One candidate's observations of one election. Not thread-safe."""

    def __init__(self, options: Options) -> None:
        """Begin with nothing seen."""
        self.longest_ttl = options.ttl
        """Seconds: the largest ttl ever seen in this election, our own included.

        A holder's lease may be longer than ours: a standby waits for the longest.
        """
        self.highest_token = 0
        """Highest fencing token ever seen, to number ours above it when Redis forgets."""
        self.record: Record | None = None
        """The record as last seen."""
        self._replicas_asked = options.wait_replicas > 0
        self._seen_at: Instant | None = None
        self._own_version = ""
        self._witnessed_epoch = ""

    @property
    def needs_witness(self) -> bool:
        """Whether no write of ours was confirmed by replicas in the epoch last seen.

        Until one was, this server may be a master that its replicas have left, where a record
        can look untouched while its leader renews elsewhere. An observation starts after it.
        """
        if not self._replicas_asked:
            return False
        return self.record is None or self.record.epoch != self._witnessed_epoch

    def note(self, record: Record, answered_at: Instant, *, confirmed: bool = False) -> None:
        """Take in a record that a server showed.

        Args:
            record: As it was shown.
            answered_at: The moment *after* the answer came: the record was seen no later.
            confirmed: Replicas confirmed a write of ours along with it.
        """
        if confirmed:
            self._witnessed_epoch = record.epoch
        self.longest_ttl = max(self.longest_ttl, min(record.ttl, MAX_TTL))
        self.highest_token = max(self.highest_token, record.token)
        if self.record is None or record.version != self.record.version:
            self._seen_at = None
        self.record = self._judged(record)
        if self._seen_at is None and not self.needs_witness:
            self._seen_at = answered_at

    def _judged(self, record: Record) -> Record:
        """Take for resigned here what was given up before our eyes, under one epoch.

        Who knows a server by a connection cannot tell from the record alone where that was.
        """
        before = self.record
        if before is None or record.resigned or not record.given_up:
            return record
        if before.version == record.version:
            return replace(record, resigned=before.resigned)
        same = (before.epoch, before.holder, before.token)
        taken = bool(record.holder)
        witnessed = (
            taken and not before.given_up and same == (record.epoch, record.holder, record.token)
        )
        return replace(record, resigned=witnessed)

    def own(self, record: Record, answered_at: Instant) -> None:
        """Take in the record as our own accepted and confirmed write left it."""
        self.note(record, answered_at, confirmed=True)
        self._own_version = record.version

    def disown(self) -> None:
        """Forget that the record is our own: a campaign's outcome is not known."""
        self._own_version = ""

    def takeover_in(self, now: Instant) -> float | None:
        """Return the seconds until we may campaign.

        Returns:
            0 if we may at once, ``None`` if no observation has begun.
        """
        if self.record is None:
            return None
        if self.record.resigned or self.record.version == self._own_version:
            return 0.0
        if self._seen_at is None:
            return None
        return max(0.0, self.longest_ttl * (1 + MARGIN) - now.shortest_since(self._seen_at))
