"""When a standby goes on with its copy of the ledger: while it waits, on the dispatching thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from celery_safe_leader._beat.background import BackgroundCall, BackgroundThread
from celery_safe_leader._loggers import beat_logger as logger

__all__ = ["StandbyCopying"]

_AFTER_AN_ERROR = 60.0
"""Seconds."""


class StandbyCopying:
    """Calls the next step when it is due, and waits for none. For one thread."""

    def __init__(self) -> None:
        self._call: BackgroundCall[float] | None = None
        self._next_at = 0.0

    def go_on(self, thread: BackgroundThread, step: Callable[[], float]) -> None:
        """Start the next step if it is due and the last one has ended.

        Args:
            thread: That of the dispatcher, which nothing else uses meanwhile.
            step: Returns the seconds until the next one.
        """
        if self._call is not None:
            if not self._call.done:
                return
            self._note_end(self._call)
        if time.monotonic() >= self._next_at:
            self._call = thread.start(step)

    def _note_end(self, call: BackgroundCall[float]) -> None:
        self._call = None
        pause = call.result
        if call.error is not None or pause is None:
            logger.error(
                "Copying the ledger failed unexpectedly; this standby tries again in %g s. Please "
                "report this",
                _AFTER_AN_ERROR,
                exc_info=call.error,
            )
            pause = _AFTER_AN_ERROR
        self._next_at = time.monotonic() + pause
