"""Whether somebody would notice that a message is composed here instead of sent by Celery.

Then its run goes Celery's own way, through all the functions that are looked at here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import FunctionType
from typing import Any

from celery import Celery, Task, signals
from celery.app.amqp import AMQP
from celery.beat import Scheduler
from kombu.messaging import Producer

from celery_safe_leader._publishing.own_way.originals import (
    are_all_original,
    is_code_of,
    is_original,
)

__all__ = ["Detection", "are_told_after", "are_told_before"]

_LOOK_EVERY = 60.0
"""Seconds after which it is looked again: a tool may be set up at any time."""

_AMQP_MODULE = "celery.app.amqp"
_PACKAGE = __name__.partition(".")[0]

_OF_TASKS = ("apply_async", "shadow_name", "_get_exec_options", "_get_app", "AsyncResult")
"""What a task is sent with, and what that asks the task's class for."""

_OF_SCHEDULERS = ("apply_entry", "apply_async", "send_task", "should_sync", "_do_sync", "sync")
"""What stock beat calls around each message."""

_OF_PRODUCERS = ("publish", "_publish", "_prepare", "_delivery_details")


def are_told_before() -> bool:
    """Return whether receivers are told of each message before it is published."""
    return bool(signals.before_task_publish.receivers)


def are_told_after() -> bool:
    """Return whether receivers are told of each message when it is published."""
    return bool(signals.after_task_publish.receivers or signals.task_sent.receivers)


class Detection:
    """What was replaced or overridden of the functions that send a task. Not thread-safe.

    Args:
        app: The Celery app.
        scheduler: The scheduler, or ``None`` where there is none.
        clock: Returns seconds.
    """

    def __init__(
        self,
        app: Any,
        scheduler: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._scheduler = scheduler
        self._clock = clock
        self._looked_at: float | None = None
        self._reason = ""
        self._of_tasks: dict[int, tuple[Any, str]] = {}

    def look_again(self) -> None:
        """Forget what was found, at the begin of a tenure."""
        self._looked_at = None

    def why(self, task: Any) -> str:
        """Return what somebody has changed, as a clause; empty if nothing.

        Args:
            task: The registered task; ``None`` if the name is not known here.
        """
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            self._of_tasks.clear()
            self._reason = self._common()
        return self._reason or (self._of_task(task) if task is not None else "")

    def _of_task(self, task: Any) -> str:
        known = self._of_tasks.get(id(task))
        if known is None or known[0] is not task:
            known = self._of_tasks[id(task)] = (task, _why_task(task))
        return known[1]

    def _common(self) -> str:
        scheduler = self._scheduler
        if scheduler is not None:
            for name in _OF_SCHEDULERS:
                if not _is_stock(scheduler, name):
                    return f"{name} of the scheduler is not Celery's own"
            if scheduler.Producer is not Producer:
                return "the scheduler has a class of producers of its own"
        if not is_original(self._app, "send_task", Celery):
            return "Celery.send_task is not the original"
        if not _is_amqp_original(self._app.amqp):
            return "app.amqp is not the original"
        for name in _OF_PRODUCERS:
            if not is_original(Producer, name, Producer):
                return f"kombu's Producer.{name} is not the original"
        return ""


def _why_task(task: Any) -> str:
    for name in _OF_TASKS:
        if not is_original(task, name, Task):
            return f"{name} of the task is not Celery's own"
    # Pydantic models that Celery 5.7 takes apart before it sends them.
    if getattr(task, "_dump_pydantic_arguments", None) is not None:
        return "the task has Pydantic models"
    return ""


def _is_stock(scheduler: Any, name: str) -> bool:
    """Return whether a method is Celery's, or one of this package around Celery's."""
    if name in vars(scheduler) or not is_original(Scheduler, name, Scheduler):
        return False
    for kind in type(scheduler).__mro__:
        if name in vars(kind):
            is_ours = kind.__module__.partition(".")[0] == _PACKAGE
            if kind is Scheduler:
                return True
            if not (is_ours and is_original(kind, name, kind)):
                return False
    return False


def _is_amqp_original(amqp: Any) -> bool:
    if type(amqp) is not AMQP or not are_all_original(AMQP):
        return False
    kept = vars(amqp)
    sender = kept.get("send_task_message")
    path = "AMQP._create_task_sender.<locals>.send_task_message"
    if sender is not None and not is_code_of(sender, _AMQP_MODULE, path):
        return False
    composer = kept.get("create_task_message")
    if composer is not None:
        name = getattr(getattr(composer, "__func__", None), "__name__", "")
        if name not in ("as_task_v1", "as_task_v2"):
            return False
        if not is_code_of(composer, _AMQP_MODULE, f"AMQP.{name}"):
            return False
    own = {"send_task_message", "create_task_message"}
    return not any(type(value) is FunctionType for name, value in kept.items() if name not in own)
