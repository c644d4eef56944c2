"""``celery inspect leader``: a beat's answer, where its remote control is on.

Beats have one from Celery 5.7 on, with ``beat_enable_remote_control``. Celery has no way to add a
command there: this is the one place that knows how to add one (celery/beat.py, read in 5.7.0:
``Service.start`` makes the scheduler, sends ``beat_init``, and makes the pidbox after that; the
pidbox's ``node.handlers`` is asked for each message).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from celery.signals import beat_init

__all__ = ["answer_inspections", "find_services"]

_services: weakref.WeakSet[Any] = weakref.WeakSet()


def find_services() -> None:
    """Remember the beat services that start in this process from now on.

    Call it when a scheduler is made: Celery makes it before its service starts. May be called
    again.
    """
    beat_init.connect(_remember, weak=False)


def _remember(sender: Any, **_: Any) -> None:
    _services.add(sender)


def answer_inspections(answer: Callable[[], Any]) -> None:
    """Let this process's beat answer, if its remote control is on.

    Call it when beat has begun to tick: its remote control is there by then.

    Args:
        answer: Makes the answer; called on another thread.
    """
    for service in list(_services):
        node = getattr(getattr(service, "_pidbox", None), "node", None)
        handlers = getattr(node, "handlers", None)
        if handlers is not None:
            handlers["leader"] = lambda state, **_: answer()
