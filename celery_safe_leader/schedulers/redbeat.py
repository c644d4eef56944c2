"""RedBeat: entries in Redis, edited by programs."""

from __future__ import annotations

from typing import Any

from celery import Celery
from redbeat.schedulers import RedBeatScheduler

from celery_safe_leader._beat.mixin.scheduler import LeaderSchedulerMixin

__all__ = ["LeaderRedBeatScheduler"]


class LeaderRedBeatScheduler(LeaderSchedulerMixin, RedBeatScheduler):
    """``RedBeatScheduler`` for any number of beats, of which one dispatches and writes.

    RedBeat's own lock is switched off, whatever ``redbeat_lock_key`` says. Never run it beside a
    plain ``RedBeatScheduler``, which does not know who leads.
    """

    def __init__(self, app: Celery, *args: Any, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)
        self.lock_key = None
