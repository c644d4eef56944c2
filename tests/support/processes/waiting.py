"""Waiting for a condition, always with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE", "wait_until"]

PATIENCE = 30.0
"""Seconds that a test waits for what takes a fraction of a second on an idle machine.

How long things take is measured by ``make bench``. A test says what happens, and in which order.
"""

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T],
    timeout: float = PATIENCE,
    what: str | Callable[[], str] = "the condition",
    *,
    interval: float = 0.005,
) -> T:
    """Ask until the answer is true, and return it.

    Args:
        predicate: Asked every ``interval`` seconds. What it raises passes through.
        timeout: Seconds.
        what: What is waited for, or a function that also tells how things stand at the end.
        interval: Seconds between two questions.

    Raises:
        AssertionError: Not true within ``timeout``, so that the test fails rather than breaks.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {timeout:g} s: {text}")
        time.sleep(interval)
