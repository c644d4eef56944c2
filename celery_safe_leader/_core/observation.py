"""What a candidate has seen of the record, and whether it may campaign on that."""

from __future__ import annotations

from dataclasses import replace

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Record
from celery_safe_leader._core.options import MARGIN, MAX_TTL, Options

__all__ = ["Observation"]


class Observation:
    """One candidate's observations of one election. Not thread-safe."""

    def __init__(self, options: Options, candidate_id: str = "") -> None:
        self.longest_ttl = options.ttl
        """Seconds: the largest ttl ever seen in this election, our own included.

        A holder's lease may be longer than ours, so a standby waits for the longest.
        """
        self.highest_token = 0
        """Highest fencing token ever seen; ours is numbered above it when Redis lost the record."""
        self.record: Record | None = None
        """The record as last seen."""
        self.campaign_later = 0.0
        """Seconds by which we campaign later than the rules allow, to let others go first."""
        self._replicas_asked = options.wait_replicas > 0
        self._wait = options.wait
        self._candidate_id = candidate_id
        self._first_seen_at: Instant | None = None
        self._seen_at: Instant | None = None
        self._own_version = ""
        self._witnessed_epoch = ""

    @property
    def needs_witness(self) -> bool:
        """Whether replicas have yet to confirm a write of ours in the epoch last seen.

        Until then this server may be a master that its replicas have left, where a record can
        look untouched while its leader renews elsewhere. So an observation starts only after it.
        """
        if not self._replicas_asked:
            return False
        return self.record is None or self.record.epoch != self._witnessed_epoch

    def note(self, record: Record, answered_at: Instant, *, confirmed: bool = False) -> None:
        """Remember a record that a server returned.

        Args:
            record: As it was returned.
            answered_at: A moment *after* the answer came: the record was seen no later.
            confirmed: Whether replicas confirmed a write of ours along with it.
        """
        if confirmed:
            self._witnessed_epoch = record.epoch
        self.longest_ttl = max(self.longest_ttl, min(record.ttl, MAX_TTL))
        self.highest_token = max(self.highest_token, record.token)
        if self.record is None or record.version != self.record.version:
            self._seen_at = None
            self._first_seen_at = answered_at
        if record.version != self._own_version:
            self._own_version = ""  # if it comes back, somebody brought a copy back
        self.record = self._as_latest(self._as_witnessed(record))
        if self._seen_at is None and not self.needs_witness:
            self._seen_at = answered_at

    def _as_witnessed(self, record: Record) -> Record:
        """Return the record, marked as resigned here if we saw it given up within one epoch.

        A candidate that identifies a server by its connection cannot tell from the record alone
        on which server it was resigned.
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

    def _as_latest(self, record: Record) -> Record:
        """Return the record, not marked as resigned if we know of a later leader than its holder.

        It is a copy that was brought back, and that leader may still lead.
        """
        if record.resigned and record.token < self.highest_token:
            return replace(record, resigned=False)
        return record

    def own(self, record: Record, answered_at: Instant) -> None:
        """Remember the record as our own accepted and confirmed write left it."""
        self.note(record, answered_at, confirmed=True)
        self._own_version = record.version

    def disown(self) -> None:
        """Forget that the record is our own, since the outcome of a write is not known."""
        self._own_version = ""

    def takeover_in(self, now: Instant) -> float | None:
        """Return the seconds until we may campaign: 0 for now, ``None`` if no observation began."""
        if self.record is None:
            return None
        is_own = self.record.version == self._own_version
        if self.record.resigned and self.record.successor == self._candidate_id != "":
            return 0.0  # also if we are to go last: somebody asked for us
        if not self.campaign_later and (self.record.resigned or is_own):
            return 0.0 if is_own else self._successor_goes_first(now)
        if self._seen_at is None:
            return None
        # Our own record is nobody else's to take before it has stood still for as long as theirs.
        still = 0.0 if self.record.resigned else self.longest_ttl * (1 + MARGIN)
        return max(0.0, still + self.campaign_later - now.shortest_since(self._seen_at))

    def _successor_goes_first(self, now: Instant) -> float:
        """Return the seconds for which somebody else may take a record that was resigned to it.

        One ``wait`` after we saw it, and no more: the successor may be dead.
        """
        record, seen_at = self.record, self._first_seen_at
        if record is None or seen_at is None or record.successor in ("", self._candidate_id):
            return 0.0
        return max(0.0, self._wait - now.shortest_since(seen_at))
