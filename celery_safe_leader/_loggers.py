"""The loggers of this package, by the names that the documentation gives them.

Every module takes its logger from here. ``_core`` logs nothing.
"""

from __future__ import annotations

import logging

__all__ = ["beat_logger", "celery_beat_logger", "library_logger", "worker_logger"]

library_logger = logging.getLogger("celery_safe_leader")
"""Of the election itself: the connection to Redis, the threads, listeners."""
beat_logger = logging.getLogger("celery_safe_leader.beat")
"""Of a beat: who leads, and what becomes of due runs."""
worker_logger = logging.getLogger("celery_safe_leader.worker")
"""Of a worker: who leads, leader-only tasks, dropped messages, the embedded beat."""
celery_beat_logger = logging.getLogger("celery.beat")
"""Celery's own, for the line about each run, by which people follow stock beat."""
