"""Celery's beat on any number of machines, of which one dispatches.

    celery -A proj beat -S celery_safe_leader.LeaderScheduler

Only the lifecycle is here. The election decides who leads; the dispatcher and its ledger decide
what is due and know what was run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import redis
from celery import Celery
from celery.beat import Scheduler
from celery.signals import beat_embedded_init

from celery_safe_leader import conf
from celery_safe_leader._beat.background import BackgroundThread
from celery_safe_leader._beat.beat_service import (
    make_beat_service,
    pipeline_families,
    run_families,
)
from celery_safe_leader._beat.clock_trouble import ClockTrouble
from celery_safe_leader._beat.election_history import somebody_led_well
from celery_safe_leader._beat.embedded.following import (
    Following,
    follow_worker,
    set_up_spawned_process,
)
from celery_safe_leader._beat.embedded.parent_watch import end_with_parent
from celery_safe_leader._beat.entries.roster import Roster
from celery_safe_leader._beat.entries.watched_schedule import WatchedSchedule
from celery_safe_leader._beat.membership import Membership
from celery_safe_leader._beat.overrides import check_overrides, sync_one_at_a_time
from celery_safe_leader._beat.pipeline import make_dispatcher
from celery_safe_leader._beat.run_signals import run_events
from celery_safe_leader._beat.standby_copying import StandbyCopying
from celery_safe_leader._clients import redis_client
from celery_safe_leader._core.presence import clipped
from celery_safe_leader._dispatch.dispatcher import Dispatcher
from celery_safe_leader._dispatch.health.clock_watch import ClockOffError
from celery_safe_leader._dispatch.health.patience import Cause, Patience
from celery_safe_leader._dispatch.health.user_calls import UserCalls
from celery_safe_leader._dispatch.tenure import Tenure
from celery_safe_leader._ledger.errors import ClockAheadError
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._publishing.broker_settings import describe_way
from celery_safe_leader._publishing.own_way.celerys_calls import note_error, present_producer
from celery_safe_leader._runtime.embedded.embedded_role import EmbeddedRole
from celery_safe_leader._runtime.ending import Ending
from celery_safe_leader._runtime.service.metrics import Family
from celery_safe_leader._schedules.safe_text import safe_repr
from celery_safe_leader._setting_sources import check_time_zone
from celery_safe_leader._store.keys import BEAT, ElectionKeys, LedgerKeys
from celery_safe_leader.errors import EntryWithheldError
from celery_safe_leader.leader import SafeLeader

__all__ = ["LeaderScheduler"]

_THREAD = "leader:dispatch"
_SLICE = 1.0
"""Seconds. A tick takes no longer while there is nothing to do, so that beat's health check, which
counts ticks, sees a standby as alive, and a changed schedule is noticed."""
_NAMED = 10
"""Moments to come that `leader status` names."""
_LONGEST_NAME = 100
"""Bytes of an entry's name there."""
_LAST_EVENTS = 1.0
"""Seconds for which an ended beat waits until receivers of signals have been told."""
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
        celery.exceptions.ImproperlyConfigured: A setting is wrong, or a subclass overrides a method
            that is never called; before anything starts.
    """

    safe_leader_embedded_role = EmbeddedRole.FOLLOWS_WORKER

    patience: float = 60.0
    """Seconds; the ttl if that is longer. When runs have failed for so long for reasons that are
    not their own, and none was published meanwhile, this beat lets another try. It doubles with
    each time in a row that this was in vain, up to an hour."""

    def __init__(self, app: Celery, *args: Any, **kwargs: Any) -> None:
        """Read the settings; the arguments are those of Celery's ``Scheduler``."""
        check_overrides(type(self), LeaderScheduler)
        self._settings = conf.read(app)
        check_time_zone(app)
        membership = Membership(self._settings)
        membership.describe(type(self), self._summary)
        self._membership: Membership | Following = membership
        self._events = run_events(
            lambda: self._membership.election, lambda: self._membership.candidate_id
        )
        membership.on_change = self._events.elected
        self._events.announces = True
        self._embedded = False
        self._roster = Roster(app, self._settings.missed_runs)
        self._background = BackgroundThread(_THREAD)
        self._copying = StandbyCopying()
        self._patience = Patience(max(self._settings.ttl, self.patience))
        self._calls = UserCalls(app.set_current)
        self._clock = ClockTrouble(self._settings.ttl)
        self._goes_last = False
        self._service = make_beat_service(
            self._settings,
            membership,
            max(self._settings.ttl, self.patience),
            self._why_stuck,
            lambda: run_families(self._events),
            self._families,
        )
        self._dispatcher: Dispatcher | None = None
        self._tenure: Tenure | None = None
        self._client: redis.Redis | None = None
        self.data: Any = None  # annotated for the type checker; Celery sets it
        self._closed = False
        self._ending = Ending("leader:close")
        # Sent in the process of an embedded beat only.
        beat_embedded_init.connect(end_with_parent)
        beat_embedded_init.connect(self._begin_embedded)
        super().__init__(app, *args, **kwargs)
        sync_one_at_a_time(self)

    # What Celery's Service and banner call

    def setup_schedule(self) -> None:
        """Read the entries of ``beat_schedule``.

        Raises:
            celery.exceptions.ImproperlyConfigured: ``options["leader"]`` of an entry is wrong, or
                the broker's transport cannot be loaded.
        """
        conf.check_transport(self.app)
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
        self._service.health.loop.turned()
        token = leader.fencing_token
        if token is None:
            self._copying.go_on(self._background, lambda: self._copy(dispatcher, leader))
            leader.wait(lambda: leader.is_leader, _SLICE)
            return 0.0
        if self._membership.must_resign:
            self._finish_batch(dispatcher)
            self._membership.resign_as_asked()
            return 0.0
        look = leader.look
        try:
            pause = self._run(dispatcher, leader, token)
        except (ClockAheadError, ClockOffError) as exc:
            self._clock_is_off(exc, dispatcher, leader, token)
            return 0.0
        except Exception:
            pause = self._start_over(dispatcher)
        self._clock.complain()
        if self._stands_down():
            return 0.0
        if pause > 0:
            longest = min(pause, _SLICE, self.max_interval)
            membership = self._membership
            leader.wait(
                lambda: (
                    leader.fencing_token != token
                    or leader.look is not look
                    or membership.must_resign
                ),
                longest,
            )
        return 0.0

    def close(self) -> None:
        """Finish the batch under way, hand leadership over and close all connections.

        Beat calls it in its signal handler and again after its loop. Each call returns at the end
        of the first, also that of a second signal which interrupts the handler of the first one.
        Blocks for a batch and two round trips, and for at most the ttl.
        """
        # Ends the tenure for the dispatcher: it stops after the batch under way.
        self._closed = True
        self._ending.run(self._end)
        self._service.close()

    def _end(self) -> None:
        dispatcher = self._dispatcher
        if dispatcher is not None:
            self._finish_batch(dispatcher)
        self._membership.leave()
        self._background.close()
        self._calls.close()
        if dispatcher is not None:
            dispatcher.close()
        super().close()
        self._events.close(_LAST_EVENTS)

    @property
    def info(self) -> str:
        """Lines for beat's banner; without secrets."""
        lines = (
            self._membership.info,
            f"    . missed runs -> {self._settings.missed_runs}",
            f"    . publication -> {describe_way(self.app)}",
        )
        return "\n".join(lines)

    @property
    def is_leader(self) -> bool:
        """Whether this beat leads now: local, without IO."""
        return self._membership.is_leader

    # What Celery's own code calls, and others may

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send an entry, if this beat leads.

        Raises:
            EntryWithheldError: It does not.
        """
        self._require_leading(entry)
        super().apply_entry(entry, producer=producer)

    def apply_async(
        self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any
    ) -> Any:
        """Send an entry, as Celery's ``Scheduler`` does; without a producer by ``self.producer``.

        Raises:
            EntryWithheldError: This beat does not lead.
        """
        self._require_leading(entry)
        try:
            return super().apply_async(entry, producer or self.producer, advance, **kwargs)
        except Exception as exc:
            note_error(exc)
            raise

    @property
    def producer(self) -> Any:
        """The producer of the run that is being sent; else one that sends at once."""
        return present_producer() or super().producer

    def _summary(self) -> dict[str, Any]:
        dispatcher = self._dispatcher
        summary = {} if dispatcher is None else dispatcher.summary(_NAMED)
        if summary:
            summary["next"] = [[at, clipped(name, _LONGEST_NAME)] for at, name in summary["next"]]
        return summary

    def _require_leading(self, entry: Any) -> None:
        # What the dispatcher lets run has the gate of its tenure.
        if present_producer() is None and not self.is_leader:
            raise EntryWithheldError(self._membership.election, entry.name)

    # The parts

    def _finish_batch(self, dispatcher: Dispatcher) -> None:
        """Wait for the batch under way, and leave little for the next leader to settle."""
        limit = self._settings.ttl / 3
        if self._background.wait_idle(limit) and self.is_leader:
            self._background.start(dispatcher.finish)
            self._background.wait_idle(limit)

    def _begin_embedded(self, sender: Any, **_: Any) -> None:
        self._embedded = sender.scheduler is self
        if self._embedded:
            set_up_spawned_process(self.app)

    def _join(self) -> tuple[SafeLeader | Following, Dispatcher]:
        if self._dispatcher is None:
            settings = self._settings
            if self._embedded and not isinstance(self._membership, Following):
                # Not in a receiver of a signal, whose errors are only logged: here they end the
                # process.
                self._follow(follow_worker(settings))
            role = self._membership.role if isinstance(self._membership, Following) else BEAT
            keys = LedgerKeys(settings.key, settings.prefix)
            self._client = client = redis_client(settings, keys.runs)
            self._dispatcher = make_dispatcher(
                self,
                settings,
                client,
                role,
                self._roster,
                self._patience,
                self._calls,
                self._clock.watch,
                self._events,
            )
        joined = self._membership.join()
        if not self._embedded:  # its worker tells of both
            self._service.start()
        return joined, self._dispatcher

    def _families(self) -> Iterable[Family]:
        return pipeline_families(self._events, len(self._roster.entries), self._dispatcher)

    def _why_stuck(self) -> str:
        if not self._calls.is_full:
            return ""
        return "four calls of user code hang, and no more of it is called"

    def _follow(self, worker: Following | None) -> None:
        if worker is not None:
            worker.describe(self._summary)
            worker.relay(lambda: (*run_families(self._events), *self._families()))
            self._membership = worker
            self._events.announces = False  # its process tells
            self._patience.inherit(worker.patience)
            self._goes_last = self._patience.is_in_doubt

    def _run(self, dispatcher: Dispatcher, leader: SafeLeader | Following, token: int) -> float:
        """Dispatch on the background thread, and wait for its end as long as patience lasts."""
        call = self._background.start(lambda: self._dispatch(dispatcher, leader, token))
        if not self._background.wait(call, self._patience.seconds):
            # It may hang for ever. What it does from here on is not this beat's work any more.
            dispatcher.abandon()
            self._background.close()
            self._background, self._copying = BackgroundThread(_THREAD), StandbyCopying()
            self._dispatcher = self._tenure = None
            self._patience.ran_out(time.monotonic(), Cause.PROCESS)
            return 0.0
        if isinstance(call.error, Exception):
            raise call.error
        if call.error is not None:
            # Such as SystemExit of user code: it must not end this beat, and then the next one.
            raise RuntimeError(f"dispatching raised {safe_repr(call.error)}") from call.error
        return call.result or 0.0

    def _stands_down(self) -> bool:
        """Let another beat try if this one cannot do the work; return whether it does so."""
        cause = self._patience.exhausted()
        if cause is None:
            if self._goes_last and not self._patience.is_in_doubt:
                self._goes_last = False
                self._membership.is_able()
            return False
        had = self._patience.seconds
        logger.error(
            "This beat could not publish anything for %g s (cause: %s). It stands down: others go "
            "first, and if there are none it leads again and tries for %g s",
            had,
            cause.value,
            self._patience.stand_down(),
        )
        self._goes_last = True
        self._membership.stand_down(cause.value, self._patience.seconds)
        return True

    def _clock_is_off(
        self,
        error: Exception,
        dispatcher: Dispatcher,
        leader: SafeLeader | Following,
        token: int,
    ) -> None:
        """Let a beat with a correct clock lead; if there is none, Redis's may be the wrong one."""
        if not self._clock.watch.off:
            seconds = self._membership.rest()
            logger.error("%s. This beat stands down for %g s", error, seconds)
            return

        def has_better(since: int) -> bool:
            return self._background.run(lambda: self._has_better(leader, since))

        if self._clock.must_stand_down(token, has_better):
            self._goes_last = True
            self._membership.stand_down(Cause.CLOCK.value)
        else:
            dispatcher.start_over()

    def _has_better(self, leader: SafeLeader | Following, since: int) -> bool:
        """Return whether a beat led meanwhile that did not stand down, as far as can be known."""
        if self._client is None:
            return False
        role = leader.role if isinstance(leader, Following) else BEAT
        history = ElectionKeys(self._settings.key, role, self._settings.prefix).history
        return somebody_led_well(self._client, history, leader.candidate_id, since)

    def _start_over(self, dispatcher: Dispatcher) -> float:
        # What ends one beat would end the next one, too, and so on: none of them ends.
        logger.exception(
            "Dispatching failed unexpectedly; the ledger is loaded again in %g s. Please report "
            "this",
            _REST,
        )
        dispatcher.start_over()
        self._patience.failed(time.monotonic(), Cause.PROCESS)
        return _REST

    def _dispatch(
        self, dispatcher: Dispatcher, leader: SafeLeader | Following, token: int
    ) -> float:
        tenure = self._tenure
        if tenure is None or tenure.token != token:

            def still_leads() -> bool:
                return self._dispatcher is dispatcher and leader.fencing_token == token

            tenure = self._tenure = Tenure(
                leader.candidate_id,
                token,
                still_leads,
                lambda: leader.look,
                lambda: self._closed or self._membership.must_resign,
            )
            self._patience.begin()
            # User code that asks for the current app gets this one, as it does in stock beat.
            self.app.set_current()
        self._roster.refresh(self)
        return dispatcher.run(tenure)

    def _copy(self, dispatcher: Dispatcher, leader: SafeLeader | Following) -> float:
        """Keep the standby's copy of the ledger, and its entries; return the pause."""
        self._roster.refresh(self)
        return dispatcher.stand_by(lambda: leader.fencing_token is None and not self._closed)
