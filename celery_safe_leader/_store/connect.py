"""Clients for the election: from a URL or from a client of the caller's, sync and asyncio.

A client made here repeats nothing by itself, waits no longer than it is told, and shares no
connection with the caller. Making one does no IO. What is sent belongs to the stores.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from celery_safe_leader._store.arguments import (
    CLASSES,
    DECIDED,
    copy_arguments,
    kind_of,
    tidy,
    url_arguments,
)
from celery_safe_leader._store.urls import RedisUrl, parse_url, safe_url
from celery_safe_leader.errors import ConfigurationError

__all__ = ["CLIENT_NAME", "Source", "connect", "connect_async", "describe"]

logger = logging.getLogger(__name__)

CLIENT_NAME = "celery-safe-leader"
"""How our connections show up in ``CLIENT LIST``, unless the options name another."""

Source: TypeAlias = "str | redis.Redis | redis.asyncio.Redis"
"""What names a server: a URL, or a client of the caller's, which is copied and not used."""

_UNINTRODUCED: dict[str, None] = (
    # redis-py 8 warns of the names that its earlier releases know.
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)
_UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")


class _Names(NamedTuple):
    """What the user calls it."""

    source: str
    options: str


class _Limits(NamedTuple):
    """What every connection of ours has in common."""

    asynchronous: bool
    connect_timeout: float
    read_timeout: float

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


def connect(
    source: Source,
    options: Mapping[str, Any] | None = None,
    *,
    connect_timeout: float,
    read_timeout: float,
    setting: str = "redis",
    options_setting: str = "options",
) -> redis.Redis:
    """Make a blocking client with a pool of its own.

    Args:
        source: URL, or a client (blocking or asyncio) whose address and credentials are copied.
        options: Arguments of redis-py's connection that come before those of ``source``.
            Limits, retries and decoding in them are not used; a warning names them.
        connect_timeout: Seconds for connecting.
        read_timeout: Seconds for each reply.
        setting: Name of the setting or argument that ``source`` came from, for errors.
        options_setting: The same for ``options``.

    Raises:
        ConfigurationError: Source or options cannot be used.
    """
    limits = _Limits(False, connect_timeout, read_timeout)
    names = _Names(setting, options_setting)
    connection_class, arguments = _arguments(source, options or {}, limits, names)
    pool = redis.ConnectionPool(connection_class=connection_class, **arguments)
    client = redis.Redis(connection_pool=pool)
    client.auto_close_connection_pool = True
    return client


def connect_async(
    source: Source,
    options: Mapping[str, Any] | None = None,
    *,
    connect_timeout: float,
    read_timeout: float,
    setting: str = "redis",
    options_setting: str = "options",
) -> redis.asyncio.Redis:
    """Make an asyncio client with a pool of its own; arguments as of :func:`connect`.

    Needs no running loop. The client belongs to the loop that uses it first.
    """
    limits = _Limits(True, connect_timeout, read_timeout)
    names = _Names(setting, options_setting)
    connection_class, arguments = _arguments(source, options or {}, limits, names)
    pool = redis.asyncio.ConnectionPool(connection_class=connection_class, **arguments)
    client = redis.asyncio.Redis(connection_pool=pool)
    client.auto_close_connection_pool = True
    return client


def describe(source: object) -> str:
    """Show the server of a URL or a client as ``redis://host:port/db``, without secrets.

    Accepts anything, since it serves banners and errors.
    """
    pool = getattr(source, "connection_pool", None)
    if pool is None:
        try:
            return str(parse_url(source))
        except ConfigurationError:
            return safe_url(source) if isinstance(source, str) else type(source).__name__
    if isinstance(pool, (SentinelConnectionPool, AsyncSentinelConnectionPool)):
        return f"sentinel://{pool.service_name}"
    return str(_address(pool.connection_class, pool.connection_kwargs))


def _address(connection_class: type[Any], arguments: Mapping[str, Any]) -> RedisUrl:
    return RedisUrl(
        kind_of(connection_class),
        host=str(arguments.get("host", "localhost")),
        port=_number(arguments.get("port"), 6379),
        path=str(arguments.get("path", "")),
        db=_number(arguments.get("db"), 0),
    )


def _number(value: object, default: int) -> int:
    return int(text) if (text := str(value)).isdecimal() else default


def _arguments(
    source: Source, options: Mapping[str, Any], limits: _Limits, names: _Names
) -> tuple[type[Any], dict[str, Any]]:
    """Return the class of the connections and what each is made with."""
    connection_class, arguments = _of_source(source, limits.asynchronous, names.source)
    chosen = tidy(_chosen(options, names.options), setting=names.options)
    if chosen.pop("ssl", False) and kind_of(connection_class) == "redis":
        connection_class = CLASSES[limits.asynchronous]["rediss"]
    arguments = {"client_name": CLIENT_NAME, **tidy(arguments, setting=names.source), **chosen}
    if arguments.get("credential_provider"):
        # redis-py refuses both, and Celery lets the provider win.
        arguments |= {"username": None, "password": None}
    if kind_of(connection_class) == "rediss":
        _secure(arguments, _address(connection_class, arguments))
    else:
        arguments = {k: v for k, v in arguments.items() if not k.startswith("ssl_")}
    arguments |= limits.arguments(kind_of(connection_class))
    _check(connection_class, arguments, names, chosen)
    return connection_class, arguments


def _of_source(source: Source, asynchronous: bool, name: str) -> tuple[type[Any], dict[str, Any]]:
    if isinstance(source, str):
        url = parse_url(source, setting=name)
        return CLASSES[asynchronous][url.kind], url_arguments(url)
    allowed = "a URL, a redis.Redis or a redis.asyncio.Redis of one server"
    if not isinstance(source, (redis.Redis, redis.asyncio.Redis)):
        raise ConfigurationError(name, f"of type {type(source).__qualname__}", allowed)
    if isinstance(source.connection_pool, (SentinelConnectionPool, AsyncSentinelConnectionPool)):
        raise ConfigurationError(name, f"a client for {describe(source)}", allowed)
    return copy_arguments(source.connection_pool, asynchronous=asynchronous, setting=name)


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
    names: _Names,
    chosen: Mapping[str, Any],
) -> None:
    """Build one connection and drop it: that is where redis-py says what it cannot take."""
    try:
        connection = connection_class(**arguments)
    except (TypeError, ValueError, redis.RedisError) as error:
        unknown = _UNKNOWN_ARGUMENT.search(str(error))
        argument = unknown[1] if unknown else ""
        name = names.options if argument in chosen or not unknown else names.source
        raise ConfigurationError(
            name,
            f"given with {argument!r}" if unknown else f"refused by redis-py ({error})",
            f"made of arguments of redis-py's {connection_class.__name__}",
        ) from error
    if connection.socket_timeout != arguments["socket_timeout"]:
        # The unix sockets of redis-py 5.0.0: a call would wait for good.
        raise ConfigurationError(
            names.source,
            f"of {connection_class.__name__}, without time limit in redis-py {redis.__version__}",
            "used with a later redis-py or over TCP",
        )
