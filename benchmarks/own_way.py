"""Dispatches per second on Celery's own way, beside the loop: receivers, a wrapper, Sentry."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from celery import Task, signals

from benchmarks.contenders import LEADER, LOOP
from benchmarks.dispatch import Rates
from benchmarks.report import Report
from benchmarks.stage import Rig, server_kind
from tests.support.servers import Server

__all__ = ["main"]

_LOAD = 1_000
_LEAST = 0.8


@contextlib.contextmanager
def _receiver(signal: Any) -> Iterator[None]:
    def receive(**_: Any) -> None:
        """Be there."""

    signal.connect(receive)
    try:
        yield
    finally:
        signal.disconnect(receive)


@contextlib.contextmanager
def _wrapper() -> Iterator[None]:
    original = Task.apply_async

    @functools.wraps(original)
    def apply_async(self: Any, *args: Any, **options: Any) -> Any:
        return original(self, *args, **options)

    with mock.patch.object(Task, "apply_async", apply_async):
        yield


@contextlib.contextmanager
def _sentry() -> Iterator[None]:
    """For good: it cannot be taken out again, so it comes last."""
    import sentry_sdk  # type: ignore[import-not-found]
    from sentry_sdk.integrations.celery import (  # type: ignore[import-not-found]
        CeleryIntegration,
    )

    integration = CeleryIntegration(monitor_beat_tasks=True)
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=lambda envelope: None,
        integrations=[integration],
        traces_sample_rate=1.0,
    )
    yield


_TOOLS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "with one receiver": functools.partial(_receiver, signals.after_task_publish),
    "with one receiver of before_task_publish": functools.partial(
        _receiver, signals.before_task_publish
    ),
    "with a wrapper of apply_async": _wrapper,
    "with Sentry": _sentry,
}


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures. The loop is measured with the same tools."""
    turns = 1 if quick else 7
    with Server(server_kind()) as server, tempfile.TemporaryDirectory() as folder:
        for name, tool in _TOOLS.items():
            goal = f"dispatches on Celery's own way {name}, {_LOAD:,} due"
            if tool is _sentry and importlib.util.find_spec("sentry_sdk") is None:
                report.left_out(goal, "sentry-sdk is not installed")
                continue
            rates = Rates(Rig(server.url, server.url, Path(folder)))
            with tool():
                for _ in range(turns):
                    rates.turn((_LOAD,), (LOOP, LEADER))
            report.say(f"{name}:\n")
            rates.table(report, (_LOAD,), (LOOP.name, LEADER.name))
            report.at_least(
                goal, rates.ratio(LEADER.name, _LOAD), _LEAST, " × the loop",
                beside=rates.beside(_LOAD),
            )  # fmt: skip
