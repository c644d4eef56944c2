"""Requests that pause once they are sent: something else may be done before the reply is read."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

__all__ = ["Steps", "complete"]

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Pauses once for each request that is sent, before the reply is read. What goes on after the last
pause returns the result, and raises what the request does."""


def complete(steps: Steps[T]) -> T:
    """Go through steps, or the rest of them, without a pause; return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
