"""Any scheduler class, in any number: the elected one works, the others stand by and write nothing.

The other scheduler keeps its store and its own rules for what is due. All of it runs on a
background thread, so that a signal never interrupts a message or a write in the middle; and it
begins each tenure as a new process would, with nothing but what its store says.
"""

from __future__ import annotations

import shelve
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu.exceptions import OperationalError

from celery_safe_leader import conf
from celery_safe_leader._beat.background import BackgroundCall
from celery_safe_leader._beat.mixin.attempt import prepare_attempt
from celery_safe_leader._beat.mixin.gated_producer import BrokerFailedError, WithheldError, gated
from celery_safe_leader._beat.mixin.mixin_state import MixinState
from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._publishing.connection import open_connection
from celery_safe_leader._runtime.embedded_role import EmbeddedRole

if TYPE_CHECKING:
    from celery.beat import Scheduler as _Base
else:
    _Base = object

__all__ = ["LeaderSchedulerMixin"]

_SLICE = 1.0
"""Seconds. A tick takes no longer, so that beat's health check, which counts ticks, passes."""
_BROKER_TIMEOUT = 5.0
"""Seconds."""
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

    A run is sent first and noted in the store directly afterwards. If the connection to the broker
    failed, so that the message may not have arrived, the run is sent again.

    Raises:
        celery.exceptions.ImproperlyConfigured: A setting is wrong; before anything starts.
    """

    safe_leader_embedded_role = EmbeddedRole.OWN_CANDIDATE

    longest_silence: float = 300.0
    """Seconds. When the other scheduler has neither sent anything nor returned for so long, this
    beat hands leadership over."""

    def __init__(self, app: Celery, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
        """Read the settings; the arguments are those of the other scheduler."""
        self._leader_mixin = MixinState(conf.read(app))
        # Lazy means: without setup_schedule, which is done once this beat leads.
        super().__init__(app, *args, lazy=True, **kwargs)
        self.Producer: Any = gated(self.Producer, self._leader_mixin.require_publishing)

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
        if state.call is None:
            state.keep_attributes(self.__dict__)
            leader = state.membership.join()
            token = leader.fencing_token
            pause = state.due_at - time.monotonic()
            if token is None and state.token == 0:
                leader.wait(lambda: leader.is_leader, _SLICE)
                return 0.0
            if token == state.token and pause > 0:
                leader.wait(lambda: leader.fencing_token != token, min(pause, _SLICE))
                return 0.0
            state.start(
                self._end_tenure if token is None else lambda: self._work(token, args, kwargs)
            )
        self._wait_for(state.call)
        return 0.0

    def close(self) -> None:
        """Finish what is being sent, let the store be written, and hand leadership over last.

        Beat calls it in its signal handler and again after its loop; the second call does nothing.
        Blocks for at most the ttl.
        """
        state = self._leader_mixin
        if state.closed:
            return
        state.closed = True  # nothing more is published
        limit = state.settings.ttl / 3
        if state.token and state.background.wait_idle(limit):
            call = state.background.start(self.release)
            if not state.background.wait(call, limit):
                logger.warning("The scheduler's store was not closed within %.1f s", limit)
            elif call.error is not None:
                logger.error("Closing the scheduler's store failed", exc_info=call.error)
        state.membership.leave()
        state.background.close()

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
        """Return ``False`` while a message is being sent: its run must not be noted before that."""
        return not self._leader_mixin.publishing and bool(super().should_sync())

    def sync(self) -> None:
        """Write to the store if this beat still leads under the token of its tenure."""
        if self._leader_mixin.may_write():
            super().sync()

    def reserve(self, entry: Any) -> Any:
        """Count a run if this beat still leads; raise ``WithheldError`` otherwise."""
        self._leader_mixin.require_tenure()
        return super().reserve(entry)

    def apply_async(
        self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any
    ) -> Any:
        """Send a run, and note it in the store after the attempt."""
        state = self._leader_mixin
        state.require_publishing()
        state.progress_at = time.monotonic()
        schedule = self.known_schedule(entry.schedule)
        attempt = prepare_attempt(entry, schedule, state.settings.key, state.token)
        producer = self.producer if producer is None else producer
        state.publishing = True
        try:
            result = super().apply_async(attempt, producer=producer, advance=False, **kwargs)
        except Exception:
            # The entry is at fault: this counts as a run, as in Celery.
            self._note(entry, advance)
            raise
        else:
            self._note(entry, advance)
            return result
        finally:
            state.publishing = False

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
        if advance:
            self.reserve(entry)
        self._do_sync()

    def _work(self, token: int, args: Any, kwargs: Any) -> float:
        """Do what is due, for one slice at most; return the seconds until there is more to do."""
        state = self._leader_mixin
        if token != state.token or not state.begun:
            self._begin(token)
        until = time.monotonic() + _SLICE
        while True:
            pause = float(super().tick(*args, **kwargs) or 0.0)
            if pause > 0 or time.monotonic() >= until or not state.may_publish():
                break
        if pause > 0 and self.should_sync():
            self._do_sync()
        return pause

    def _begin(self, token: int) -> None:
        state = self._leader_mixin
        if state.token:
            self._end_tenure()
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
            if call.error is None:
                state.failures = 0
                state.due_at = time.monotonic() + (call.result or 0.0)
            else:
                self._failed(call.error)
        elif time.monotonic() - state.progress_at > self.longest_silence:
            self._stand_down(
                f"{type(self).__name__} has not returned for {self.longest_silence:g} s", None
            )
            state.progress_at = time.monotonic()

    def _failed(self, error: BaseException) -> None:
        state = self._leader_mixin
        state.begun = False
        if isinstance(error, WithheldError):
            state.due_at = 0.0
        elif isinstance(error, (BrokerFailedError, OperationalError)):
            state.failures += 1
            pause = backoff(state.failures, first=_FIRST_BACK_OFF, longest=_LONGEST_BACK_OFF)
            state.due_at = time.monotonic() + pause
            logger.error(
                "The broker failed: %s. The run stays due; %s reads its store again in %.1f s",
                error,
                type(self).__name__,
                pause,
            )
        elif isinstance(error, Exception):
            self._stand_down(f"{type(self).__name__} failed: {error!r}", error)
        else:
            raise error

    def _stand_down(self, reason: str, error: BaseException | None) -> None:
        seconds = self._leader_mixin.membership.rest()
        logger.error(
            "%s. This beat hands leadership over and stands by for at least %g s",
            reason,
            seconds,
            exc_info=error,
        )
