"""Makes clients for the election, blocking and asyncio, from a URL or a client of the caller.

A client made here repeats nothing by itself, waits no longer than its limits, and shares no
connection with the caller. Each time it connects it looks up its server, by Sentinels or by nodes
of a cluster, and it leaves a server that turns out to be a replica. Making one does no IO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.sentinel import SentinelConnectionPool

from celery_safe_leader._core.options import Options
from celery_safe_leader._store.connection.pool_settings import (
    Limits,
    Names,
    Source,
    address_of,
    pool_settings,
)
from celery_safe_leader._store.connection.urls import parse_url, safe_url
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import ConfigurationError

__all__ = [
    "Source",
    "describe",
    "make_async_client",
    "make_client",
    "make_store_clients",
]

Client = TypeVar("Client")


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
        options: Arguments of redis-py's connection, which override those of ``source``, and what
            Sentinels need. Limits, retries and decoding in them are not used; a warning names them.
        connect_timeout: Seconds for connecting, and as many again for looking up the server by
            Sentinels or by nodes of a cluster.
        read_timeout: Seconds for each reply.
        key: Any of the Redis keys that the client is for; in a cluster all are in its slot.
        setting: Name of the setting or argument that ``source`` came from, for errors.
        options_setting: The same for ``options``.

    Raises:
        ConfigurationError: Source or options cannot be used.
    """
    limits = Limits(False, connect_timeout, read_timeout)
    names = Names(setting, options_setting)
    connection_class, arguments = pool_settings(source, options or {}, limits, names, key)
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
    """Make an asyncio client with a pool of its own; arguments as of :func:`make_client`.

    Needs no running loop. The client belongs to the loop that uses it first.
    """
    limits = Limits(True, connect_timeout, read_timeout)
    names = Names(setting, options_setting)
    connection_class, arguments = pool_settings(source, options or {}, limits, names, key)
    pool = redis.asyncio.ConnectionPool(connection_class=connection_class, **arguments)
    client = redis.asyncio.Redis(connection_pool=pool)
    client.auto_close_connection_pool = True
    return client


def make_store_clients(
    make: Callable[..., Client],
    source: Source,
    client_options: Mapping[str, Any],
    options: Options,
    keys: ElectionKeys,
    **names: str,
) -> tuple[Client, Client]:
    """Make the two clients of a store: for requests, and for the blocking read.

    Args:
        make: ``make_client`` or ``make_async_client``.
        source: As theirs.
        client_options: Their ``options``.
        options: Of the candidate; the time limits follow from them.
        keys: Of the election.
        **names: ``setting`` and ``options_setting``, as theirs.
    """
    limit = options.request_timeout
    client, waiting_client = (
        make(
            source,
            client_options,
            connect_timeout=limit,
            read_timeout=read_timeout,
            key=keys.lease,
            **names,
        )
        for read_timeout in (limit, options.wait + limit)
    )
    return client, waiting_client


def describe(source: object) -> str:
    """Return the server of a URL or a client as ``redis://host:port/db``, without secrets.

    Accepts anything, since it is used in banners and errors.
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
