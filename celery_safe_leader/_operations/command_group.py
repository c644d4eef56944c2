"""The group of all ``leader …`` commands that need no Celery."""

from __future__ import annotations

import click

from celery_safe_leader._operations.health.check_command import check
from celery_safe_leader._operations.health.probe_command import probe
from celery_safe_leader._operations.history_command import history
from celery_safe_leader._operations.moving.ledger_commands import ledger
from celery_safe_leader._operations.pause_commands import pause, resume
from celery_safe_leader._operations.resign_command import resign
from celery_safe_leader._operations.runs_command import runs
from celery_safe_leader._operations.status_command import status
from celery_safe_leader._operations.watch_command import watch

__all__ = ["COMMANDS"]

COMMANDS: tuple[click.Command, ...] = (
    *(status, watch, check, probe, history, runs, pause, resume, resign, ledger),
)
"""For ``celery -A proj leader`` and for ``python -m celery_safe_leader``."""
