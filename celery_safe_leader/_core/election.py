"""One candidate of one election, without IO.

Theory of operation. Redis keeps no time: it holds a record and changes it by compare-and-set. A
*standby* takes the record over only after it saw one and the same version of it for longer than
any lease lasts, on its own clock. A *leader* counts its lease from before its last successful
request was sent, and from the deadline on it does not lead, whatever replies come later. So each
errs to its safe side, and two never lead at once, whatever Redis forgets or repeats.

How to drive it: whenever something happened, or ``pause()`` seconds have passed, call ``poll()``.
If it returns a request, execute it and hand the outcome to ``receive()`` or ``failed()``; then
poll again. Call ``tick()`` at the lease's deadline even if a request is still
under way. Drain ``events()`` after each call. Not thread-safe: guard it with a lock, never held
over IO. Only ``lease`` and ``is_leader()`` may be read from any thread without one.
"""

from __future__ import annotations

from celery_safe_leader._core.candidacy import Candidacy
from celery_safe_leader._core.events import DemotionReason, Elected, HolderSeen, Lease
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import (
    Answer,
    Campaign,
    Observe,
    Record,
    Renew,
    Reply,
    Request,
    Resign,
)
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.state import Move, State

__all__ = ["Election"]

_RESIGN_ATTEMPTS = 2
"""The first may meet a dead connection; after a second failure the lease simply runs out."""


class Election(Candidacy):
    """The rules of the election, for one candidate."""

    def __init__(self, options: Options, candidate_id: str, seed: str) -> None:
        """Make an idle candidate; arguments as in ``Candidacy``."""
        super().__init__(options, candidate_id, seed)
        self._resign_attempts = 0
        self._reason = DemotionReason.RESIGNED

    # Verbs

    def start(self, now: Instant) -> None:
        """Take part.

        Raises:
            LifecycleError: It takes part already, or it is closed.
        """
        self._move(Move.START)
        self._giving_up = None
        self._look = True
        self._plan(now)

    def stop(self, now: Instant, reason: DemotionReason = DemotionReason.RESIGNED) -> None:
        """Take part no longer. Leadership ends at once; what is left is to say so in Redis."""
        self.tick(now)
        self._reason = reason
        if self._state is State.LEADING and self._lease is not None:
            self._giving_up, self._resign_attempts = self._lease, 0
            self._end_tenure(self._lease, Move.GIVE_UP, reason)
            self._plan(now)
        elif self._state is State.STANDBY and isinstance(self._inflight, Campaign):
            self._move(Move.GIVE_UP)
        else:
            self._move(Move.HALT)
            if self._state is State.IDLE:
                self._inflight = self._next = None

    def close(self) -> None:
        """End for good. Stop first: what is still under way is dropped."""
        if self._state is State.RESIGNING:
            self._move(Move.SETTLE)
        self._move(Move.CLOSE)
        self._inflight = self._next = None

    def tick(self, now: Instant) -> None:
        """Notice that the lease is over, if it is."""
        lease = self._lease
        if lease is not None and not lease.valid(now):
            self._end_tenure(lease, Move.LOSE, DemotionReason.EXPIRED)
            if self._inflight is None:
                self._plan(now)

    # Requests

    def poll(self, now: Instant) -> Request | None:
        """Return what to send now, or ``None`` while there is nothing to do.

        The request is stamped with ``now``: read the clock just before, and connect after.
        """
        self.tick(now)
        if self.pause(now) != 0.0:
            return None
        self._next = None
        if self._state is State.STANDBY:
            self._inflight = self._standby_request(now)
        elif self._state is State.LEADING and self._lease is not None:
            self._inflight = self._leader_request(now, self._lease)
        elif self._state is State.RESIGNING:
            self._inflight = self._resignation(now)
        return self._inflight

    def _standby_request(self, now: Instant) -> Request:
        takeover_in = self.sight.takeover_in(now)
        if takeover_in == 0.0 and self.sight.record is not None:
            return self._drafts.campaign(now, self.sight.record.version)
        if self._look:
            return self._drafts.observe(now)
        return self._drafts.wait(now, takeover_in)

    def _leader_request(self, now: Instant, lease: Lease) -> Request:
        if self._restore:
            return self._drafts.restore(now, self._restore, lease.fencing_token)
        return self._drafts.renew(now, lease.fencing_token)

    def _resignation(self, now: Instant) -> Request | None:
        # Only while the lease lasts: after it, somebody else may lead already.
        lease = self._giving_up
        if lease is None or not lease.valid(now) or self._resign_attempts >= _RESIGN_ATTEMPTS:
            self._settle()
            return None
        self._resign_attempts += 1
        return self._drafts.resign(now, lease.fencing_token, self._reason.value)

    # Outcomes

    def receive(self, request: Request, reply: Reply, now: Instant) -> None:
        """Take in a reply. ``now`` is read after it came; a reply to an older request is dropped.

        Args:
            request: What was sent.
            reply: What came back.
            now: The moment after it came back.
        """
        if request is not self._inflight:
            return
        self._inflight = None
        if not isinstance(reply, Answer) or reply.confirmed:
            self._failures = 0
        # The deadline first: a reply that comes after it makes nobody a leader.
        self.tick(now)
        self._plan(now)
        if not isinstance(reply, Answer):
            self._look = True
        elif isinstance(request, Campaign):
            self._campaigned(request, reply, now)
        elif isinstance(request, Renew):
            self._renewed(request, reply, now)
        elif isinstance(request, Observe):
            self._observed(reply, now, confirmed=request.confirm and reply.confirmed)
            if request.confirm and not reply.confirmed:
                self._unconfirmed(now)
        elif isinstance(request, Resign):
            self.sight.note(reply.record, now)
            self._settle()

    def failed(self, request: Request, error: Exception, now: Instant) -> None:
        """Take in that a request had no usable reply: whether it was executed is not known."""
        if request is not self._inflight:
            return
        self._inflight = None
        if isinstance(request, Campaign):
            self.sight.disown()
        self._look = True
        # If a restoration was executed after all, a renewal finds it; if not, the vacancy.
        self._restore = ""
        self._retry(error, now)
        self.tick(now)

    def _observed(self, answer: Answer, now: Instant, *, confirmed: bool = False) -> None:
        before = self.sight.record
        self.sight.note(answer.record, now, confirmed=confirmed)
        self._look = False
        record = self.sight.record or answer.record
        seen = (record.holder, record.token, record.resigned)
        if before is None or seen != (before.holder, before.token, before.resigned):
            takeover_in = self.sight.takeover_in(now)
            after = self.sight.longest_ttl if takeover_in is None else takeover_in
            self._events.append(HolderSeen(record.holder, record.token, after, record.resigned))

    def _campaigned(self, request: Campaign, answer: Answer, now: Instant) -> None:
        if answer.status != "accepted":
            self._rejected(request, answer, now)
        elif not answer.confirmed:
            self.sight.disown()
            self._observed(answer, now)
            self._unconfirmed(now)
        else:
            self.sight.own(answer.record, now)
            self._look = False
            # Taken back too late: that tenure has ended, and no token is elected twice. The
            # record is our own, so a campaign for a new one follows at once.
            if not (request.keep and self._state is State.STANDBY):
                self._won(request, answer.record, now)

    def _won(self, request: Request, record: Record, now: Instant) -> None:
        since = self._lease.since if self._lease is not None else request.sent_at
        deadline = request.sent_at.plus(self.options.lease_length)
        lease = Lease(record.token, deadline, since)
        if self._state is State.RESIGNING:
            if self._giving_up is None:
                self._giving_up, self._resign_attempts = lease, 0
        elif lease.valid(now):
            self._restore = ""
            self._lease = lease
            self._plan(request.sent_at, self.options.renew_interval)
            if self._state is State.STANDBY:
                self._move(Move.WIN)
                self._events.append(Elected(lease.fencing_token, deadline))

    def _renewed(self, request: Renew, answer: Answer, now: Instant) -> None:
        if answer.status != "accepted":
            self._rejected(request, answer, now)
        elif not answer.confirmed:
            self.sight.disown()
            self.sight.note(answer.record, now)
            self._unconfirmed(now)
        else:
            self.sight.own(answer.record, now)
            if self._state is State.LEADING:
                self._won(request, answer.record, now)

    def _rejected(self, request: Request, answer: Answer, now: Instant) -> None:
        """Somebody else has the record, or Redis lost it."""
        record, lease = answer.record, self._lease
        self._restore = ""
        if lease is None:
            self._observed(answer, now)
            return
        self.sight.note(record, now)
        if not record.holder and record.token <= lease.fencing_token:
            # Our lease still runs, so nobody else can have led since Redis lost the record, and
            # nobody can have waited long enough. Take back exactly the vacancy that was seen.
            self._restore = record.version
            return
        mine = record.holder == self.candidate_id
        if mine and record.token == lease.fencing_token and isinstance(request, Campaign):
            return  # an earlier copy of the same request took it back: renew
        reason = DemotionReason.RECORD_LOST if mine else DemotionReason.SUPERSEDED
        if not record.holder:
            reason = DemotionReason.RECORD_LOST
        self._end_tenure(lease, Move.LOSE, reason, "" if mine else record.holder)
