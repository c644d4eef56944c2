"""What an app needs for its workers: ``celery_safe_leader.install(app)``."""

from __future__ import annotations

from typing import Any

from celery import Celery

from celery_safe_leader import conf
from celery_safe_leader._worker import inspection
from celery_safe_leader._worker.command_line import add_option_for
from celery_safe_leader._worker.dedup.step import FirstPublicationWins
from celery_safe_leader._worker.election_step import EndOfLeaderQueue, LeaderElection
from celery_safe_leader.errors import ConfigurationError

__all__ = ["inspection", "install"]


def install(app: Celery) -> None:
    """Make the workers of an app elect a leader, and execute each periodic run once.

    The elected worker consumes the leader queue, and no other worker runs its tasks. ``celery
    worker --no-leader`` or the setting ``leader_candidate = False`` keeps a worker out of the
    election.

    A beat that takes over from a crashed leader publishes a run again if nobody can know whether it
    was published. Workers of this app execute the first publication and drop the others.

    Call it once for each app, in the module that makes the app, before or after its tasks are
    defined. Calling it again does nothing. It does no IO; the settings are read, and wrong
    ones refused, when a worker starts. In Django, having ``celery_safe_leader`` among the
    ``INSTALLED_APPS`` does it.

    Args:
        app: The Celery app.

    Raises:
        ConfigurationError: ``app`` is not a Celery app.
    """
    given: Any = app
    if not isinstance(given, Celery):
        raise ConfigurationError("app", f"of type {type(given).__name__}", "a Celery app")
    conf.register_settings()
    app.steps["consumer"].update((FirstPublicationWins, LeaderElection))
    app.steps["worker"].add(EndOfLeaderQueue)
    add_option_for(app)
