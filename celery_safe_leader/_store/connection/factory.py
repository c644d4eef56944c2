"""How connections are made: class and arguments, from a URL or a client and the user's options.

Makes no client. Nothing that a user says can make a call outlive a lease, or be repeated.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry

from celery_safe_leader._store.connection.arguments import (
    CLASSES,
    DECIDED,
    kind_of,
    tidy,
    url_arguments,
)
from celery_safe_leader._store.connection.cluster import SlotMaster, take_nodes
from celery_safe_leader._store.connection.credentials import greeting
from celery_safe_leader._store.connection.discovery import Finder, Guide
from celery_safe_leader._store.connection.failover import located
from celery_safe_leader._store.connection.given_client import ClientOfCaller, read_client
from celery_safe_leader._store.connection.sentinel import Group, Sentinels, take_group
from celery_safe_leader._store.connection.urls import RedisUrl, parse_url
from celery_safe_leader.errors import ConfigurationError

__all__ = [
    "CLIENT_NAME",
    "Limits",
    "Names",
    "Source",
    "address_of",
    "check_place",
    "plan",
    "read_url",
]

# Of the module that users know.
logger = logging.getLogger("celery_safe_leader._store.connection.client")

CLIENT_NAME = "celery-safe-leader"
"""How our connections show up in ``CLIENT LIST``, unless the options name another."""

Source: TypeAlias = "str | ClientOfCaller"
"""What names a server: a URL, or a client of the caller's, which is copied and not used."""

_UNINTRODUCED: dict[str, None] = (
    # redis-py 8 warns of the names that its earlier releases know.
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)
_UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")


class Names(NamedTuple):
    """What the user calls it."""

    source: str
    options: str


class Limits(NamedTuple):
    """What every connection of ours has in common."""

    asynchronous: bool
    connect_timeout: float
    """Seconds. Finding out where the server is may take as long again."""
    read_timeout: float
    """Seconds."""

    def arguments(self, kind: str) -> dict[str, Any]:
        """Return the arguments that nobody can override."""
        retry = (AsyncRetry if self.asynchronous else Retry)(NoBackoff(), 0)
        return {
            **_UNINTRODUCED,  # spares two round trips on each connect
            **({} if kind == "unix" else {"socket_keepalive": True}),
            "decode_responses": False,
            "health_check_interval": 0,
            # No HELLO, replies of one shape in every release, and no notices by which a server
            # under maintenance can stretch the time limits.
            "protocol": 2,
            "retry": retry,
            "retry_on_error": [],
            "retry_on_timeout": False,
            "socket_connect_timeout": self.connect_timeout,
            "socket_timeout": self.read_timeout,
        }


class _Place(NamedTuple):
    """Where the server is, if its address has to be found first."""

    finder: Finder
    group: Group | None
    """Sentinels are logged in to in their own way, nodes of a cluster as the server itself."""


def plan(
    source: Source, options: Mapping[str, Any], limits: Limits, names: Names, key: str
) -> tuple[type[Any], dict[str, Any]]:
    """Return the class of the connections and what each is made with.

    Args:
        source: URL or client.
        options: Of the user; come before what ``source`` says.
        limits: Of each connection.
        names: For errors.
        key: Any Redis key that will be used: tells the slot of a cluster.

    Raises:
        ConfigurationError: Source or options cannot be used.
    """
    given = _chosen(options, names.options)
    place = None
    if isinstance(source, str):
        url = read_url(source, given, names.source)
        place = _place(url, given, names, key)
        connection_class, arguments = CLASSES[limits.asynchronous][url.kind], url_arguments(url)
    else:
        found = read_client(source, asynchronous=limits.asynchronous, setting=names.source)
        connection_class, arguments = found.connection_class, found.arguments
        if found.group is not None:
            place = _Place(Sentinels(found.group), found.group)
        elif found.nodes:
            place = _Place(SlotMaster(found.nodes, key), None)
    chosen = tidy(given, setting=names.options)
    arguments = {"client_name": CLIENT_NAME, **tidy(arguments, setting=names.source), **chosen}
    connection_class, arguments = _finish(connection_class, arguments, limits)
    ours = located(connection_class, asynchronous=limits.asynchronous)
    _check(ours, arguments, names, chosen)
    if place is not None:
        asking = (connection_class, {**arguments, "db": 0})
        if place.group is not None:
            asking = _to_sentinels(place.group, limits, names)
        arguments["guide"] = Guide(place.finder, *asking, limits.connect_timeout)
    return ours, arguments


def check_place(url: RedisUrl, options: Mapping[str, Any], options_name: str) -> None:
    """Check what finding the server takes, before anything starts.

    Raises:
        ConfigurationError: Options for Sentinels or cluster nodes are missing or wrong.
    """
    _place(url, dict(options), Names("", options_name), "")


def address_of(connection_class: type[Any], arguments: Mapping[str, Any]) -> RedisUrl:
    """Return where connections of such a pool, also of valkey-py's, go; without credentials."""
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
    """Read a URL, and what the options say of what kind of server it names.

    Raises:
        ConfigurationError: It is no URL of a server.
    """
    url = parse_url(source, setting=setting)
    if options.get("cluster") is True and not url.mode and url.kind != "unix":
        return replace(url, mode="cluster")  # as RedBeat's users write it
    return url


def _place(url: RedisUrl, options: dict[str, Any], names: Names, key: str) -> _Place | None:
    """Take what finding the server needs out of the options."""
    if url.mode == "sentinel":
        group = take_group(url, options, names.options)
        return _Place(Sentinels(group), group)
    if url.mode == "cluster":
        return _Place(SlotMaster(take_nodes(url, options, names.options), key), None)
    return None


def _to_sentinels(group: Group, limits: Limits, names: Names) -> tuple[type[Any], dict[str, Any]]:
    """Return what connections to the Sentinels are made with: their own login and TLS."""
    name = f"sentinel_kwargs of {names.options}"
    chosen = tidy(_chosen(group.sentinel_kwargs, name), setting=name)
    host, port = group.sentinels[0]
    connection_class, arguments = _finish(
        CLASSES[limits.asynchronous]["redis"], {"host": host, "port": port, **chosen}, limits
    )
    _check(connection_class, arguments, Names(names.source, name), chosen)
    return connection_class, arguments


def _finish(
    connection_class: type[Any], arguments: dict[str, Any], limits: Limits
) -> tuple[type[Any], dict[str, Any]]:
    if arguments.pop("ssl", False) and kind_of(connection_class) == "redis":
        connection_class = CLASSES[limits.asynchronous]["rediss"]
    if arguments.get("credential_provider"):
        # redis-py refuses both, and Celery lets the provider win.
        arguments |= {"username": None, "password": None}
        own = arguments.get("redis_connect_func")
        arguments["redis_connect_func"] = greeting(own, asynchronous=limits.asynchronous)
    if kind_of(connection_class) == "rediss":
        _secure(arguments, address_of(connection_class, arguments))
    else:
        arguments = {k: v for k, v in arguments.items() if not k.startswith("ssl_")}
    return connection_class, arguments | limits.arguments(kind_of(connection_class))


def _chosen(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    unused = sorted(DECIDED & options.keys())
    if unused:
        logger.warning(
            "%s: %s not used; limits, retries and decoding follow from the lease",
            name,
            ", ".join(unused),
        )
    return {k: v for k, v in options.items() if k not in DECIDED}


def _secure(arguments: dict[str, Any], address: RedisUrl) -> None:
    """Verify the server unless told otherwise, and tell when told otherwise."""
    # Releases before 6 do not compare the name by default, and older ones differ by side.
    verified = arguments.setdefault("ssl_cert_reqs", "required") != "none"
    if arguments.get("ssl_check_hostname") is None:
        arguments["ssl_check_hostname"] = True
    if not verified:
        arguments["ssl_check_hostname"] = False
    if not arguments["ssl_check_hostname"]:
        logger.warning(
            "TLS to %s does not verify %s: whoever gets in between can read the password and "
            "take the leadership",
            address,
            "the server's name (ssl_check_hostname)" if verified else "anything (ssl_cert_reqs)",
        )


def _check(
    connection_class: type[Any],
    arguments: Mapping[str, Any],
    names: Names,
    chosen: Mapping[str, Any],
) -> None:
    """Build one connection and drop it: that is where redis-py says what it cannot take."""
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
