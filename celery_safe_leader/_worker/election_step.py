"""The worker's bootstep that takes part in the election and consumes the leader queue."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import celery
from celery import bootsteps
from celery.bootsteps import CLOSE, TERMINATE
from celery.worker import state

from celery_safe_leader import conf
from celery_safe_leader._clients import warn_of_other_servers
from celery_safe_leader._core.events import Demoted, Elected, Event
from celery_safe_leader._core.presence import clipped
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._runtime.service.loop_watch import LoopWatch
from celery_safe_leader._runtime.service.metrics import Family, counter
from celery_safe_leader._runtime.service.process_health import ProcessHealth
from celery_safe_leader._runtime.service.process_service import ProcessService
from celery_safe_leader._setting_sources import spelling
from celery_safe_leader._store.keys import WORKER, ElectionKeys
from celery_safe_leader._worker.embedded_beat.keeper import keep_embedded_beat
from celery_safe_leader._worker.embedded_beat.precedence import Precedence
from celery_safe_leader._worker.leader_only.arrival_guard import guard_arrivals
from celery_safe_leader._worker.leader_only.consumption import Consumption
from celery_safe_leader._worker.leader_only.kill import KillOnLoss
from celery_safe_leader._worker.leader_only.leadership import lone_lease, reader_of
from celery_safe_leader._worker.leader_only.queue import LeaderQueue
from celery_safe_leader._worker.leader_only.run_guard import runs_leader_only
from celery_safe_leader._worker.leader_only.unknown_tasks import UnknownTasks
from celery_safe_leader._worker.leader_only.waiting_calls import (
    await_last_answer,
    give_back_late_calls,
    requeue,
)
from celery_safe_leader._worker.log import WorkerElectionLog, send_signals
from celery_safe_leader._worker.loop_calls import LoopCalls
from celery_safe_leader._worker.member import Member

__all__ = ["DEMOTED_EVENT", "ELECTED_EVENT", "EndOfLeaderQueue", "LeaderElection"]

ELECTED_EVENT = "leader-elected"
"""Celery event: this worker leads from now on."""
DEMOTED_EVENT = "leader-demoted"
"""Celery event: this worker no longer leads."""
_POLL = 0.02
"""Seconds between two checks for tasks that are still running."""
_DELAYED_DELIVERY = "celery.worker.consumer.delayed_delivery"
"""Module of Celery's step, from 5.5 on, for messages that RabbitMQ delays in quorum queues."""
_LONGEST_TURN = 30.0
"""Seconds that the worker's loop may take for one turn, and is alive."""
_LONGEST_STOP = 1.0
"""Seconds after which a worker that was told to end hands over although its loop has not ended."""
_LAST_EVENT = 1.0
"""Seconds that an ended worker waits until the end of its tenure has been reported, and as long
again until receivers have been told."""


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
        self._settings = settings = conf.read_for_worker(app)
        with conf.as_improperly_configured(app):
            takes_part = settings.candidate and not no_leader and not settings.is_alone
            self._member = Member(settings, self._is_ending) if takes_part else None
            self._keeper = keep_embedded_beat(consumer.controller, self._member, settings.ttl)
        self._is_alone = settings.is_alone and settings.candidate and not no_leader
        if self._is_alone:
            reader_of(app).lone = lone_lease()
        self._precedence: Precedence | None = None
        if self._member is not None:
            kept = self._keeper if self._keeper and self._keeper.follows else None
            self._precedence = Precedence(settings, self._member, kept)
        setting = spelling(app.conf, "leader_queue")
        self.queue = LeaderQueue(consumer, settings.queue, setting)
        guard_arrivals(app)
        self.leader = None if self._member is None else self._member.leader
        """The candidate; ``None`` if this worker takes no part."""
        if self.leader is not None:
            self.leader.describe(self._about)
        self._kill_on_loss = KillOnLoss(consumer, self.leader)
        self._calls = LoopCalls(consumer)
        self.soon = self._calls.soon
        """Let the worker's loop call a function, from any thread."""
        self._consumption = Consumption(
            consumer,
            self.queue,
            setting,
            self._member,
            lambda: self.leads and not self._closing,
            self.soon,
            self._calls.fail,
        )
        loop = LoopWatch(_LONGEST_TURN, lambda: self.soon(loop.turned))
        self._service = ProcessService(
            ProcessHealth(
                WORKER,
                ElectionKeys(settings.key, WORKER).election,
                max(settings.ttl, 2 * settings.wait),
                loop,
                lambda: self.leader,
            ),
            settings.http,
            lambda: _duplicates(consumer),
            lambda: () if self._keeper is None else self._keeper.metrics(),
        )
        give_back_late_calls(consumer, self)
        UnknownTasks(consumer, self.queue, self._member, self.soon)
        self._away: threading.Timer | None = None
        self._drain: threading.Thread | None = None
        self._closing = False
        self._handover_lock = threading.Lock()
        self._told_to_end_at = math.inf
        self.leaves = False
        """Whether this worker ends and takes no message of the leader queue any more."""
        self._taken_back: list[Any] = []
        self._soft_shutdown_ends = math.inf
        self._notice_soft_shutdown(consumer.controller)
        # Set when the end of the last tenure, if there was one, has been reported, and told to the
        # receivers of the signal.
        self._end_reported, self._end_told = threading.Event(), threading.Event()
        self._end_reported.set()
        self._end_told.set()
        self._introduced = False
        consumer.safe_leader = self

    @property
    def leads(self) -> bool:
        """Whether this worker leads now: local, without IO."""
        return self._is_alone or (self._member is not None and self._member.leader.is_leader)

    @property
    def last_error(self) -> tuple[str, float]:
        """What last kept this worker from consuming the leader queue, and when (wall clock)."""
        return self._consumption.last_error

    def return_message(self, message: Any) -> None:
        """Return a message to the leader queue once this worker no longer consumes it.

        Before that the broker might deliver it to this worker again.
        """
        errors = self._consumer.connection_errors

        def requeue() -> None:
            self._consumption.follow()
            message.reject_log_error(logger, errors, requeue=True)

        if self.leaves:
            # The loop has ended. What comes now was sent before the consumption was cancelled.
            logger.info("Returned a message to %s: this worker ends", self.queue.name)
            message.reject_log_error(logger, errors, requeue=True)
            return
        logger.info("Returned a message to %s: this worker is not the leader", self.queue.name)
        self.soon(requeue)

    def leave_queue(self) -> None:
        """Begin the handover, and consume the leader queue no longer, at a warm shutdown.

        What has not begun is taken back. Where the worker itself could be sent some of it again, it
        goes back in ``give_back()``.
        """
        if self._member is None or _cold():
            return
        self.leaves = True
        with contextlib.suppress(*self._consumer.connection_errors):
            taken = self._consumption.take_waiting()
            # Before the queue is left. Messages that have come and were not read are read then, and
            # a solo worker runs those of other queues at once.
            self._begin_handover(self._member)
            if self._consumption.leave():
                requeue(taken)
            else:
                self._taken_back = taken

    def give_back(self) -> None:
        """Return what has not begun, at a warm shutdown, once this worker consumes no queue."""
        if self._taken_back:
            with contextlib.suppress(*self._consumer.connection_errors):
                await_last_answer(self._consumer, _cold)
                requeue(self._taken_back)

    # What Celery calls

    def include(self, parent: Any) -> bool:
        """Be started before the step that binds the queues of delayed messages.

        It binds the leader queue as well, if that is on a topic exchange, and fails where it has
        not been declared.
        """
        included = bool(super().include(parent))
        steps = parent.steps
        kinds = [type(step).__module__ for step in steps]
        if included and _DELAYED_DELIVERY in kinds:
            steps.remove(self)
            steps.insert(kinds.index(_DELAYED_DELIVERY), self)
        return included

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
        self._service.start()
        self._consumption.prepare()
        # Not now: the loop has not begun, and a message that came before it would find no handler.
        self._calls.soon(self._consumption.follow)

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
        self._begin_handover(self._member)

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
            # The connection for events is closed after this, and the process ends.
            for ended in (self._end_reported, self._end_told):
                ended.wait(_LAST_EVENT)
        if self._is_alone:
            reader_of(consumer.app).lone = None
        self._service.close()
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

    def _about(self) -> dict[str, Any]:
        """Return what `leader status` shows of this worker. From any thread."""
        about: dict[str, Any] = {
            "celery": celery.__version__,
            "node": clipped(str(self._consumer.hostname)),
        }
        if self._keeper is not None:
            about["beat"] = self._keeper.runs
        if self.leads:
            running = sum(map(runs_leader_only, self._requests()))
            beats = self._keeper.work() if self._keeper is not None else {}
            about["work"] = {**beats, "consumes": self.queue.consumed, "running": running}
        return about

    def _is_ending(self) -> bool:
        """Return whether this process ends at once; called often."""
        if state.should_stop is not None and state.should_stop is not False:
            # Wakes the loop, which looks for it once per round: without this, after seconds.
            self._calls.soon(lambda: None)
            self._told_to_end_at = min(self._told_to_end_at, time.monotonic())
            if self._member is not None and time.monotonic() - self._told_to_end_at > _LONGEST_STOP:
                # A task of a solo worker is the loop's turn, and with greenlets a message waits in
                # it for one of them: the loop hears of the end when a task has ended.
                self._begin_handover(self._member)
        return _cold() or time.monotonic() >= self._soft_shutdown_ends

    def _notice_soft_shutdown(self, controller: Any) -> None:
        wait = getattr(controller, "wait_for_soft_shutdown", None)
        if wait is None:  # before Celery 5.5
            return

        def noticed() -> None:
            # It waits for running tasks inside a signal handler, where nothing is consumed and
            # nobody learns that a task has ended.
            grace = self._settings.drain_timeout if self._running() else 0.0
            self._soft_shutdown_ends = time.monotonic() + grace
            wait()

        controller.wait_for_soft_shutdown = noticed

    def _introduce(self, consumer: Any) -> None:
        self._kill_on_loss.warn_if_unsupported()
        member, settings = self._member, self._settings
        if self._is_alone:
            logger.info(
                "The broker is in this process's memory, so no election is held: this worker "
                "runs the leader-only tasks"
            )
            return
        if member is None:
            logger.info(
                "This worker takes no part in the election: it never leads and never consumes %s",
                settings.queue,
            )
            return
        leader = member.leader
        warn_of_other_servers(settings, logger)
        log = WorkerElectionLog(leader.key, settings, leader.candidate_id)

        def report(event: Event) -> None:
            try:
                if isinstance(event, (Elected, Demoted)):
                    self._begin_report(event)
                log(event)
                if isinstance(event, Demoted) and self._has_ended():
                    # The loop has ended. The event dispatcher has its own lock and connection.
                    self._send(event)
            finally:
                if isinstance(event, Demoted):
                    self._end_reported.set()

        member.on_event = report
        member.on_change = lambda: self._calls.soon(self._consumption.follow)
        send_signals(consumer.hostname, leader)
        leader.on("demoted", lambda _: self._end_told.set())
        logger.info(
            "Taking part in the election %s at %s (%s) as %s; the leader queue is %s",
            leader.key,
            settings.server,
            settings.url_setting,
            leader.candidate_id,
            settings.queue,
        )

    def _begin_report(self, event: Elected | Demoted) -> None:
        self._end_reported.clear()
        self._end_told.clear()
        if isinstance(event, Demoted):
            self._kill_on_loss.demoted(event)
        self._calls.soon(self._consumption.follow)
        if not self._has_ended():
            self._calls.soon(lambda: self._send(event))

    def _has_ended(self) -> bool:
        return self._closing or _cold()

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

    def _begin_handover(self, member: Member) -> None:
        """Let a thread hand leadership over for good. From any thread; may be called again."""
        with self._handover_lock:
            if self._closing:
                return
            self._closing = True
            self._drain = threading.Thread(
                target=self._resign_when_done, args=(member,), name="leader:drain", daemon=True
            )
            self._drain.start()

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
        return any(map(runs_leader_only, self._requests()))

    @staticmethod
    def _requests() -> list[Any]:
        """Return what runs now. From any thread."""
        while True:
            try:
                return list(state.active_requests)
            except RuntimeError:  # changed during the iteration
                continue


class EndOfLeaderQueue(bootsteps.StartStopStep):
    """Lets a worker give back what has not begun before it waits for what runs.

    A step of the worker: those of its consumer are stopped when Celery has forgotten what waits.
    It is stopped after the consumer, which has begun its handover by then, and before the pool.
    """

    requires = ("celery.worker.components:Pool",)

    def close(self, parent: Any) -> None:
        """Tell the consumer's step that the worker ends; its loop has ended already."""
        step = _step_of(parent)
        if step is not None:
            step.leave_queue()

    def stop(self, parent: Any) -> None:
        """Tell the consumer's step that nothing is consumed any more."""
        step = _step_of(parent)
        if step is not None:
            step.give_back()

    def terminate(self, parent: Any) -> None:
        """Return nothing: the broker does at the end of the connection, which is near."""


def _step_of(worker: Any) -> LeaderElection | None:
    found: LeaderElection | None = getattr(worker.consumer, "safe_leader", None)
    return found


def _cold() -> bool:
    return state.should_terminate is not None and state.should_terminate is not False


def _duplicates(consumer: Any) -> Iterator[Family]:
    """Return what the step that drops second publications has counted."""
    found = getattr(consumer, "safe_leader_duplicates", None)
    if found is not None:
        yield counter("duplicates_dropped", "Second messages of a run, dropped.", found.dropped)
        yield counter(
            "publications_unchecked", "Messages run while Redis did not answer.", found.unchecked
        )
