"""A beat's pipeline: the dispatcher with the entries, ledger and publisher that it works on."""

from __future__ import annotations

import time

import redis
from celery.beat import Scheduler

from celery_safe_leader._beat.entries.roster import Roster
from celery_safe_leader._dispatch.dispatcher import Dispatcher
from celery_safe_leader._dispatch.health.clock_watch import SLACK, ClockWatch
from celery_safe_leader._dispatch.health.patience import Patience
from celery_safe_leader._dispatch.health.user_calls import UserCalls
from celery_safe_leader._dispatch.run_events import RunEvents
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.own_way.celerys_calls import CelerysCalls
from celery_safe_leader._publishing.own_way.detection import Detection
from celery_safe_leader._publishing.publisher import Publisher
from celery_safe_leader.conf import LeaderSettings

__all__ = ["make_dispatcher"]


def make_dispatcher(
    scheduler: Scheduler,
    settings: LeaderSettings,
    client: redis.Redis,
    role: str,
    roster: Roster,
    patience: Patience | None = None,
    calls: UserCalls | None = None,
    watch: ClockWatch | None = None,
    events: RunEvents | None = None,
) -> Dispatcher:
    """Return an idle dispatcher for a scheduler, its app and its entries. Does no IO.

    The client is the ledger's alone: a slow ledger must not delay a renewal. ``role`` says which
    of the key's elections the beat takes part in. ``patience`` is told how dispatching goes;
    ``calls`` makes calls of user code; ``watch`` compares clocks; ``events`` is told what becomes
    of runs.
    """
    app = scheduler.app
    patience = patience or Patience(settings.ttl)
    calls = calls or UserCalls(app.set_current)
    watch = watch or ClockWatch(max(settings.ttl, SLACK))
    ledger = Ledger(
        client,
        settings.key,
        role,
        ttl=settings.ttl,
        clock=time.monotonic,
        prefix=settings.prefix,
    )
    publisher = Publisher(app)
    builder = Builder(
        app,
        key=settings.key,
        expires_from=settings.expires_from,
        detection=Detection(app, scheduler),
        calls=CelerysCalls(scheduler, settings.key, publisher.session, publisher.timeout),
    )
    return Dispatcher(ledger, roster, builder, publisher, patience, calls, watch, events)
