"""Arguments of redis-py's connections, taken from URLs and from clients of the caller.

Decides which are kept. How long a call may take is decided in ``factory``.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Mapping
from typing import Any

import redis
import redis.asyncio
from redis.credentials import CredentialProvider

from celery_safe_leader._store.connection.urls import RedisUrl
from celery_safe_leader.errors import ConfigurationError

__all__ = ["CLASSES", "DECIDED", "copy_arguments", "kind_of", "tidy", "url_arguments"]

CLASSES: dict[bool, dict[str, type[Any]]] = {
    False: {
        "redis": redis.Connection,
        "rediss": redis.SSLConnection,
        "unix": redis.UnixDomainSocketConnection,
    },
    True: {
        "redis": redis.asyncio.Connection,
        "rediss": redis.asyncio.SSLConnection,
        "unix": redis.asyncio.UnixDomainSocketConnection,
    },
}
"""Whether for asyncio -> kind of connection -> redis-py's class."""

DECIDED = frozenset(
    {
        "decode_responses",
        "encoding",
        "encoding_errors",
        "health_check_interval",
        "max_connections",
        "protocol",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_timeout",
        "timeout",
    }
)
"""Arguments that nobody else may choose: with them a call could outlive a lease, or be repeated."""

_OF_A_POOL = frozenset(
    {
        "cache",
        "cache_config",
        "driver_info",
        "event_dispatcher",
        "himport_registry",
        "legacy_responses",
        "lib_name",
        "lib_version",
        "maint_notifications_config",
        "maint_notifications_pool_handler",
        "maintenance_notification_hash",
        "maintenance_state",
        "oss_cluster_maint_notifications_handler",
        "orig_host_address",
        "orig_socket_connect_timeout",
        "orig_socket_timeout",
    }
)
"""What pools of some releases put among the arguments for their own use: bound to that pool."""

_OF_ONE_SIDE = frozenset({"command_packer", "encoder_class", "parser_class"})
"""These differ between the blocking and the asyncio side."""

_ASKS_ASYNC = hasattr(CredentialProvider, "get_credentials_async")
"""Whether this redis-py awaits providers on the asyncio side, as it does from 5.1 on."""

_BOOLEANS = {"ssl_check_hostname", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled"}


def url_arguments(url: RedisUrl) -> dict[str, Any]:
    """Return the arguments that a URL stands for, without parameters that are not used here.

    A broker's URL may contain parameters for kombu, and limits that do not suit an election.
    """
    arguments: dict[str, Any] = {
        "db": url.db,
        "username": url.username,
        "password": url.password,
        **({"path": url.path} if url.kind == "unix" else {"host": url.host, "port": url.port}),
    }
    for name, value in url.query:
        if name in _BOOLEANS:
            arguments[name] = value.lower() in {"1", "t", "true", "y", "yes", "on"}
        elif name == "ssl_min_version":
            arguments[name] = int(value) if value.isdigit() else value
        elif name.startswith("ssl_") or name in {"client_name", "credential_provider"}:
            arguments[name] = value
    return arguments


def kind_of(connection_class: type[Any]) -> str:
    """Return the kind of connection that a class of either side makes."""
    for kind in ("rediss", "unix"):
        if issubclass(connection_class, (CLASSES[False][kind], CLASSES[True][kind])):
            return kind
    return "redis"


def copy_arguments(
    pool: Any, *, asynchronous: bool, setting: str
) -> tuple[type[Any], dict[str, Any]]:
    """Return the class and the arguments of a caller's pool, for a pool of our own.

    Raises:
        ConfigurationError: The pool cannot be copied to the requested side.
    """
    connection_class = pool.connection_class
    kept = {
        name: value
        for name, value in pool.connection_kwargs.items()
        if name not in DECIDED | _OF_A_POOL and (value is not None or name == "ssl_cert_reqs")
    }
    kind = kind_of(connection_class)
    if issubclass(connection_class, CLASSES[asynchronous][kind]):
        return connection_class, kept
    ours = CLASSES[asynchronous][kind]
    if connection_class is not CLASSES[not asynchronous][kind] or kept.get("redis_connect_func"):
        side = "an asyncio" if asynchronous else "a blocking"
        raise ConfigurationError(
            setting,
            f"a client with {connection_class.__name__} or a redis_connect_func of its own",
            f"{side} client or a URL, since these cannot be copied",
        )
    # A flag that is off may be unknown to the other side's class.
    dropped = {k for k, v in kept.items() if v is False and k != "ssl_check_hostname"}
    return ours, {k: v for k, v in kept.items() if k not in dropped | _OF_ONE_SIDE}


def tidy(arguments: Mapping[str, Any], *, setting: str) -> dict[str, Any]:
    """Return arguments in a form that every release of redis-py accepts.

    Raises:
        ConfigurationError: ``ssl_cert_reqs`` or ``credential_provider`` cannot be used.
    """
    tidied = dict(arguments)
    if "ssl_cert_reqs" in tidied:
        tidied["ssl_cert_reqs"] = _cert_reqs(tidied["ssl_cert_reqs"], setting)
    provider = tidied.get("credential_provider")
    if isinstance(provider, str):
        tidied["credential_provider"] = provider = _provider(provider, setting)
    # Not checked by class: valkey-py has its own, which redis-py can use as well.
    if provider is not None and not callable(getattr(provider, "get_credentials", None)):
        raise ConfigurationError(
            f"credential_provider of {setting}",
            f"of type {type(provider).__qualname__}",
            "an object with get_credentials(), such as a redis.CredentialProvider",
        )
    if provider is not None and not hasattr(provider, "get_credentials_async") and _ASKS_ASYNC:
        tidied["credential_provider"] = _ProviderForBothSides(provider)
    return tidied


class _ProviderForBothSides(CredentialProvider):
    """Wraps a provider of valkey-py, which has no coroutine. Its repr shows no secret."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def get_credentials(self) -> Any:
        return self._provider.get_credentials()

    async def get_credentials_async(self) -> Any:
        return self._provider.get_credentials()


def _cert_reqs(value: object, setting: str) -> str:
    """Return ``ssl_cert_reqs`` from any spelling: none, CERT_NONE or ssl.CERT_NONE."""
    if value is None:
        return "none"
    if isinstance(value, int) and not isinstance(value, bool) and value in (0, 1, 2):
        value = ssl.VerifyMode(value).name
    text = str(value).lower().removeprefix("cert_")
    if text not in ("none", "optional", "required"):
        raise ConfigurationError(
            f"ssl_cert_reqs of {setting}", repr(value), "required, optional or none"
        )
    return text


def _provider(path: str, setting: str) -> Any:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"credential_provider of {setting}",
            repr(path),
            f"the dotted path of a class without arguments (loading it raised "
            f"{type(error).__name__})",
        ) from error
