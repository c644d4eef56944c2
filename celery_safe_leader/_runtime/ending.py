"""An end that comes once, and that everybody who asks for it waits for, in signal handlers too."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from celery_safe_leader._runtime.broadcast import Broadcast

__all__ = ["Ending"]


class Ending:
    """What is done once, on a background thread, while all who ask for it wait.

    A second signal interrupts the handler of the first in the middle, on the same thread: the
    first cannot go on before the second has returned or raised, and if it raises, never. So
    neither of them does the work itself. Nor does it happen then that one waits for a lock that
    the other one holds.
    """

    def __init__(self, name: str) -> None:
        """Do nothing yet; ``name`` is that of the thread."""
        self._name = name
        self._unclaimed = deque([None])
        self._worker: int | None = None
        self._changed = Broadcast()
        self._error: BaseException | None = None
        self.done = False
        """Whether it is over."""

    def run(self, function: Callable[[], None]) -> None:
        """Call ``function``, unless another call has begun; return at the end of that one.

        From any thread, and from a signal handler in the middle of this very method. Within
        ``function`` it returns at once. Raises what the function that was called raised.
        """
        if self.start(function):
            self._changed.wait(lambda: self.done, None)
        if self._error is not None:
            raise self._error

    def start(self, function: Callable[[], None]) -> bool:
        """As ``run``, without waiting; return whether there is an end to wait for."""
        if self.done or self._worker == threading.get_ident():
            return False
        # Everybody starts a thread, of which one has something to do: who was interrupted before
        # it had started one is not waited for.
        thread = threading.Thread(target=self._run, args=(function,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._run(function)  # there can be no more threads
        return True

    def _run(self, function: Callable[[], None]) -> None:
        try:
            self._unclaimed.pop()
        except IndexError:
            return
        self._worker = threading.get_ident()
        try:
            function()
        except BaseException as exc:
            self._error = exc
        self.done, self._worker = True, None
        self._changed.notify_all()
