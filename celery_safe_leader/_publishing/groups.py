"""Which messages go to the broker in one request."""

from __future__ import annotations

from collections.abc import Sequence

from celery_safe_leader._publishing.messages import Built, Message

__all__ = ["next_group"]

_LARGEST = 2**20
"""Bytes of the bodies in one request, unless it is of one message."""


def next_group(batch: Sequence[Built], start: int, size: int) -> Sequence[Built]:
    """Take what can go out together: some messages, or one call.

    Args:
        batch: All messages.
        start: Where the group begins.
        size: How many there may be in it, at least 1.
    """
    end, left = start, _LARGEST
    while end < min(start + size, len(batch)):
        message = batch[end]
        if not isinstance(message, Message):
            break
        left -= len(message.body)
        if left < 0:
            break
        end += 1
    return batch[start : max(end, start + 1)]
