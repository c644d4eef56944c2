"""Text of other people's values and errors, for the log: whatever they raise, there is some."""

from __future__ import annotations

import threading

__all__ = ["Shown", "is_containable", "safe_repr", "safe_str"]

_LONGEST = 500
"""Characters that are shown."""


def is_containable(error: BaseException) -> bool:
    """Return whether what user code raised may cost its entry alone, and nothing else.

    On the main thread a signal handler may raise ``SystemExit`` at any line, also in the middle of
    user code: there only ``Exception`` is contained. Elsewhere nothing but the code itself raises.
    """
    return isinstance(error, Exception) or threading.current_thread() is not threading.main_thread()


class Shown:
    """A value for ``%r``: its ``safe_repr``."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        return safe_repr(self._value)


def safe_repr(value: object) -> str:
    """Return ``repr(value)``, shortened; if it raises, the name of the class."""
    try:
        return _short(repr(value))
    except BaseException as exc:
        if not is_containable(exc):
            raise
        return f"<{type(value).__name__} whose repr raises {type(exc).__name__}>"


def safe_str(error: BaseException) -> str:
    """Return the message of an error in one line, shortened; if it has none, says so."""
    try:
        return _short(" ".join(str(error).split())) or "no details"
    except BaseException as exc:
        if not is_containable(exc):
            raise
        return f"its message cannot be shown: that raises {type(exc).__name__}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
