"""What the shells need from a store."""

from __future__ import annotations

from typing import Protocol

from celery_safe_leader._core.messages import Await, Reply, Request

__all__ = ["AsyncStore", "Store"]


class Store(Protocol):
    """A blocking store."""

    def execute(self, request: Request) -> Reply:
        """Execute a request; raises a ``StoreError`` where there is no usable reply."""

    def interrupt(self, request: Await | None = None) -> None:
        """Break a blocking read off, also one that is only about to begin. From any thread."""

    def close(self) -> None:
        """Close all connections. From any thread."""


class AsyncStore(Protocol):
    """A store that is awaited."""

    async def execute(self, request: Request) -> Reply:
        """Execute a request; raises a ``StoreError`` where there is no usable reply."""

    def after_fork(self) -> None:
        """Have nothing in common with the parent any more, in a forked child."""

    async def close(self) -> None:
        """Close all connections."""
