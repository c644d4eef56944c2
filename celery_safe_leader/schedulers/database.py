"""django-celery-beat: entries in the database, edited in the admin."""

from __future__ import annotations

from typing import Any

from celery.schedules import crontab
from django.db import connections
from django_celery_beat.schedulers import DatabaseScheduler
from django_celery_beat.tzcrontab import TzAwareCrontab

from celery_safe_leader._beat.mixin.scheduler import LeaderSchedulerMixin

__all__ = ["LeaderDatabaseScheduler"]


class LeaderDatabaseScheduler(LeaderSchedulerMixin, DatabaseScheduler):
    """``DatabaseScheduler`` for any number of beats, of which one dispatches and writes.

    Runs are noted in the database one by one, directly after their messages are sent, not every
    three minutes.
    """

    def known_schedule(self, schedule: Any) -> Any:
        """Return Celery's crontab in the same time zone for django-celery-beat's."""
        if type(schedule) is not TzAwareCrontab:
            return schedule
        same = crontab(
            schedule._orig_minute,
            schedule._orig_hour,
            schedule._orig_day_of_week,
            schedule._orig_day_of_month,
            schedule._orig_month_of_year,
            nowfun=schedule.nowfun,  # up to Celery 5.6 a crontab is read in the zone of its clock
            app=self.app,
        )
        same.tz = schedule.tz
        return same

    def release(self) -> None:
        """Also close this thread's connections to the database."""
        try:
            super().release()
        finally:
            connections.close_all()
