"""The step of a worker that drops second publications of periodic runs."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from celery_safe_leader import conf
from celery_safe_leader._clients import redis_client
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._store.keys import LedgerKeys
from celery_safe_leader._worker.dedup.duplicate_filter import DuplicateFilter
from celery_safe_leader._worker.dedup.inquirer import LONGEST_LIMIT, Inquirer
from celery_safe_leader._worker.dedup.strategies import FilteredStrategies

__all__ = ["FirstPublicationWins"]

_CONNECT_LIMIT = 1.0
"""Seconds. No message waits for it: a background thread connects."""


class FirstPublicationWins(bootsteps.StartStopStep):
    """Lets the first publication of each periodic run through and drops the others.

    Raises:
        celery.exceptions.ImproperlyConfigured: A setting is wrong; before the worker starts.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        """Read the settings and put the filter before the tasks; does no IO."""
        super().__init__(consumer, **kwargs)
        self._settings = settings = conf.read_for_worker(consumer.app)
        self.enabled = not settings.is_alone
        if settings.is_alone:
            return
        with conf.as_improperly_configured(consumer.app):
            client = redis_client(
                settings,
                LedgerKeys(settings.key, settings.prefix).runs,
                connect_timeout=_CONNECT_LIMIT,
                read_timeout=LONGEST_LIMIT,
            )
        self._inquirer = Inquirer(
            client, settings.server, settings.key, settings.dedup_window, settings.prefix
        )
        self._filter = DuplicateFilter(consumer, self._inquirer)
        self._strategies = FilteredStrategies(self._filter)
        consumer.strategies = self._strategies
        consumer.safe_leader_duplicates = self._filter
        self._started = False

    def start(self, consumer: Any) -> None:
        """Connect to Redis; after each reconnect of the worker only check the strategies."""
        self._strategies.check(consumer)
        if not self._started:
            self._started = True
            settings = self._settings
            logger.info(
                "The first publication of each periodic run is executed and others are dropped: "
                "%s (%s) remembers a run for %g s",
                settings.server,
                settings.url_setting,
                settings.dedup_window,
            )
            self._inquirer.start()

    def stop(self, consumer: Any) -> None:
        """Do nothing: the worker may only be reconnecting."""

    terminate = stop

    def shutdown(self, consumer: Any) -> None:
        """Close the connection to Redis."""
        self._inquirer.close()

    def info(self, consumer: Any) -> dict[str, Any]:
        """Return what ``celery inspect stats`` shows."""
        duplicates, inquirer = self._filter, self._inquirer
        return {
            "leader_publications": {
                "server": self._settings.server,
                "answers": inquirer.answers,
                "passed": duplicates.passed,
                "once": duplicates.once,
                "dropped": duplicates.dropped,
                "unchecked": duplicates.unchecked,
                "entered_late": inquirer.late,
                "doubled": inquirer.doubled,
            }
        }
