"""Makes candidates and Redis clients from the settings of an app. Does no IO."""

from __future__ import annotations

import redis

from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.conf import LeaderSettings
from celery_safe_leader.leader import SafeLeader, build_leader

__all__ = ["make_candidate", "redis_client"]


def make_candidate(settings: LeaderSettings, keys: ElectionKeys) -> SafeLeader:
    """Return a candidate of the election with these keys, which takes no part yet.

    Raises:
        ConfigurationError: The URL or the options of the client cannot be used.
    """
    return build_leader(
        settings.url,
        keys,
        settings.candidate_options,
        settings.options,
        setting=settings.url_setting,
        options_setting=settings.options_setting,
    )


def redis_client(
    settings: LeaderSettings,
    key: str,
    *,
    connect_timeout: float | None = None,
    read_timeout: float | None = None,
) -> redis.Redis:
    """Return a client with connections of its own.

    Args:
        settings: Of the app.
        key: A Redis key that the client is for: in a cluster it connects to the node of that slot.
        connect_timeout: Seconds; by default as long as a candidate waits for an answer.
        read_timeout: Seconds for each reply; the same default.

    Raises:
        ConfigurationError: The URL or the options of the client cannot be used.
    """
    limit = settings.candidate_options.request_timeout
    return make_client(
        settings.url,
        settings.options,
        connect_timeout=limit if connect_timeout is None else connect_timeout,
        read_timeout=limit if read_timeout is None else read_timeout,
        key=key,
        setting=settings.url_setting,
        options_setting=settings.options_setting,
    )
