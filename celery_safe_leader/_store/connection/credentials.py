"""Hides the message of an error that a credential provider raised: it may contain a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

__all__ = ["provider_connect_hook"]


def provider_connect_hook(
    own: Callable[[Any], Any] | None, *, asynchronous: bool
) -> Callable[[Any], Any]:
    """Return a ``redis_connect_func`` that logs in with a provider's credentials.

    Args:
        own: The user's own hook, if any.
        asynchronous: For a connection of redis.asyncio.
    """
    hook = own or (lambda connection: connection.on_connect())

    def blocking(connection: Any) -> None:
        try:
            hook(connection)
        except Exception as exc:
            raise _hidden(exc) from _cause(exc)

    async def awaited(connection: Any) -> None:
        try:
            result = hook(connection)
            if result is not None:
                await result
        except Exception as exc:
            raise _hidden(exc) from _cause(exc)

    return awaited if asynchronous else blocking


def _is_ours(error: Exception) -> bool:
    """Return whether it comes from redis-py or the operating system, not from a provider."""
    package = type(error).__module__.partition(".")[0]
    return package in ("redis", "socket", "ssl") or (
        package == "builtins" and isinstance(error, OSError)
    )


def _hidden(error: Exception) -> Exception:
    if _is_ours(error):
        return error
    kind = type(error).__name__
    return redis.ConnectionError(
        f"the credential provider raised {kind}; its message is hidden because it may contain a "
        "secret"
    )


def _cause(error: Exception) -> BaseException | None:
    # Not in a traceback either.
    return error.__cause__ if _is_ours(error) else None
