"""The worker's bootstep that takes part in the election and consumes the leader queue."""

from __future__ import annotations

import threading
import time
from typing import Any

from celery import bootsteps
from celery.bootsteps import CLOSE, TERMINATE
from celery.worker import state

from celery_safe_leader import conf
from celery_safe_leader._core.events import Demoted, Elected, Event
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._setting_sources import spelling
from celery_safe_leader._worker.embedded_beat.keeper import keep_embedded_beat
from celery_safe_leader._worker.embedded_beat.precedence import Precedence
from celery_safe_leader._worker.leader_only.arrival_guard import guard_arrivals
from celery_safe_leader._worker.leader_only.kill import KillOnLoss
from celery_safe_leader._worker.leader_only.mark import mark_of
from celery_safe_leader._worker.leader_only.queue import LeaderQueue
from celery_safe_leader._worker.log import WorkerElectionLog
from celery_safe_leader._worker.loop_calls import LoopCalls
from celery_safe_leader._worker.member import Member

__all__ = ["DEMOTED_EVENT", "ELECTED_EVENT", "LeaderElection"]

ELECTED_EVENT = "leader-elected"
"""Celery event: this worker leads from now on."""
DEMOTED_EVENT = "leader-demoted"
"""Celery event: this worker no longer leads."""
_POLL = 0.02
"""Seconds between two checks for tasks that are still running."""
_LAST_EVENT = 1.0
"""Seconds that an ended worker waits until the end of its tenure has been reported."""


class LeaderElection(bootsteps.StartStopStep):
    """Takes part for this worker, and lets it consume the leader queue while it leads.

    A step of the consumer, which Celery starts after the pool and stops before it, whatever the
    order of the other steps: so no thread of the election exists when the pool forks.

    Raises:
        celery.exceptions.ImproperlyConfigured: A setting is wrong, or ``-Q`` names the leader
            queue; before the worker starts.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, no_leader: bool = False, **kwargs: Any) -> None:
        """Read the settings; does no IO except for creating a small file."""
        super().__init__(consumer, **kwargs)
        app = consumer.app
        self._consumer = consumer
        self._settings = settings = conf.read(app)
        with conf.as_improperly_configured(app):
            takes_part = settings.candidate and not no_leader
            self._member = Member(settings, self._is_ending) if takes_part else None
            self._keeper = keep_embedded_beat(consumer.controller, self._member, settings.ttl)
        self._precedence: Precedence | None = None
        if self._member is not None:
            kept = self._keeper if self._keeper and self._keeper.follows else None
            self._precedence = Precedence(settings, self._member, kept)
        self.queue = LeaderQueue(consumer, settings.queue, spelling(app.conf, "leader_queue"))
        guard_arrivals(app)
        self.leader = None if self._member is None else self._member.leader
        """The candidate; ``None`` if this worker takes no part."""
        self._kill_on_loss = KillOnLoss(consumer, self.leader)
        self._calls = LoopCalls(consumer)
        self.soon = self._calls.soon
        """Let the worker's loop call a function, from any thread."""
        self._away: threading.Timer | None = None
        self._drain: threading.Thread | None = None
        self._closing = False
        # Set when the end of the last tenure, if there was one, has been reported.
        self._end_reported = threading.Event()
        self._end_reported.set()
        self._introduced = False
        consumer.safe_leader = self

    @property
    def leads(self) -> bool:
        """Whether this worker leads now: local, without IO."""
        return self._member is not None and self._member.leader.is_leader

    def return_message(self, message: Any) -> None:
        """Return a message to the leader queue once this worker no longer consumes it.

        Before that the broker might deliver it to this worker again.
        """
        errors = self._consumer.connection_errors

        def requeue() -> None:
            self._consume_if_leading()
            message.reject_log_error(logger, errors, requeue=True)

        logger.info("Returned a message to %s: this worker is not the leader", self.queue.name)
        self.soon(requeue)

    # What Celery calls

    def start(self, consumer: Any) -> None:
        """Take part in the election; after a reconnect of the worker, go on."""
        if self._away is not None:
            self._away.cancel()
            self._away = None
        if not self._introduced:
            self._introduced = True
            self._introduce(consumer)
        if self._member is not None:
            self._member.elect()
        if self._keeper is not None:
            self._keeper.watch()
        if self._precedence is not None:
            self._precedence.start()
        self._calls.start()
        # Not now: the loop has not begun, and a message that came before it would find no handler.
        self._calls.soon(self._consume_if_leading)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Let calls from the election wake the loop."""
        self._calls.register(hub)

    def stop(self, consumer: Any) -> None:
        """Resign if the worker shuts down; if it only reconnects, stay for at most a ttl."""
        self.queue.forget()
        if self._member is None or self._closing:
            return
        if consumer.blueprint.state not in (CLOSE, TERMINATE):
            self._leave_if_away(self._member)
            return
        self._closing = True
        self._drain = threading.Thread(
            target=self._resign_when_done, args=(self._member,), name="leader:drain", daemon=True
        )
        self._drain.start()

    def terminate(self, consumer: Any) -> None:
        """Stop, as with ``stop()``."""
        self.stop(consumer)

    def shutdown(self, consumer: Any) -> None:
        """Leave the election for good; the pool has ended by now."""
        if self._away is not None:
            self._away.cancel()
        if self._drain is not None:
            self._drain.join(self._settings.ttl)
        if self._keeper is not None:
            self._keeper.end()
        if self._precedence is not None:
            self._precedence.close()
        if self._member is not None:
            self._member.close()
            # The connection for events is closed after this.
            self._end_reported.wait(_LAST_EVENT)
        self._calls.close()

    def info(self, consumer: Any) -> dict[str, Any]:
        """Return what ``celery inspect stats`` shows."""
        member = self._member
        return {
            "leader_election": {
                "server": self._settings.server,
                "queue": self.queue.name,
                "candidate": member is not None,
                "candidate_id": None if member is None else member.leader.candidate_id,
                "leads": self.leads,
                "fencing_token": None if member is None else member.leader.fencing_token,
                "consumes": self.queue.consumed,
            }
        }

    # The parts

    def _is_ending(self) -> bool:
        """Return whether this process ends at once; called often."""
        if state.should_stop is not None and state.should_stop is not False:
            # Wakes the loop, which looks for it once per round: without this, after seconds.
            self._calls.soon(lambda: None)
        return _cold()

    def _introduce(self, consumer: Any) -> None:
        self._kill_on_loss.warn_if_unsupported()
        member, settings = self._member, self._settings
        if member is None:
            logger.info(
                "This worker takes no part in the election: it never leads and never consumes %s",
                settings.queue,
            )
            return
        leader = member.leader
        log = WorkerElectionLog(consumer.hostname, leader.key, settings.server, leader.candidate_id)

        def report(event: Event) -> None:
            if isinstance(event, (Elected, Demoted)):
                self._end_reported.clear()
                self._calls.soon(self._consume_if_leading)
                if not (self._closing or _cold()):
                    self._calls.soon(lambda: self._send(event))
            log(event)
            if isinstance(event, Demoted):
                if self._closing or _cold():
                    # The loop has ended. The event dispatcher has its own lock and connection.
                    self._send(event)
                self._end_reported.set()

        member.on_event = report
        logger.info(
            "Taking part in the election %s at %s (%s) as %s; the leader queue is %s",
            leader.key,
            settings.server,
            settings.url_setting,
            leader.candidate_id,
            settings.queue,
        )

    def _consume_if_leading(self) -> None:
        """Consume the leader queue if this worker leads, else cancel it. On the loop's thread."""
        if self.leads and not self._closing:
            self.queue.consume()
        else:
            self.queue.cancel()

    def _send(self, event: Elected | Demoted) -> None:
        events = self._consumer.event_dispatcher
        if self._member is None or not events or not events.enabled:
            return
        leader = self._member.leader
        fields = {
            "election": leader.key,
            "candidate_id": leader.candidate_id,
            "fencing_token": event.fencing_token,
        }
        if isinstance(event, Demoted):
            events.send(DEMOTED_EVENT, reason=event.reason.value, **fields)
        else:
            events.send(ELECTED_EVENT, **fields)

    def _leave_if_away(self, member: Member) -> None:
        # A worker that cannot reach the broker runs nothing from the queue; another one may.
        def leave() -> None:
            logger.warning(
                "The broker has been unreachable for %g s: this worker takes no part in the "
                "election until it is connected again",
                self._settings.ttl,
            )
            member.resign()

        if self._away is None:
            self._away = threading.Timer(self._settings.ttl, leave)
            self._away.daemon = True
            self._away.start()

    def _resign_when_done(self, member: Member) -> None:
        """Wait for running leader-only tasks, up to the drain timeout, and hand leadership over."""
        deadline = time.monotonic() + self._settings.drain_timeout
        while self._running() and not _cold():
            if time.monotonic() >= deadline:
                logger.warning(
                    "Leader-only tasks are still running after %g s: this worker resigns, and they "
                    "no longer have leadership",
                    self._settings.drain_timeout,
                )
                break
            time.sleep(_POLL)
        if self._keeper is not None and not _cold():
            self._keeper.end()  # it finishes its batch while this worker still leads
        member.close()

    def _running(self) -> bool:
        while True:
            try:
                requests = list(state.active_requests)
            except RuntimeError:  # changed during the iteration
                continue
            return any(mark_of(request.task) is not None for request in requests)


def _cold() -> bool:
    return state.should_terminate is not None and state.should_terminate is not False
