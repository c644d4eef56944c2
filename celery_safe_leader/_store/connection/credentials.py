"""Credential providers: what one raises says nothing but its type, since it may hold a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

__all__ = ["greeting"]


def greeting(own: Callable[[Any], Any] | None, *, asynchronous: bool) -> Callable[[Any], Any]:
    """Return what greets a server with a provider's credentials, as ``redis_connect_func``.

    Args:
        own: What the user gave as that.
        asynchronous: For a connection of redis.asyncio.
    """
    greet = own or (lambda connection: connection.on_connect())

    def blocking(connection: Any) -> None:
        try:
            greet(connection)
        except Exception as exc:
            raise _hidden(exc) from _cause(exc)

    async def awaited(connection: Any) -> None:
        try:
            greeted = greet(connection)
            if greeted is not None:
                await greeted
        except Exception as exc:
            raise _hidden(exc) from _cause(exc)

    return awaited if asynchronous else blocking


def _is_ours(error: Exception) -> bool:
    """Whether it is redis-py's or the operating system's, and not that of a provider's library."""
    package = type(error).__module__.partition(".")[0]
    return package in ("redis", "socket", "ssl") or (
        package == "builtins" and isinstance(error, OSError)
    )


def _hidden(error: Exception) -> Exception:
    if _is_ours(error):
        return error
    kind = type(error).__name__
    return redis.ConnectionError(
        f"the credential provider raised {kind}, whose words are not shown, since they may hold "
        "a secret"
    )


def _cause(error: Exception) -> BaseException | None:
    # Not even in a traceback.
    return error.__cause__ if _is_ours(error) else None
