"""An embedded beat ends with its worker, even if the worker was killed and could not tell it.

Celery starts the beat of ``celery worker -B`` as a process, which outlives a worker that dies. The
pid of the parent shows it on every system, under fork and spawn alike; only Linux can send a signal
when a parent dies, and there it means the death of the thread that forked.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from billiard.common import TERM_SIGNAL
from billiard.process import current_process

from celery_safe_leader._loggers import beat_logger as logger

__all__ = ["end_with_parent", "parent_pid"]

_POLL = 0.1
"""Seconds between two checks of the parent's pid."""
_GRACE = 0.5
"""Seconds that an orphan has to exit cleanly."""


def end_with_parent(**_: Any) -> None:
    """End this process soon after its parent has ended. A receiver of ``beat_embedded_init``."""
    threading.Thread(target=_watch, args=(parent_pid(),), name="leader:orphan", daemon=True).start()


def parent_pid() -> int:
    """Return the process id of the worker that started this embedded beat."""
    # Known since before the fork: by now the parent may be gone. (A private
    # attribute, read in billiard 4.2 and 4.3; without it, the parent of this moment must do.)
    return getattr(current_process(), "_parent_pid", None) or os.getppid()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL)
    # It ends, whatever blocks the main thread or the log.
    last = threading.Timer(_GRACE, os._exit, (1,))
    last.daemon = True
    last.start()
    os.kill(os.getpid(), TERM_SIGNAL)
    logger.warning(
        "The worker (pid %d) of this embedded beat has ended: the beat ends, too", parent
    )
