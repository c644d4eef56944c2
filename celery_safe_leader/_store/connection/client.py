"""Clients for the election: from a URL or from a client of the caller's, sync and asyncio.

A client made here repeats nothing by itself, waits no longer than it is told, and shares no
connection with the caller. It finds out where its server is each time it connects, be it by
Sentinels or by nodes of a cluster, and leaves a server that turned out to be a replica. Making one
does no IO. What is sent belongs to the stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.sentinel import SentinelConnectionPool

from celery_safe_leader._store.connection.factory import (
    CLIENT_NAME,
    Limits,
    Names,
    Source,
    address_of,
    plan,
)
from celery_safe_leader._store.connection.urls import parse_url, safe_url
from celery_safe_leader.errors import ConfigurationError

__all__ = ["CLIENT_NAME", "Source", "describe", "make_async_client", "make_client"]


def make_client(
    source: Source,
    options: Mapping[str, Any] | None = None,
    *,
    connect_timeout: float,
    read_timeout: float,
    key: str = "",
    setting: str = "redis",
    options_setting: str = "options",
) -> redis.Redis:
    """Make a blocking client with a pool of its own.

    Args:
        source: URL, or a client (blocking or asyncio) whose address and credentials are copied.
        options: Arguments of redis-py's connection that come before those of ``source``, and what
            Sentinels need. Limits, retries and decoding in them are not used; a warning names them.
        connect_timeout: Seconds for connecting; and as many for finding out where, if that is asked
            of Sentinels or of nodes of a cluster.
        read_timeout: Seconds for each reply.
        key: Any of the Redis keys that the client is for: in a cluster all are in its slot.
        setting: Name of the setting or argument that ``source`` came from, for errors.
        options_setting: The same for ``options``.

    Raises:
        ConfigurationError: Source or options cannot be used.
    """
    limits = Limits(False, connect_timeout, read_timeout)
    names = Names(setting, options_setting)
    connection_class, arguments = plan(source, options or {}, limits, names, key)
    pool = redis.ConnectionPool(connection_class=connection_class, **arguments)
    client = redis.Redis(connection_pool=pool)
    client.auto_close_connection_pool = True
    return client


def make_async_client(
    source: Source,
    options: Mapping[str, Any] | None = None,
    *,
    connect_timeout: float,
    read_timeout: float,
    key: str = "",
    setting: str = "redis",
    options_setting: str = "options",
) -> redis.asyncio.Redis:
    """Make an asyncio client with a pool of its own; arguments as of :func:`connect`.

    Needs no running loop. The client belongs to the loop that uses it first.
    """
    limits = Limits(True, connect_timeout, read_timeout)
    names = Names(setting, options_setting)
    connection_class, arguments = plan(source, options or {}, limits, names, key)
    pool = redis.asyncio.ConnectionPool(connection_class=connection_class, **arguments)
    client = redis.asyncio.Redis(connection_pool=pool)
    client.auto_close_connection_pool = True
    return client


def describe(source: object) -> str:
    """Show the server of a URL or a client as ``redis://host:port/db``, without secrets.

    Accepts anything, since it serves banners and errors.
    """
    pool = getattr(source, "connection_pool", None)
    if manager := getattr(source, "nodes_manager", None):
        return f"redis+cluster://{','.join(manager.startup_nodes)}"
    if pool is None:
        try:
            return str(parse_url(source))
        except ConfigurationError:
            return safe_url(source) if isinstance(source, str) else type(source).__name__
    if isinstance(pool, (SentinelConnectionPool, AsyncSentinelConnectionPool)):
        return f"sentinel://{pool.service_name}"
    return str(address_of(pool.connection_class, pool.connection_kwargs))
