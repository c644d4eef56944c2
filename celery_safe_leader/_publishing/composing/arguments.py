"""What an entry passes to its task: its arguments, evaluated and checked."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Mapping, Sequence
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
]

# Without annotations.
_saferepr: Any = saferepr

_FLAT = frozenset({bool, float, int, str, type(None)})

LARGEST_KEPT = 4096
"""Bytes up to which a body, or what it was made from, is kept from run to run."""

Arguments = tuple[Sequence[Any], Mapping[str, Any]]
"""Positional and keyword arguments."""


def fingerprint_of(*values: Any) -> bytes | None:
    """Return a fingerprint of values; ``None`` if they are not short and plain.

    ``marshal`` accepts the built-in types and no subclass of them, so nothing that it accepts is
    lazy. Its version 2 gives equal bytes for equal values, and tells 1 from True and 1.0.
    """
    plain: Any = values
    try:
        text = marshal.dumps(plain, 2)
    except ValueError:
        return None
    return text if len(text) <= LARGEST_KEPT else None


def describe(app: Any, arguments: Arguments) -> tuple[str, str]:
    """Return both kinds of arguments as text, as Celery shows them in headers and events."""
    args, kwargs = arguments
    amqp = app.amqp  # a property that takes its time
    longest = (amqp.argsrepr_maxsize, amqp.kwargsrepr_maxsize)
    texts = _flat_text(args, args), _flat_text(kwargs, (*kwargs, *kwargs.values()))
    if all(text and len(text) < most for text, most in zip(texts, longest, strict=True)):
        return texts
    # Before Celery 5.7 there was no such setting, and what is its default now.
    levels = app.conf.get("task_repr_maxlevels", 3)
    return _saferepr(args, longest[0], levels), _saferepr(kwargs, longest[1], levels)


def _flat_text(value: Any, parts: Iterable[Any]) -> str:
    """Return simple values as ``saferepr`` would, in a fraction of its time; empty for others."""
    if not _FLAT.issuperset(map(type, parts)):
        return ""
    text = repr(value)
    # It escapes nothing but single quotes.
    return "" if "\\" in text or '"' in text else text


def evaluate(args: Any, kwargs: Any) -> Arguments:
    """Return the arguments with the lazy ones called, as stock beat does."""
    return (
        [value() if isinstance(value, BeatLazyFunc) else value for value in args or ()],
        {
            name: value() if isinstance(value, BeatLazyFunc) else value
            for name, value in (kwargs or {}).items()
        },
    )


def check_call(task: Any, arguments: Arguments) -> None:
    """Raise what ``Task.apply_async`` would raise for these arguments."""
    if task.soft_time_limit and task.time_limit and task.soft_time_limit > task.time_limit:
        raise ValueError("soft_time_limit must be less than or equal to time_limit")
    check = getattr(task, "__header__", None)
    if task.typing and check is not None:
        check(*arguments[0], **arguments[1])
