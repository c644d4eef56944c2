"""A beat's pipeline: the dispatcher with the entries, ledger and publisher that it works on."""

from __future__ import annotations

import time

import redis
from celery import Celery

from celery_safe_leader._beat.entries.roster import Roster
from celery_safe_leader._dispatch.dispatcher import Dispatcher
from celery_safe_leader._dispatch.timetable import EARLIEST
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.publisher import Publisher
from celery_safe_leader.conf import LeaderSettings

__all__ = ["make_dispatcher"]


def make_dispatcher(
    app: Celery, settings: LeaderSettings, client: redis.Redis, role: str, roster: Roster
) -> Dispatcher:
    """Return an idle dispatcher for an app and its entries. Does no IO.

    The client is the ledger's alone: a slow ledger must not delay a renewal. ``role`` says which
    of the key's elections the beat takes part in.
    """
    ledger = Ledger(
        client,
        settings.key,
        role,
        ttl=settings.ttl,
        clock=time.monotonic,
        prefix=settings.prefix,
        early=EARLIEST,
    )
    return Dispatcher(ledger, roster, Builder(app, key=settings.key), Publisher(app))
