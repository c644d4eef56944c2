"""Makes candidates and Redis clients from the settings of an app. Does no IO."""

from __future__ import annotations

import logging
from collections.abc import Collection

import celery
import redis

from celery_safe_leader._core.messages import Part
from celery_safe_leader._runtime.channel import Channel, Leading
from celery_safe_leader._store.channel_lists import RedisChannel
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.conf import LeaderSettings
from celery_safe_leader.leader import SafeLeader, build_leader

__all__ = ["make_candidate", "make_channel", "redis_client", "warn_of_other_servers"]


def warn_of_other_servers(settings: LeaderSettings, logger: logging.Logger) -> None:
    """Say that the election asks only one of several brokers, if there are several on Redis."""
    if settings.other_servers:
        logger.warning(
            "%s names several servers. The election uses %s alone, also while Celery uses %s. Set "
            "leader_url to the server that all processes should use",
            settings.url_setting,
            settings.server,
            " or ".join(settings.other_servers),
        )


def make_candidate(settings: LeaderSettings, keys: ElectionKeys) -> SafeLeader:
    """Return a candidate of the election with these keys, which takes no part yet.

    Raises:
        ConfigurationError: The URL or the options of the client cannot be used.
    """
    leader = build_leader(
        settings.url,
        keys,
        settings.candidate_options,
        settings.options,
        setting=settings.url_setting,
        options_setting=settings.options_setting,
    )
    leader.describe(lambda: {"celery": celery.__version__})
    return leader


def make_channel(
    settings: LeaderSettings, keys: ElectionKeys, parts: Collection[Part], leading: Leading
) -> Channel:
    """Return the line to the leader of the election with these keys. Does no IO.

    Args:
        settings: Of the app.
        keys: Of the election.
        parts: What of it is read.
        leading: Whose line it is: it is read while this leads.
    """
    limit = settings.candidate_options.request_timeout

    def open_source() -> RedisChannel:
        client = redis_client(settings, keys.lease, read_timeout=settings.ttl / 3 + limit)
        return RedisChannel(client, keys, parts)

    return Channel(keys.election, open_source, leading, settings.ttl)


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
