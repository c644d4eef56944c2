"""What an entry hands to its task: its arguments, evaluated and checked."""

from __future__ import annotations

import marshal
from collections.abc import Mapping, Sequence
from typing import Any

from celery.beat import BeatLazyFunc
from celery.utils.saferepr import saferepr

__all__ = [
    "LARGEST_KEPT",
    "Arguments",
    "check_call",
    "describe",
    "evaluate",
    "fingerprint_of",
    "fingerprint_of_options",
]

# Without annotations.
_saferepr: Any = saferepr

LARGEST_KEPT = 4096
"""Bytes up to which a body, or what it was made from, is kept from run to run."""

Arguments = tuple[Sequence[Any], Mapping[str, Any]]
"""Positional and keyword arguments."""


def fingerprint_of(*values: Any) -> bytes | None:
    """Digest values, or return ``None`` if they are more than short and plain.

    ``marshal`` accepts the built-in types and no subclass of them, so nothing that it accepts is
    lazy. Its version 2 gives equal bytes for equal values, and tells 1 from True and 1.0.
    """
    plain: Any = values
    try:
        text = marshal.dumps(plain, 2)
    except ValueError:
        return None
    return text if len(text) <= LARGEST_KEPT else None


def evaluate(args: Any, kwargs: Any) -> Arguments:
    """Call the lazy arguments, as stock beat does."""
    return (
        [value() if isinstance(value, BeatLazyFunc) else value for value in args or ()],
        {
            name: value() if isinstance(value, BeatLazyFunc) else value
            for name, value in (kwargs or {}).items()
        },
    )


def check_call(task: Any, arguments: Arguments) -> None:
    """Check what ``Task.apply_async`` checks."""
    if task.soft_time_limit and task.time_limit and task.soft_time_limit > task.time_limit:
        raise ValueError("soft_time_limit must be less than or equal to time_limit")
    check = getattr(task, "__header__", None)
    if task.typing and check is not None:
        check(*arguments[0], **arguments[1])
