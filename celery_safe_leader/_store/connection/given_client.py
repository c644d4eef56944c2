"""Reads from a client of the caller where its server is and how to log in.

Clients of redis-py for one server are copied as they are. From those that look up their server, and
from those of valkey-py, only the address, the login and the TLS settings are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import redis
import redis.asyncio
import redis.asyncio.cluster
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.sentinel import SentinelConnectionPool

from celery_safe_leader._store.connection.arguments import CLASSES, copy_arguments, kind_of
from celery_safe_leader._store.connection.sentinel import SentinelGroup
from celery_safe_leader._store.connection.urls import Address
from celery_safe_leader.errors import ConfigurationError

__all__ = ["ClientFacts", "ClientOfCaller", "read_client"]


class _HasPool(Protocol):
    """A client of redis-py or valkey-py for one server, or for a master known to Sentinels."""

    connection_pool: Any


ClientOfCaller: TypeAlias = "_HasPool | redis.RedisCluster | redis.asyncio.RedisCluster"
"""A client that is copied, not used."""

_CLUSTERS = (redis.RedisCluster, redis.asyncio.RedisCluster)
_SENTINEL_POOLS = (SentinelConnectionPool, AsyncSentinelConnectionPool)
_CARRIED = frozenset(
    {
        "client_name",
        "credential_provider",
        "db",
        "host",
        "password",
        "path",
        "port",
        "socket_keepalive_options",
        "socket_type",
        "username",
    }
)
_VALKEY_KINDS = {
    "Connection": "redis",
    "SSLConnection": "rediss",
    "UnixDomainSocketConnection": "unix",
}
"""Class name in valkey-py, on both sides -> kind of connection."""


class ClientFacts(NamedTuple):
    """What was read from a client."""

    connection_class: type[Any]
    """Of redis-py."""
    arguments: dict[str, Any]
    group: SentinelGroup | None = None
    """The group to ask Sentinels for, if the client does that."""
    nodes: tuple[Address, ...] = ()
    """Nodes of the cluster to ask, if the client does that."""


def read_client(source: object, *, asynchronous: bool, setting: str) -> ClientFacts:
    """Return what a client knows of its server.

    Args:
        source: Blocking or asyncio.
        asynchronous: Which side our connections are for.
        setting: Where the client came from, for errors.

    Raises:
        ConfigurationError: It is not such a client, or it has something that cannot be copied.
    """
    classes = CLASSES[asynchronous]
    if isinstance(source, _CLUSTERS):
        manager: Any = source.nodes_manager
        arguments = manager.connection_kwargs
        given = arguments.get("connection_class")
        kind = kind_of(given) if isinstance(given, type) else "redis"
        nodes = tuple((str(n.host), int(n.port)) for n in manager.startup_nodes.values())
        kind = "rediss" if arguments.get("ssl") else kind
        return ClientFacts(classes[kind], _carried(arguments), nodes=nodes)
    pool: Any = getattr(source, "connection_pool", None)
    if isinstance(pool, _SENTINEL_POOLS):
        if not pool.is_master:
            raise ConfigurationError(setting, "a client for replicas", "one for the master")
        own_class = classes[kind_of(pool.connection_class)]
        return ClientFacts(own_class, _carried(pool.connection_kwargs), _group(pool))
    if isinstance(source, (redis.Redis, redis.asyncio.Redis)):
        return ClientFacts(*copy_arguments(pool, asynchronous=asynchronous, setting=setting))
    if pool is not None and type(source).__module__.partition(".")[0] == "valkey":
        name = pool.connection_class.__name__
        if name in _VALKEY_KINDS and not pool.connection_kwargs.get("valkey_connect_func"):
            return ClientFacts(classes[_VALKEY_KINDS[name]], _carried(pool.connection_kwargs))
        raise ConfigurationError(
            setting,
            f"a client of valkey-py with {name} or a valkey_connect_func of its own",
            "a URL, since these cannot be copied",
        )
    raise ConfigurationError(
        setting,
        f"of type {type(source).__qualname__}",
        "a URL, or a client of redis-py or valkey-py",
    )


def _carried(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in arguments.items()
        if name in {"ssl_cert_reqs", "ssl_check_hostname"}
        or (name in _CARRIED and value is not None)
        # A flag that is off may be unknown to the other side's class.
        or (name.startswith("ssl_") and value)
    }


def _group(pool: Any) -> SentinelGroup:
    manager = pool.sentinel_manager
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in manager.sentinels]
    kwargs = _carried(manager.sentinel_kwargs)
    if manager.sentinel_kwargs.get("ssl"):
        kwargs["ssl"] = True
    return SentinelGroup(
        pool.service_name,
        tuple((str(each["host"]), int(each["port"])) for each in asked),
        manager.min_other_sentinels,
        kwargs,
    )
