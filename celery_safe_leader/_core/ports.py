"""What the shells need from a store."""

from __future__ import annotations

from typing import Protocol

from celery_safe_leader._core.messages import Await, Reply, Request

__all__ = ["AsyncStore", "Store"]


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
