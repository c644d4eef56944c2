"""The option of ``celery worker``: ``--no-leader``. Imports little, since each command does it."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.bin.base import CeleryOption
from celery.bin.worker import worker

__all__ = ["offer", "offer_for"]

# One object: an app keeps its options in a set.
_NO_LEADER = CeleryOption(
    ["--no-leader"],
    is_flag=True,
    help="Stand aside: never lead, and never run leader-only tasks.",
    help_group="Leader Election",
)


def offer() -> None:
    """Let ``celery worker`` take the option, whichever the app is.

    Before the command line is read: Django's apps are loaded after it.
    """
    command: Any = worker
    if _NO_LEADER not in command.params:
        command.params.append(_NO_LEADER)


def offer_for(app: Celery) -> None:
    """Let it take the option for an app, if it does not take it anyway."""
    command: Any = worker
    if _NO_LEADER not in command.params:
        app.user_options["worker"].add(_NO_LEADER)
