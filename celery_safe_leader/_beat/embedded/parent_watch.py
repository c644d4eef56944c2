"""An embedded beat ends with its worker, also if the worker was killed and could tell nobody.

Celery starts the beat of ``celery worker -B`` as a process, which outlives a worker that dies. The
pid of the parent tells it on every system, under fork and spawn alike; a signal at the parent's
death is Linux's alone, and there means the death of the thread that forked.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from billiard.common import TERM_SIGNAL
from billiard.process import current_process

from celery_safe_leader._loggers import beat_logger as logger

__all__ = ["end_with_parent"]

_GLANCE = 0.1
"""Seconds between two looks at the parent."""
_GRACE = 0.5
"""Seconds that an orphan has to end properly."""


def end_with_parent(**_: Any) -> None:
    """End this process soon after its parent has ended. A receiver of ``beat_embedded_init``."""
    # Known since before the fork: by now the parent may be gone. (A name without promise, read in
    # billiard 4.2 and 4.3; without it, the parent of this moment has to do.)
    parent = getattr(current_process(), "_parent_pid", None) or os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="leader:orphan", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_GLANCE)
    # Whatever blocks the main thread, or the log: it ends.
    last = threading.Timer(_GRACE, os._exit, (1,))
    last.daemon = True
    last.start()
    os.kill(os.getpid(), TERM_SIGNAL)
    logger.warning("The worker of this embedded beat (pid %d) has ended: so does the beat", parent)
