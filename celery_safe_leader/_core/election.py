"""One candidate of one election, without IO.

Theory of operation. Redis keeps no time: it holds a record and changes it by compare-and-set. A
*standby* takes the record over only after it saw one and the same version of it for longer than any
lease lasts, on its own clock, or at once if its leader resigned. A *leader* counts its lease from
before its last successful request was sent, and from the deadline on it does not lead, whatever
replies come later. So each errs on the safe side, and two never lead at once, whatever Redis
forgets or repeats.

How to drive it: whenever something happened, or ``pause()`` seconds have passed, call ``poll()``.
If it returns a request, execute it and hand the outcome to ``receive()`` or ``failed()``; then
poll again. Call ``tick()`` at the lease's deadline even if a request is still
under way. Drain ``events()`` after each call. Not thread-safe: guard it with a lock, never held
over IO. Only ``lease``, ``look`` and ``is_leader()`` may be read from any thread without one.
"""

from __future__ import annotations

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._core.candidacy import Candidacy
from celery_safe_leader._core.events import DemotionReason, Event, HolderSeen, Lease, StoreFailed
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import (
    Answer,
    Campaign,
    LedgerLook,
    Observe,
    Record,
    Renew,
    Reply,
    ReplyStatus,
    Request,
    Resign,
)
from celery_safe_leader._core.observation import Observation
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.requests import Requests
from celery_safe_leader._core.state import Move, State
from celery_safe_leader.errors import StoreRefusedError

__all__ = ["Election"]

_RESIGN_ATTEMPTS = 2
"""The first may meet a dead connection; after a second failure the lease simply runs out."""


class Election:
    """The rules of the election, for one candidate."""

    def __init__(self, options: Options, candidate_id: str, seed: str) -> None:
        """Make an idle candidate.

        Args:
            options: ttl, wait and what else it was configured with.
            candidate_id: Unique for each start of each process.
            seed: Random text, unique likewise; makes the names of renewals unique.
        """
        self.options = options
        self.candidate_id = candidate_id
        self.observation = Observation(options, candidate_id)
        self.look: LedgerLook | None = None
        """What the last renewal of this tenure saw of the ledger; ``None`` if it did not look.
        Handed on as it came: nothing here depends on it."""
        self._requests = Requests(options, candidate_id, seed, self.observation)
        self._candidacy = Candidacy()
        self._events: list[Event] = []
        self._in_flight: Request | None = None
        self._next_poll: tuple[Instant, float] | None = None
        """Not before so many seconds after that moment; ``None``: not until a verb is called."""
        self._failures = 0
        self._must_observe = True
        """Whether a standby has to look at the record before it may sleep."""
        self._resigns_for = DemotionReason.RESIGNED.value
        self._resigns_to = ""

    # What the candidate is

    @property
    def state(self) -> State:
        """What the candidate is at this moment; ``LEADING`` may be over by its deadline."""
        return self._candidacy.state

    @property
    def lease(self) -> Lease | None:
        """The present lease, if any: a snapshot that any thread may read."""
        return self._candidacy.lease

    def is_leader(self, now: Instant) -> bool:
        """Tell whether this candidate leads at ``now``. From any thread."""
        lease = self.lease
        return lease is not None and lease.valid(now)

    def events(self) -> list[Event]:
        """Return what happened since the last call, oldest first."""
        happened, self._events = self._events, []
        return happened

    def pause(self, now: Instant) -> float | None:
        """Return the seconds until the next ``poll()``; ``None``: only after a verb."""
        if self._in_flight is not None or self._next_poll is None:
            return None
        base, delay = self._next_poll
        return max(0.0, delay - now.longest_since(base))

    # Verbs

    def start(self, now: Instant) -> None:
        """Take part.

        Raises:
            LifecycleError: It takes part already, or it is closed.
        """
        self._candidacy.move(Move.START)
        self._candidacy.to_resign = None
        self._must_observe = True
        self._schedule_poll(now)

    def stop(
        self,
        now: Instant,
        reason: DemotionReason = DemotionReason.RESIGNED,
        detail: str = "",
        successor: str = "",
    ) -> None:
        """Stop taking part. Leadership ends at once; the resignation in Redis may follow.

        Args:
            now: Now.
            reason: For the event.
            detail: For the history, in place of the reason.
            successor: Candidate id of the one that the others are to let go first.
        """
        self.tick(now)
        self._resigns_for, self._resigns_to = detail or reason.value, successor
        lease = self.lease
        if self.state is State.LEADING and lease is not None:
            self._candidacy.resign_later(lease)
            self._end_tenure(lease, Move.GIVE_UP, reason)
            self._schedule_poll(now)
        elif self.state is State.STANDBY and isinstance(self._in_flight, Campaign):
            self._candidacy.move(Move.GIVE_UP)
        else:
            self._candidacy.move(Move.HALT)
            if self.state is State.IDLE:
                self._in_flight = self._next_poll = None

    def close(self) -> None:
        """End for good. Call ``stop()`` first: a request that is under way is dropped."""
        if self.state is State.RESIGNING:
            self._candidacy.move(Move.SETTLE)
        self._candidacy.move(Move.CLOSE)
        self._in_flight = self._next_poll = None

    def tick(self, now: Instant) -> None:
        """Notice that the lease is over, if it is."""
        lease = self.lease
        if lease is not None and not lease.valid(now):
            self._end_tenure(lease, Move.LOSE, DemotionReason.EXPIRED)
            if self._in_flight is None:
                self._schedule_poll(now)

    # Requests

    def poll(self, now: Instant) -> Request | None:
        """Return what to send now, or ``None`` while there is nothing to do.

        The request is stamped with ``now``: read the clock just before, and connect after.
        """
        self.tick(now)
        if self.pause(now) != 0.0:
            return None
        self._next_poll = None
        if self.state is State.STANDBY:
            self._in_flight = self._standby_request(now)
        elif self.state is State.LEADING and self.lease is not None:
            self._in_flight = self._leader_request(now, self.lease)
        elif self.state is State.RESIGNING:
            self._in_flight = self._resignation(now)
        return self._in_flight

    def _standby_request(self, now: Instant) -> Request:
        takeover_in = self.observation.takeover_in(now)
        if takeover_in == 0.0 and self.observation.record is not None:
            return self._requests.campaign(now, self.observation.record.version)
        if self._must_observe:
            return self._requests.observe(now)
        return self._requests.wait(now, takeover_in)

    def _leader_request(self, now: Instant, lease: Lease) -> Request:
        if self._candidacy.vacancy:
            return self._requests.restore(now, self._candidacy.vacancy, lease.fencing_token)
        return self._requests.renew(now, lease.fencing_token)

    def _resignation(self, now: Instant) -> Request | None:
        # Only while the lease lasts: after it, somebody else may lead already.
        lease, attempts = self._candidacy.to_resign, self._candidacy.resign_attempts
        if lease is None or not lease.valid(now) or attempts >= _RESIGN_ATTEMPTS:
            self._settle()
            return None
        self._candidacy.resign_attempts += 1
        token = lease.fencing_token
        return self._requests.resign(now, token, self._resigns_for, self._resigns_to)

    # Outcomes

    def receive(self, request: Request, reply: Reply, now: Instant) -> None:
        """Handle a reply; one to an older request is dropped.

        Args:
            request: What was sent.
            reply: What came back.
            now: A moment after it came back.
        """
        if request is not self._in_flight:
            return
        self._in_flight = None
        if not isinstance(reply, Answer) or reply.confirmed:
            self._failures = 0
        # The deadline first: a reply that comes after it makes nobody a leader.
        self.tick(now)
        self._schedule_poll(now)
        if not isinstance(reply, Answer):
            self._must_observe = True
        elif isinstance(request, Campaign):
            self._campaigned(request, reply, now)
        elif isinstance(request, Renew):
            self._renewed(request, reply, now)
        elif isinstance(request, Observe):
            self._observed(reply, now, confirmed=request.confirm and reply.confirmed)
            if request.confirm and not reply.confirmed:
                self._unconfirmed(now)
        elif isinstance(request, Resign):
            self.observation.note(reply.record, now)
            self._settle()

    def failed(self, request: Request, error: Exception, now: Instant) -> None:
        """Handle a request without a usable reply: it may or may not have been executed."""
        if request is not self._in_flight:
            return
        self._in_flight = None
        if isinstance(request, Campaign):
            self.observation.disown()
        self._must_observe = True
        # If a restoration was executed after all, a renewal finds it; if not, the vacancy.
        self._candidacy.vacancy = ""
        self._retry(error, now)
        self.tick(now)

    def _observed(self, answer: Answer, now: Instant, *, confirmed: bool = False) -> None:
        before = self.observation.record
        self.observation.note(answer.record, now, confirmed=confirmed)
        self._must_observe = False
        record = self.observation.record or answer.record
        seen = (record.holder, record.token, record.resigned)
        if before is None or seen != (before.holder, before.token, before.resigned):
            takeover_in = self.observation.takeover_in(now)
            after = self.observation.longest_ttl if takeover_in is None else takeover_in
            self._events.append(HolderSeen(record.holder, record.token, after, record.resigned))

    def _campaigned(self, request: Campaign, answer: Answer, now: Instant) -> None:
        if answer.status is not ReplyStatus.ACCEPTED:
            self._rejected(request, answer, now)
        elif not answer.confirmed:
            self.observation.disown()
            self._observed(answer, now)
            self._unconfirmed(now)
        else:
            self.observation.own(answer.record, now)
            self._must_observe = False
            # Taken back too late: that tenure has ended, and no token is elected twice. The
            # record is our own, so a campaign for a new one follows at once.
            if not (request.keep and self.state is State.STANDBY):
                self._won(request, answer.record, now)

    def _won(self, request: Request, record: Record, now: Instant) -> None:
        since = self.lease.since if self.lease is not None else request.sent_at
        deadline = request.sent_at.plus(self.options.lease_length)
        lease = Lease(record.token, deadline, since)
        if self.state is State.RESIGNING:
            if self._candidacy.to_resign is None:
                self._candidacy.resign_later(lease)
        elif lease.valid(now):
            self._schedule_poll(request.sent_at, self.options.renew_interval)
            if elected := self._candidacy.hold(lease):
                self._events.append(elected)

    def _renewed(self, request: Renew, answer: Answer, now: Instant) -> None:
        self.look = answer.look
        if answer.status is not ReplyStatus.ACCEPTED:
            self._rejected(request, answer, now)
        elif not answer.confirmed:
            self.observation.disown()
            self.observation.note(answer.record, now)
            self._unconfirmed(now)
        else:
            self.observation.own(answer.record, now)
            if self.state is State.LEADING:
                self._won(request, answer.record, now)

    def _rejected(self, request: Request, answer: Answer, now: Instant) -> None:
        """Somebody else has the record, or Redis lost it."""
        record, lease = answer.record, self.lease
        self._candidacy.vacancy = ""
        if lease is None:
            self._observed(answer, now)
            return
        self.observation.note(record, now)
        if not record.holder and record.token <= lease.fencing_token:
            # Our lease still runs, so nobody else can have led since Redis lost the record, and
            # nobody can have waited long enough. Take back exactly the vacancy that was seen.
            self._candidacy.vacancy = record.version
            return
        mine = record.holder == self.candidate_id
        if mine and record.token == lease.fencing_token and isinstance(request, Campaign):
            return  # an earlier copy of the same request took it back: renew
        reason = DemotionReason.RECORD_LOST if mine else DemotionReason.SUPERSEDED
        if not record.holder:
            reason = DemotionReason.RECORD_LOST
        self._end_tenure(lease, Move.LOSE, reason, "" if mine else record.holder)

    # Changes

    def _end_tenure(
        self, lease: Lease, move: Move, reason: DemotionReason, holder: str = ""
    ) -> None:
        demoted = self._candidacy.end(lease, move, reason, holder)
        self.look = None
        self._must_observe = True
        self._events.append(demoted)

    def _settle(self) -> None:
        if self.state is State.RESIGNING:
            self._candidacy.move(Move.SETTLE)
            self._candidacy.to_resign = self._next_poll = None

    def _unconfirmed(self, now: Instant) -> None:
        wanted = self.options.wait_replicas
        detail = f"fewer than {wanted} replicas confirmed the write (wait_replicas={wanted})"
        self._retry(StoreRefusedError("election", detail), now)

    def _retry(self, error: Exception, now: Instant) -> None:
        self._failures += 1
        self._events.append(StoreFailed(error, self._failures))
        longest = min(self.options.wait, self.options.renew_interval)
        pause = backoff(self._failures, first=self.options.ttl / 50, longest=longest)
        self._schedule_poll(now, pause)

    def _schedule_poll(self, base: Instant, delay: float = 0.0) -> None:
        self._next_poll = (base, delay)
