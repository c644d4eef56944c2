"""What the shells need from a store, and from what a leader is spoken to by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from celery_safe_leader._core.messages import Await, Received, Reply, Request

__all__ = ["AsyncStore", "ChannelSource", "Store"]


class Store(Protocol):
    """A blocking store."""

    def execute(self, request: Request) -> Reply:
        """Execute a request and return its reply; raises ``StoreError`` if none is usable."""

    def interrupt(self, request: Await | None = None) -> None:
        """Abort a blocking read, even one that is just about to begin. From any thread."""

    def close(self) -> None:
        """Close all connections. From any thread."""


class AsyncStore(Protocol):
    """A store that is awaited."""

    async def execute(self, request: Request) -> Reply:
        """Execute a request and return its reply; raises ``StoreError`` if none is usable."""

    def after_fork(self) -> None:
        """Drop, in a forked child, all connections that are shared with the parent."""

    async def close(self) -> None:
        """Close all connections."""


class ChannelSource(Protocol):
    """Where what is sent to a leader is taken from."""

    def take(self, timeout: float, is_wanted: Callable[[], bool]) -> Received | None:
        """Wait for a value and remove it. Raises ``StoreError`` without a usable answer."""

    def interrupt(self) -> None:
        """Break off a read. From any thread."""

    def now_us(self) -> int:
        """Return Redis's clock, in microseconds since 1970. Raises ``StoreError``."""
