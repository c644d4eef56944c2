"""What a stand-alone beat offers to the machine it runs on: systemd, and HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from celery_safe_leader._beat.membership import Membership
from celery_safe_leader._dispatch.dispatcher import Dispatcher
from celery_safe_leader._dispatch.run_events import RunEvents
from celery_safe_leader._runtime.service.loop_watch import LoopWatch
from celery_safe_leader._runtime.service.metrics import (
    Family,
    Source,
    counter,
    distribution,
    gauge,
)
from celery_safe_leader._runtime.service.process_health import ProcessHealth
from celery_safe_leader._runtime.service.process_service import ProcessService
from celery_safe_leader._store.keys import BEAT
from celery_safe_leader.conf import LeaderSettings

__all__ = ["make_beat_service", "pipeline_families", "run_families"]

LONGER = 10.0
"""Seconds by which a tick may last longer than a beat waits for what hangs in it."""


def make_beat_service(
    settings: LeaderSettings,
    membership: Membership,
    longest_tick: float,
    why_stuck: Callable[[], str],
    *sources: Source,
) -> ProcessService:
    """Return the service of a beat. Starts nothing.

    Args:
        settings: Of the app.
        membership: Its part in the election.
        longest_tick: Seconds for which one tick may last while all is well.
        why_stuck: Returns why no user code can be called any more; or nothing.
        sources: Of metrics, besides those of the election.
    """
    health = ProcessHealth(
        BEAT,
        membership.election,
        max(settings.ttl, 2 * settings.wait),
        LoopWatch(longest_tick + LONGER),
        lambda: membership.candidate,
        why_stuck,
    )
    return ProcessService(health, settings.http, *sources)


def run_families(events: RunEvents) -> Iterator[Family]:
    """Return the metrics of runs: what any scheduler of this package counts."""
    counts = events.counts
    yield counter("runs_published", "Runs whose messages the broker has.", counts.published, "way")
    yield counter("signals_dropped", "Runs that slow receivers were not told of.", events.dropped)


def pipeline_families(
    events: RunEvents, entries: int, dispatcher: Dispatcher | None
) -> Iterator[Family]:
    """Return the metrics of the pipeline of due runs.

    Args:
        events: With what was counted.
        entries: In the schedule.
        dispatcher: ``None`` before there is one.
    """
    counts = events.counts
    yield counter("runs_missed", "Runs that nobody publishes, by reason.", counts.missed, "reason")
    yield distribution(
        "run_lateness_seconds", "Seconds from the moment to the broker.", counts.lateness
    )
    yield distribution("batch_runs", "Runs that went to the broker together.", counts.batches)
    yield distribution("ledger_load_seconds", "Seconds to read the ledger.", counts.loads)
    yield counter("broker_errors", "Attempts at the broker that failed.", counts.broker_errors)
    yield gauge("entries", "Entries in the schedule.", entries)
    yield gauge(
        "unsettled_runs",
        "Runs claimed by somebody and not known to be published; absent on standby.",
        None if dispatcher is None else dispatcher.unsettled,
    )
    yield gauge(
        "run_overdue_seconds",
        "Seconds that the most overdue run is late; absent on standby.",
        None if dispatcher is None else dispatcher.overdue,
    )
    yield gauge(
        "paused",
        "Whether the ledger is paused; absent on standby.",
        None if dispatcher is None else dispatcher.is_paused,
    )
