"""How connections are made: class and arguments, from a URL or a client and the user's options.

Makes no client. No option of a user can make a call outlive a lease, or be repeated.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry

from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._store.connection.arguments import (
    CLASSES,
    DECIDED,
    kind_of,
    tidy,
    url_arguments,
)
from celery_safe_leader._store.connection.cluster import SlotMaster, pop_cluster_nodes
from celery_safe_leader._store.connection.credentials import provider_connect_hook
from celery_safe_leader._store.connection.discovery import Finder, Locator
from celery_safe_leader._store.connection.failover import Naming, failover_class
from celery_safe_leader._store.connection.given_client import ClientOfCaller, read_client
from celery_safe_leader._store.connection.sentinel import (
    SentinelGroup,
    Sentinels,
    pop_sentinel_group,
)
from celery_safe_leader._store.connection.urls import RedisUrl, parse_url
from celery_safe_leader.errors import ConfigurationError

__all__ = [
    "CLIENT_NAME",
    "Limits",
    "Names",
    "Source",
    "address_of",
    "check_arguments",
    "pool_settings",
    "read_url",
    "warn_unverified",
]

CLIENT_NAME = "celery-safe-leader"
"""How our connections show up in ``CLIENT LIST``, unless the options name another."""

Source: TypeAlias = "str | ClientOfCaller"
"""What names a server: a URL, or a client of the caller, which is copied and not used."""

_NO_DRIVER_INFO: dict[str, None] = (
    # redis-py 8 warns about the names that its earlier releases use.
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)
_UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")


class Names(NamedTuple):
    """The user's names for the settings, for errors."""

    source: str
    options: str


class Limits(NamedTuple):
    """What all our connections have in common."""

    asynchronous: bool
    connect_timeout: float
    """Seconds. Looking up the server may take as long again."""
    read_timeout: float
    """Seconds."""

    def arguments(self, kind: str) -> dict[str, Any]:
        """Return the arguments that no option can override."""
        retry = (AsyncRetry if self.asynchronous else Retry)(NoBackoff(), 0)
        return {
            **_NO_DRIVER_INFO,  # saves two round trips per connect
            **({} if kind == "unix" else {"socket_keepalive": True}),
            "decode_responses": False,
            "health_check_interval": 0,
            # No HELLO, the same replies in every release, and no notices by which a server under
            # maintenance could extend the time limits.
            "protocol": 2,
            "retry": retry,
            "retry_on_error": [],
            "retry_on_timeout": False,
            "socket_connect_timeout": self.connect_timeout,
            "socket_timeout": self.read_timeout,
        }


class _Discovery(NamedTuple):
    """How to look up a server whose address is not given."""

    finder: Finder
    group: SentinelGroup | None
    """Sentinels have a login of their own; nodes of a cluster have that of the server."""


def pool_settings(
    source: Source,
    options: Mapping[str, Any],
    limits: Limits,
    names: Names,
    key: str,
    *,
    only_checks: bool = False,
) -> tuple[type[Any], dict[str, Any]]:
    """Return the class of a pool's connections and the arguments to make them with.

    Args:
        source: URL or client.
        options: Of the user; they override those of ``source``.
        limits: Of each connection.
        names: For errors.
        key: Any Redis key that will be used; determines the slot in a cluster.
        only_checks: Log nothing, and load no credential provider: its constructor may do anything.

    Raises:
        ConfigurationError: Source or options cannot be used.
    """
    given = _chosen(options, names.options, only_checks=only_checks)
    discovery = None
    if isinstance(source, str):
        url = read_url(source, given, names.source)
        discovery = _discovery(url, given, names, key)
        connection_class, arguments = CLASSES[limits.asynchronous][url.kind], url_arguments(url)
    else:
        found = read_client(source, asynchronous=limits.asynchronous, setting=names.source)
        connection_class, arguments = found.connection_class, found.arguments
        if found.group is not None:
            discovery = _Discovery(Sentinels(found.group), found.group)
        elif found.nodes:
            discovery = _Discovery(SlotMaster(found.nodes, key), None)
    if only_checks:
        arguments = _without_path_of_provider(arguments)
    chosen = tidy(given, setting=names.options)
    arguments = {"client_name": CLIENT_NAME, **tidy(arguments, setting=names.source), **chosen}
    connection_class, arguments = _finish(
        connection_class, arguments, limits, only_checks=only_checks
    )
    ours = failover_class(connection_class, asynchronous=limits.asynchronous)
    _check(ours, arguments, names, chosen)
    if discovery is not None:
        # A server may refuse CLIENT, and redis-py would not connect then.
        asking = (connection_class, {**arguments, "db": 0, "client_name": None})
        if discovery.group is not None:
            asking = _to_sentinels(discovery.group, limits, names, only_checks=only_checks)
        arguments["locator"] = Locator(discovery.finder, *asking, limits.connect_timeout)
    return ours, {**arguments, "naming": Naming()}


def check_arguments(source: str, options: Mapping[str, Any], names: Names) -> None:
    """Check that connections can be made with a URL and options. Connects to nothing.

    Logs nothing: beats read their settings before Celery sets up logging. Who connects warns. A
    credential provider that is named by its path is not loaded.

    Raises:
        ConfigurationError: URL or options cannot be used.
    """
    pool_settings(source, options, Limits(False, 1.0, 1.0), names, "", only_checks=True)


def address_of(connection_class: type[Any], arguments: Mapping[str, Any]) -> RedisUrl:
    """Return the address of a pool of redis-py or valkey-py, without credentials."""
    kind = "unix" if arguments.get("path") else kind_of(connection_class)
    if connection_class.__name__ == "SSLConnection":
        kind = "rediss"
    return RedisUrl(
        kind,
        host=str(arguments.get("host", "localhost")),
        port=_number(arguments.get("port"), 6379),
        path=str(arguments.get("path", "")),
        db=_number(arguments.get("db"), 0),
    )


def _number(value: object, default: int) -> int:
    return int(text) if (text := str(value)).isdecimal() else default


def read_url(source: str, options: Mapping[str, Any], setting: str) -> RedisUrl:
    """Return a parsed URL; an option may say that it names nodes of a cluster.

    Raises:
        ConfigurationError: It is not the URL of a server.
    """
    url = parse_url(source, setting=setting)
    if options.get("cluster") is True and not url.mode and url.kind != "unix":
        return replace(url, mode="cluster")  # as RedBeat's users write it
    return url


def _discovery(url: RedisUrl, options: dict[str, Any], names: Names, key: str) -> _Discovery | None:
    """Return how to look up the server; removes the options for it."""
    if url.mode == "sentinel":
        group = pop_sentinel_group(url, options, names.options)
        return _Discovery(Sentinels(group), group)
    if url.mode == "cluster":
        return _Discovery(SlotMaster(pop_cluster_nodes(url, options, names.options), key), None)
    return None


def _to_sentinels(
    group: SentinelGroup, limits: Limits, names: Names, *, only_checks: bool
) -> tuple[type[Any], dict[str, Any]]:
    """Return class and arguments of connections to the Sentinels: they have their own login."""
    name = f"sentinel_kwargs of {names.options}"
    chosen = tidy(_chosen(group.sentinel_kwargs, name, only_checks=only_checks), setting=name)
    host, port = group.sentinels[0]
    connection_class, arguments = _finish(
        CLASSES[limits.asynchronous]["redis"],
        {"host": host, "port": port, **chosen},
        limits,
        only_checks=only_checks,
    )
    _check(connection_class, arguments, Names(names.source, name), chosen)
    return connection_class, arguments


def _finish(
    connection_class: type[Any], arguments: dict[str, Any], limits: Limits, *, only_checks: bool
) -> tuple[type[Any], dict[str, Any]]:
    if arguments.pop("ssl", False) and kind_of(connection_class) == "redis":
        connection_class = CLASSES[limits.asynchronous]["rediss"]
    if arguments.get("credential_provider"):
        # redis-py refuses to have both, and in Celery the provider wins.
        arguments |= {"username": None, "password": None}
        own = arguments.get("redis_connect_func")
        arguments["redis_connect_func"] = provider_connect_hook(
            own, asynchronous=limits.asynchronous
        )
    if kind_of(connection_class) == "rediss":
        unverified = _secure(arguments)
        if unverified and not only_checks:
            warn_unverified(str(address_of(connection_class, arguments)), unverified)
    else:
        arguments = {k: v for k, v in arguments.items() if not k.startswith("ssl_")}
    return connection_class, arguments | limits.arguments(kind_of(connection_class))


def _chosen(options: Mapping[str, Any], name: str, *, only_checks: bool) -> dict[str, Any]:
    unused = sorted(DECIDED & options.keys())
    if unused and not only_checks:
        logger.warning(
            "%s: ignored %s; limits, retries and decoding follow from the lease",
            name,
            ", ".join(unused),
        )
    chosen = {k: v for k, v in options.items() if k not in DECIDED}
    return _without_path_of_provider(chosen) if only_checks else chosen


def _without_path_of_provider(arguments: dict[str, Any]) -> dict[str, Any]:
    path = isinstance(arguments.get("credential_provider"), str)
    return {k: v for k, v in arguments.items() if not path or k != "credential_provider"}


def _secure(arguments: dict[str, Any]) -> str:
    """Have the server verified by default; return what is not, since the options say so."""
    # redis-py before 6 does not compare the name by default, and its two sides differ.
    verified = arguments.setdefault("ssl_cert_reqs", "required") != "none"
    if arguments.get("ssl_check_hostname") is None:
        arguments["ssl_check_hostname"] = True
    if not verified:
        arguments["ssl_check_hostname"] = False
    if arguments["ssl_check_hostname"]:
        return ""
    return "the server's name (ssl_check_hostname)" if verified else "anything (ssl_cert_reqs)"


@cache
def warn_unverified(address: str, what: str) -> None:
    """Warn of a connection that is not verified, once in a process: it makes several."""
    logger.warning(
        "TLS to %s does not verify %s: a man in the middle can read the password and take the "
        "leadership",
        address,
        what,
    )


def _check(
    connection_class: type[Any],
    arguments: Mapping[str, Any],
    names: Names,
    chosen: Mapping[str, Any],
) -> None:
    """Make one connection, without opening it: redis-py then refuses what it does not accept."""
    try:
        connection_class(**arguments)
    except (TypeError, ValueError, redis.RedisError) as error:
        unknown = _UNKNOWN_ARGUMENT.search(str(error))
        argument = unknown[1] if unknown else ""
        name = names.options if argument in chosen or not unknown else names.source
        raise ConfigurationError(
            name,
            f"given with {argument!r}" if unknown else f"refused by redis-py ({error})",
            f"made of arguments of redis-py's {connection_class.__name__}",
        ) from error
