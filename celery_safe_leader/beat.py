"""Celery's beat on any number of machines, of which one dispatches.

    celery -A proj beat -S celery_safe_leader.LeaderScheduler

Only the lifecycle is here. The election decides who leads; the dispatcher and its ledger decide
what is due and know what was run.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.beat import Scheduler
from celery.signals import beat_embedded_init

from celery_safe_leader import conf
from celery_safe_leader._beat.background import BackgroundThread
from celery_safe_leader._beat.embedded.following import (
    Following,
    follow_worker,
    set_up_spawned_process,
)
from celery_safe_leader._beat.embedded.parent_watch import end_with_parent
from celery_safe_leader._beat.entries.roster import Roster
from celery_safe_leader._beat.entries.watched_schedule import WatchedSchedule
from celery_safe_leader._beat.membership import Membership
from celery_safe_leader._beat.pipeline import make_dispatcher
from celery_safe_leader._clients import redis_client
from celery_safe_leader._dispatch.dispatcher import Dispatcher
from celery_safe_leader._dispatch.tenure import Tenure
from celery_safe_leader._ledger.errors import ClockAheadError
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._runtime.embedded_role import EmbeddedRole
from celery_safe_leader._store.keys import BEAT, LedgerKeys
from celery_safe_leader.leader import SafeLeader

__all__ = ["LeaderScheduler"]

_SLICE = 1.0
"""Seconds. A tick takes no longer while there is nothing to do, so that beat's health check, which
counts ticks, sees a standby as alive, and a changed schedule is noticed."""
_REST = 1.0
"""Seconds until dispatching is tried again after an unexpected error."""


class LeaderScheduler(Scheduler):
    """A scheduler for any number of beats: the elected one dispatches, the others stand by.

    Name it in ``beat_scheduler`` or with ``celery beat -S celery_safe_leader.LeaderScheduler``
    (or ``-S leader``). It needs no schedule file: what was run is kept in Redis.

    The constructor does no IO and starts nothing, so that beat can make one for its banner. The
    first tick joins the election. Use one instance from one thread, as beat does.

    In ``celery worker -B``, if ``install(app)`` was called, it joins no election: it dispatches
    while its worker leads, and ends when its worker does.

    Raises:
        celery.exceptions.ImproperlyConfigured: A setting is wrong; before anything starts.
    """

    safe_leader_embedded_role = EmbeddedRole.FOLLOWS_WORKER

    def __init__(self, app: Celery, *args: Any, **kwargs: Any) -> None:
        """Read the settings; the arguments are those of Celery's ``Scheduler``."""
        self._settings = conf.read(app)
        self._membership: Membership | Following = Membership(self._settings)
        self._embedded = False
        self._roster = Roster(app, self._settings.missed_runs)
        self._background = BackgroundThread("leader:dispatch")
        self._dispatcher: Dispatcher | None = None
        self._tenure: Tenure | None = None
        self.data: Any = None  # annotated for the type checker; Celery sets it
        self._closed = False
        # Sent in the process of an embedded beat only.
        beat_embedded_init.connect(end_with_parent)
        beat_embedded_init.connect(self._begin_embedded)
        super().__init__(app, *args, **kwargs)

    # What Celery's Service and banner call

    def setup_schedule(self) -> None:
        """Read the entries of ``beat_schedule``.

        Raises:
            celery.exceptions.ImproperlyConfigured: ``options["leader"]`` of an entry is wrong.
        """
        self.data = WatchedSchedule(self.data)
        with conf.as_improperly_configured(self.app):
            self._roster.setup(self)
        self.install_default_entries(self.data)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Dispatch what is due if this beat leads; else wait for the election.

        Returns:
            Seconds until the next call: 0, because this method waits itself, and an election or a
            demotion ends its wait at once.
        """
        if self._closed:
            return float(self.max_interval)
        leader, dispatcher = self._join()
        token = leader.fencing_token
        if token is None:
            leader.wait(lambda: leader.is_leader, _SLICE)
            return 0.0
        try:
            pause = self._background.run(lambda: self._dispatch(dispatcher, leader, token))
        except ClockAheadError as exc:
            self._stand_down(exc)
            return 0.0
        except Exception:
            pause = self._start_over(dispatcher)
        if pause > 0:
            longest = min(pause, _SLICE, self.max_interval)
            leader.wait(lambda: leader.fencing_token != token, longest)
        return 0.0

    def close(self) -> None:
        """Finish the batch under way, hand leadership over and close all connections.

        Beat calls it in its signal handler and again after its loop; the second call does nothing.
        Blocks for a batch and two round trips, and for at most the ttl.
        """
        if self._closed:
            return
        self._closed = True
        dispatcher = self._dispatcher
        # _closed ends the tenure for the dispatcher: it stops after the batch under way.
        limit = self._settings.ttl / 3
        idle = self._background.wait_idle(limit)
        if idle and self.is_leader and dispatcher is not None:
            self._background.start(dispatcher.finish)
            self._background.wait_idle(limit)
        self._membership.leave()
        self._background.close()
        if dispatcher is not None:
            dispatcher.close()
        super().close()

    @property
    def info(self) -> str:
        """Lines for beat's banner; without secrets."""
        missed = f"    . missed runs -> {self._settings.missed_runs}"
        return f"{self._membership.info}\n{missed}"

    @property
    def is_leader(self) -> bool:
        """Whether this beat leads now: local, without IO."""
        return self._membership.is_leader

    # The parts

    def _begin_embedded(self, sender: Any, **_: Any) -> None:
        self._embedded = sender.scheduler is self
        if self._embedded:
            set_up_spawned_process(self.app)

    def _join(self) -> tuple[SafeLeader | Following, Dispatcher]:
        if self._dispatcher is None:
            settings, role = self._settings, BEAT
            # Not in a receiver of a signal, whose errors are only logged: here they end the
            # process.
            following = follow_worker(settings) if self._embedded else None
            if following is not None:
                self._membership, role = following, following.role
            client = redis_client(settings, LedgerKeys(settings.key, settings.prefix).runs)
            self._dispatcher = make_dispatcher(self.app, settings, client, role, self._roster)
        return self._membership.join(), self._dispatcher

    def _stand_down(self, error: ClockAheadError) -> None:
        # Another beat may have a correct clock.
        seconds = self._membership.rest()
        logger.error("%s. This beat stands down for %g s", error, seconds)

    def _start_over(self, dispatcher: Dispatcher) -> float:
        # What ends one beat would end the next one, too, and so on: none of them ends.
        logger.exception(
            "Dispatching failed unexpectedly; the ledger is loaded again in %g s. Please report "
            "this",
            _REST,
        )
        dispatcher.start_over()
        return _REST

    def _dispatch(
        self, dispatcher: Dispatcher, leader: SafeLeader | Following, token: int
    ) -> float:
        tenure = self._tenure
        if tenure is None or tenure.token != token:

            def still_leads() -> bool:
                return not self._closed and leader.fencing_token == token

            tenure = self._tenure = Tenure(leader.candidate_id, token, still_leads)
        self._roster.refresh(self)
        return dispatcher.run(tenure)
