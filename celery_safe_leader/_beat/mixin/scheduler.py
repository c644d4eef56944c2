"""Any scheduler class, in any number: the elected one works, the others stand by and write nothing.

The other scheduler keeps its store and its way to tell what is due. It is run on a thread of its
own, all of it, so that a signal never tears a message or a write in the middle; and it begins each
tenure as a new process would, with nothing but what its store says.
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
from celery_safe_leader._beat.mixin.attempt import prepared
from celery_safe_leader._beat.mixin.gated_producer import BrokerFailedError, WithheldError, gated
from celery_safe_leader._beat.mixin.tenure import MixinTenure
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._publishing.connection import open_connection

if TYPE_CHECKING:
    from celery.beat import Scheduler as _Base
else:
    _Base = object

__all__ = ["LeaderSchedulerMixin"]

_SLICE = 1.0
"""Seconds. A tick lasts no longer, so that beat's health check, which counts ticks, is content."""
_BROKER_TIMEOUT = 5.0
_LONGEST_BACK_OFF = 10.0
"""Both in seconds."""


class LeaderSchedulerMixin(_Base):
    """Makes a scheduler class one that may run in any number, of which the elected one dispatches.

        class TenantScheduler(LeaderSchedulerMixin, DatabaseScheduler):
            ...

    The mixin comes first. Wanted is a scheduler whose state is in a store that all beats share,
    and whose constructor does not write there. On standby neither its ``setup_schedule`` nor its
    ``tick`` nor its ``sync`` is called. On each new tenure all attributes are set back to what
    the constructor left, and ``setup_schedule`` is called: it reads its store afresh. It is run on
    a thread of its own.

    A run is sent first and noted in the store directly afterwards. A run whose message may not
    have arrived, since the connection to the broker failed, is sent again.

    Raises:
        celery.exceptions.ImproperlyConfigured: A setting is wrong; before anything starts.
    """

    follows_worker = False
    """Embedded in a worker, it takes part in the election of beats, as it does elsewhere."""

    longest_silence: float = 300.0
    """Seconds. When the other scheduler has neither sent anything nor come back for so long, this
    beat hands leadership over."""

    def __init__(self, app: Celery, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
        """Read the settings; arguments are those of the other scheduler."""
        self._standing = MixinTenure(conf.read(app))
        # Lazy means: without setup_schedule, which is done once this beat leads.
        super().__init__(app, *args, lazy=True, **kwargs)
        self.Producer: Any = gated(self.Producer, self._standing.require)

    # What Celery's Service and banner call

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Let the other scheduler work, if this beat leads; else wait for the election.

        Returns:
            Seconds until the next call: 0, since the waiting is done here, where an election or
            a demotion can end it at once.
        """
        standing = self._standing
        if standing.closed:
            return float(self.max_interval)
        if standing.job is None:
            standing.keep(self.__dict__)
            leader = standing.membership.join()
            token = leader.fencing_token
            pause = standing.due_at - time.monotonic()
            if token is None and standing.token == 0:
                leader.wait(lambda: leader.is_leader, _SLICE)
                return 0.0
            if token == standing.token and pause > 0:
                leader.wait(lambda: leader.fencing_token != token, min(pause, _SLICE))
                return 0.0
            standing.start(
                self._end_tenure if token is None else lambda: self._work(token, args, kwargs)
            )
        self._wait_for(standing.job)
        return 0.0

    def close(self) -> None:
        """End what is being sent, let the store be written, and hand leadership over last.

        Beat calls it in its signal handler, and once more after its loop: the second call does
        nothing. Blocks for at most the ttl.
        """
        standing = self._standing
        if standing.closed:
            return
        standing.closed = True  # nothing more is published
        limit = standing.settings.ttl / 3
        if standing.token and standing.aside.wait_idle(limit):
            job = standing.aside.start(self.release)
            if not standing.aside.wait(job, limit):
                logger.warning("The scheduler's store was not closed within %.1f s", limit)
            elif job.error is not None:
                logger.error("Closing the scheduler's store failed", exc_info=job.error)
        standing.membership.leave()
        standing.aside.close()

    @property
    def info(self) -> str:
        """Lines for beat's banner: of the election, then of the other scheduler."""
        other = super().info
        return "\n".join(filter(None, (self._standing.membership.info, other)))

    @property
    def is_leader(self) -> bool:
        """Whether this beat leads now: local, without IO."""
        return self._standing.membership.is_leader

    # What the other scheduler calls

    def should_sync(self) -> bool:
        """Not while a message is on its way: its run must not be noted before."""
        return not self._standing.publishing and bool(super().should_sync())

    def sync(self) -> None:
        """Write to the store, if this beat leads under the token under which it began."""
        if self._standing.may_write():
            super().sync()

    def reserve(self, entry: Any) -> Any:
        """Count a run, while this beat leads."""
        self._standing.require_tenure()
        return super().reserve(entry)

    def apply_async(
        self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any
    ) -> Any:
        """Send a run, and note it in the store once that has been tried."""
        standing = self._standing
        standing.require()
        standing.progress_at = time.monotonic()
        schedule = self.known_schedule(entry.schedule)
        attempt = prepared(entry, schedule, standing.settings.key, standing.token)
        producer = self.producer if producer is None else producer
        standing.publishing = True
        try:
            result = super().apply_async(attempt, producer=producer, advance=False, **kwargs)
        except Exception:
            # The entry's own mistake: it counts as a run, as in Celery.
            self._note(entry, advance)
            raise
        else:
            self._note(entry, advance)
            return result
        finally:
            standing.publishing = False

    @cached_property
    def connection(self) -> Any:
        """A connection to the broker on which nothing is sent twice."""
        return open_connection(self.app, _BROKER_TIMEOUT)

    # What a scheduler of a kind of its own may override

    def known_schedule(self, schedule: Any) -> Any:
        """Return a schedule as one of Celery's own classes, if it means the same moments.

        Only runs of those have an id by which workers recognize a second message of the run.
        """
        return schedule

    def release(self) -> None:
        """Close the store and the connection to the broker, and write only while leading.

        Called at the end of a tenure, with leadership lost or still held.
        """
        store: Any = getattr(self, "_store", None)
        if isinstance(store, shelve.Shelf) and not self._standing.may_write():
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
        """Do what is due, for a slice at most; return seconds until it wants to be asked again."""
        standing = self._standing
        if token != standing.token or not standing.begun:
            self._begin(token)
        until = time.monotonic() + _SLICE
        while True:
            pause = float(super().tick(*args, **kwargs) or 0.0)
            if pause > 0 or time.monotonic() >= until or not standing.may_publish():
                break
        if pause > 0 and self.should_sync():
            self._do_sync()
        return pause

    def _begin(self, token: int) -> None:
        standing = self._standing
        if standing.token:
            self._end_tenure()
        standing.token = token
        self.app.set_current()
        started = time.monotonic()
        # From here on it may write: that is part of setting up.
        standing.begun = True
        try:
            self.setup_schedule()
        except BaseException:
            standing.begun = False
            raise
        logger.info(
            "%s has set itself up from its store in %.0f ms",
            type(self).__name__,
            1000 * (time.monotonic() - started),
        )

    def _end_tenure(self) -> float:
        """Drop all that the other scheduler knows, without writing."""
        standing = self._standing
        standing.token, standing.begun = 0, False
        try:
            self.release()
        except Exception:
            logger.warning("Closing what the last tenure left open failed", exc_info=True)
        standing.restore(self.__dict__)
        return 0.0

    def _wait_for(self, job: BackgroundCall[float] | None) -> None:
        standing = self._standing
        if job is None:
            return
        if standing.aside.wait(job, _SLICE):
            standing.job = None
            if job.error is None:
                standing.failures = 0
                standing.due_at = time.monotonic() + (job.result or 0.0)
            else:
                self._failed(job.error)
        elif time.monotonic() - standing.progress_at > self.longest_silence:
            self._stand_down(
                f"{type(self).__name__} has not come back for {self.longest_silence:g} s", None
            )
            standing.progress_at = time.monotonic()

    def _failed(self, error: BaseException) -> None:
        standing = self._standing
        standing.begun = False
        if isinstance(error, WithheldError):
            standing.due_at = 0.0
        elif isinstance(error, (BrokerFailedError, OperationalError)):
            standing.failures += 1
            pause = min(_LONGEST_BACK_OFF, 0.1 * 2.0 ** min(standing.failures, 10))
            standing.due_at = time.monotonic() + pause
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
        seconds = self._standing.membership.rest()
        logger.error(
            "%s. This beat hands leadership over and stands by for %g s at least",
            reason,
            seconds,
            exc_info=error,
        )
