"""Any scheduler class, in any number: the elected one works, the others stand by and write nothing.

The other scheduler keeps its store and its own rules for what is due. All of it runs on a
background thread, so that a signal never interrupts a message or a write in the middle; and it
begins each tenure as a new process would, with nothing but what its store says.
"""

from __future__ import annotations

import shelve
import time
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu.exceptions import OperationalError

from celery_safe_leader import conf
from celery_safe_leader._beat.background import BackgroundCall
from celery_safe_leader._beat.mixin.attempt import prepare_attempt
from celery_safe_leader._beat.mixin.gated_producer import BrokerFailedError, WithheldError, gated
from celery_safe_leader._beat.mixin.mixin_state import MixinState
from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._dispatch.health.clock_watch import ClockOffError
from celery_safe_leader._dispatch.health.patience import Cause
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._publishing.connection import open_connection
from celery_safe_leader._runtime.embedded.embedded_role import EmbeddedRole

if TYPE_CHECKING:
    from celery.beat import Scheduler as _Base
else:
    _Base = object

__all__ = ["LeaderSchedulerMixin"]

_SLICE = 1.0
"""Seconds. A tick takes no longer, so that beat's health check, which counts ticks, passes."""
_BROKER_TIMEOUT = 5.0
_LAST_EVENTS = 1.0
"""Both in seconds."""
_FIRST_BACK_OFF, _LONGEST_BACK_OFF = 0.2, 10.0
"""Seconds until the store is read again after the broker failed."""


class LeaderSchedulerMixin(_Base):
    """Lets any number of beats run a scheduler class, of which the elected one dispatches.

        class TenantScheduler(LeaderSchedulerMixin, DatabaseScheduler):
            ...

    The mixin comes first. It needs a scheduler whose state is in a store that all beats share,
    whose constructor does not write there, and which has no attribute ``_leader_mixin``. On standby
    neither its ``setup_schedule`` nor its ``tick`` nor its ``sync`` is called. On each new tenure
    all attributes are set back to what the constructor left, and ``setup_schedule`` is called: it
    reads its store again. It runs on a background thread.

    A run is sent first and noted in the store directly afterwards: after all of its messages, if
    an overridden ``apply_entry`` sends several. If the connection to the broker failed, so that a
    message may not have arrived, the run is sent again.

    Raises:
        celery.exceptions.ImproperlyConfigured: A setting is wrong; before anything starts.
    """

    safe_leader_embedded_role = EmbeddedRole.OWN_CANDIDATE

    longest_silence: float = 300.0
    """Seconds; the ttl if that is longer. When the other scheduler has neither sent anything nor
    returned for so long, or the broker has taken nothing, this beat lets another try. It doubles
    with each time in a row that this was in vain, up to an hour."""

    def __init__(self, app: Celery, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
        """Read the settings; the arguments are those of the other scheduler."""
        self._leader_mixin = MixinState(conf.read(app))
        self._leader_mixin.membership.describe(type(self))
        if not lazy:
            conf.check_transport(app)
        # By name, as Celery passes it: some schedulers take it out of their keyword arguments.
        given: dict[str, Any] = {} if args else {"app": app}
        # Lazy means: without setup_schedule, which is done once this beat leads.
        super().__init__(*((app, *args) if args else ()), lazy=True, **given, **kwargs)
        self.Producer: Any = gated(self.Producer, self._leader_mixin)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let constructors end with a note of the attributes that every tenure begins with."""
        super().__init_subclass__(**kwargs)
        own = vars(cls).get("__init__")

        @wraps(own or cls.__init__)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            if own is None:
                super(cls, self).__init__(*args, **kwargs)
            else:
                own(self, *args, **kwargs)
            if type(self) is cls:
                self._leader_mixin.keep_attributes(self.__dict__)
                self._leader_mixin.be_patient(self.longest_silence)

        cls.__init__ = init  # type: ignore[method-assign]

    # What Celery's Service and banner call

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Let the other scheduler work if this beat leads; else wait for the election.

        Returns:
            Seconds until the next call: 0, because this method waits itself, and an election or a
            demotion ends its wait at once.
        """
        state = self._leader_mixin
        if state.closed:
            return float(self.max_interval)
        state.service.health.loop.turned()
        if state.call is None:
            membership = state.membership
            if membership.must_resign:
                membership.resign_as_asked()
            leader = state.join()
            token = leader.fencing_token
            pause = state.due_at - time.monotonic()
            if token is None and state.token == 0:
                leader.wait(lambda: leader.is_leader, _SLICE)
                return 0.0
            wants_check = token is not None and state.clock.wants_check(leader.look)
            if token == state.token and pause > 0 and not wants_check:
                leader.wait(
                    lambda: leader.fencing_token != token or membership.must_resign,
                    min(pause, _SLICE),
                )
                return 0.0
            state.start(
                self._end_tenure if token is None else lambda: self._work(token, args, kwargs)
            )
        self._wait_for(state.call)
        return 0.0

    def close(self) -> None:
        """Finish what is being sent, let the store be written, and hand leadership over last.

        Beat calls it in its signal handler and again after its loop. Each call returns at the end
        of the first, also that of a second signal which interrupts the handler of the first one.
        Blocks for at most the ttl.
        """
        state = self._leader_mixin
        state.closed = True  # nothing more is published
        state.ending.run(self._leader_mixin_end)
        state.service.close()

    def _leader_mixin_end(self) -> None:
        state = self._leader_mixin
        limit = state.settings.ttl / 3
        if state.token and state.background.wait_idle(limit):
            call = state.background.start(self.release)
            if not state.background.wait(call, limit):
                logger.warning("The scheduler's store was not closed within %.1f s", limit)
            elif call.error is not None:
                logger.error("Closing the scheduler's store failed", exc_info=call.error)
        state.membership.leave()
        state.background.close()
        state.pause_watch.close()
        state.events.close(_LAST_EVENTS)

    @property
    def info(self) -> str:
        """Lines for beat's banner: about the election, then those of the other scheduler."""
        other = super().info
        return "\n".join(filter(None, (self._leader_mixin.membership.info, other)))

    @property
    def is_leader(self) -> bool:
        """Whether this beat leads now: local, without IO."""
        return self._leader_mixin.membership.is_leader

    # What the other scheduler calls

    def should_sync(self) -> bool:
        """Return ``False`` within a tick: a run must not be noted before it is sent."""
        return not self._leader_mixin.is_at_work and bool(super().should_sync())

    def sync(self) -> None:
        """Write to the store if this beat still leads under the token of its tenure."""
        if self._leader_mixin.may_write():
            super().sync()

    def reserve(self, entry: Any) -> Any:
        """Count a run, if this beat still leads.

        Raises:
            EntryWithheldError: It does not; raised to others than the scheduler itself.
        """
        self._leader_mixin.require_tenure(entry.name)
        return super().reserve(entry)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send an entry, if this beat leads.

        Raises:
            EntryWithheldError: It does not; raised to others than the scheduler itself.
        """
        self._leader_mixin.require_publishing(entry.name)
        super().apply_entry(entry, producer=producer)

    def apply_async(
        self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any
    ) -> Any:
        """Send a run, and note it in the store after the attempt.

        Raises:
            EntryWithheldError: This beat does not lead; raised to others than the scheduler itself.
        """
        state = self._leader_mixin
        state.require_publishing(entry.name)
        state.progress_at = time.monotonic()
        attempt = prepare_attempt(
            entry,
            self.known_schedule(entry.schedule),
            state.settings.key,
            state.token,
            state.attempt_number,
        )
        producer = self.producer if producer is None else producer
        try:
            result = super().apply_async(attempt, producer=producer, advance=False, **kwargs)
        except Exception:
            # The entry is at fault: this counts as a run, as in Celery.
            self._note(entry, advance)
            raise
        state.patience.published()
        state.events.counts.published["mixin"] += 1
        if state.events.wants_published and hasattr(result, "id"):
            state.events.published(
                [Claim(str(entry.name), str(result.id), 0, 0, "", state.token)], state.token, ""
            )
        self._note(entry, advance)
        return result

    @cached_property
    def connection(self) -> Any:
        """A connection to the broker on which nothing is retried."""
        return open_connection(self.app, _BROKER_TIMEOUT)

    # What a subclass may override

    def known_schedule(self, schedule: Any) -> Any:
        """Return a schedule as one of Celery's own classes, if that means the same moments.

        Only their runs get an id by which workers recognize a second message of the same run.
        """
        return schedule

    def release(self) -> None:
        """Close the store and the connection to the broker; write only while leading.

        Called at the end of a tenure, whether leadership is lost or still held.
        """
        store: Any = getattr(self, "_store", None)
        if isinstance(store, shelve.Shelf) and not self._leader_mixin.may_write():
            vars(store)["cache"].clear()  # closing writes what is in it
        try:
            super().close()
        finally:
            # Not done by Celery before 5.7.
            self.__dict__.pop("producer", None)
            connection = self.__dict__.pop("connection", None)
            if connection is not None:
                connection.release()

    # The parts

    def _note(self, entry: Any, advance: bool) -> None:
        state = self._leader_mixin
        if advance:
            self.reserve(entry)
        elif state.is_at_work:
            # Counted before. There may be more messages of it: noted at the end of the tick.
            state.sent = True
            return
        self._do_sync()

    def _work(self, token: int, args: Any, kwargs: Any) -> float:
        """Do what is due, for one slice at most; return the seconds until there is more to do."""
        state = self._leader_mixin
        if token != state.token:
            state.patience.begin()
            state.pause_watch.begin(state.membership.candidate_id, token)
            state.clock.begin()
        was_set = state.clock.check(
            token, lambda since: state.pause_watch.led_well(state.membership.candidate_id, since)
        )
        if token != state.token or not state.begun:
            self._begin(token)
        elif was_set:
            logger.warning(
                "This machine's wall clock was set: %s reads its store again", type(self).__name__
            )
            self._begin(token)
        until = time.monotonic() + _SLICE
        while True:
            if state.pause_watch.is_paused():
                return _SLICE
            with state.tick():
                pause = float(super().tick(*args, **kwargs) or 0.0)
                if state.sent:
                    self._do_sync()
            if pause > 0 or time.monotonic() >= until or not state.may_publish():
                break
        if pause > 0 and self.should_sync():
            self._do_sync()
        return pause

    def _begin(self, token: int) -> None:
        state = self._leader_mixin
        if state.token:
            self._end_tenure()
        else:
            # On standby others may have used it.
            state.restore_attributes(self.__dict__)
        state.token = token
        self.app.set_current()
        started = time.monotonic()
        # From here on it may write: that is part of setting up.
        state.begun = True
        try:
            self.setup_schedule()
        except BaseException:
            state.begun = False
            raise
        logger.info(
            "%s read its store in %.0f ms",
            type(self).__name__,
            1000 * (time.monotonic() - started),
        )

    def _end_tenure(self) -> float:
        """Discard what the other scheduler holds, without writing."""
        state = self._leader_mixin
        state.token, state.begun = 0, False
        try:
            self.release()
        except Exception:
            logger.warning("Closing what the last tenure left open failed", exc_info=True)
        state.restore_attributes(self.__dict__)
        return 0.0

    def _wait_for(self, call: BackgroundCall[float] | None) -> None:
        state = self._leader_mixin
        if call is None:
            return
        if state.background.wait(call, _SLICE):
            state.call = None
            if call.error is not None:
                self._failed(call.error)
                return
            state.failures = 0
            state.due_at = time.monotonic() + (call.result or 0.0)
            if state.token and state.goes_last and not state.patience.is_in_doubt:
                state.goes_last = False
                state.membership.is_able()
        elif time.monotonic() - state.progress_at > state.patience.seconds:
            # Its thread cannot be replaced: until it returns, this beat takes no part.
            self._stand_down(
                Cause.CALL,
                f"{type(self).__name__} has not returned for {state.patience.seconds:g} s",
                None,
            )
            state.progress_at = time.monotonic()

    def _failed(self, error: BaseException) -> None:
        state = self._leader_mixin
        if isinstance(error, WithheldError):
            state.due_at = 0.0
        elif isinstance(error, ClockOffError):
            state.goes_last = True
            state.membership.stand_down(Cause.CLOCK.value)
        elif isinstance(error, (BrokerFailedError, OperationalError)):
            pause = self._retry_after(Cause.BROKER)
            logger.error(
                "The broker failed: %s. The run stays due; %s reads its store again in %.1f s",
                error,
                type(self).__name__,
                pause,
            )
            if state.patience.exhausted():
                had = state.patience.seconds
                self._stand_down(
                    Cause.BROKER, f"The broker took no message of this beat for {had:g} s", None
                )
        elif isinstance(error, Exception):
            self._retry_after(Cause.PROCESS)
            # At once, unless that was in vain already: it may be everybody's trouble.
            if state.patience.exhausted() or not state.patience.is_in_doubt:
                self._stand_down(Cause.PROCESS, f"{type(self).__name__} failed: {error!r}", error)
            else:
                logger.error(
                    "%s failed: %r. It reads its store again in %.1f s",
                    type(self).__name__,
                    error,
                    state.due_at - time.monotonic(),
                    exc_info=error,
                )
        else:
            raise error

    def _retry_after(self, cause: Cause) -> float:
        state = self._leader_mixin
        now = time.monotonic()
        state.patience.failed(now, cause)
        state.failures += 1
        pause = backoff(state.failures, first=_FIRST_BACK_OFF, longest=_LONGEST_BACK_OFF)
        state.due_at = now + pause
        return pause

    def _stand_down(self, cause: Cause, reason: str, error: BaseException | None) -> None:
        state = self._leader_mixin
        state.goes_last = True
        logger.error(
            "%s. This beat stands down: others go first, and if there are none it leads again and "
            "tries for %g s",
            reason,
            state.patience.stand_down(),
            exc_info=error,
        )
        state.membership.stand_down(cause.value)
