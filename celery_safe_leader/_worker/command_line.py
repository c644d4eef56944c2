"""The option ``--no-leader`` of ``celery worker``.

Every command of Celery imports this module, so it imports little.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.bin.base import CeleryOption
from celery.bin.worker import worker

__all__ = ["add_option", "add_option_for"]

# One object for all calls: an app keeps its options in a set.
_NO_LEADER = CeleryOption(
    ["--no-leader"],
    is_flag=True,
    help="Take no part in the election: never lead, never run leader-only tasks.",
    help_group="Leader Election",
)


def add_option() -> None:
    """Add the option to ``celery worker``, whatever the app is.

    Call it before the command line is read: Django's apps are loaded after that.
    """
    command: Any = worker
    if _NO_LEADER not in command.params:
        command.params.append(_NO_LEADER)


def add_option_for(app: Celery) -> None:
    """Add the option for one app, unless ``add_option()`` has added it for all."""
    command: Any = worker
    if _NO_LEADER not in command.params:
        app.user_options["worker"].add(_NO_LEADER)
