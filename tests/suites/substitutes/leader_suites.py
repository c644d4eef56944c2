"""A pytest plugin that puts a class of this package in the place of the one that a suite tests.

Loaded by its file, in the suite's own environment, before any of its modules; so it imports
nothing of this project's tests. The environment says which class, where Redis is, whether the
scheduler is made ready, and where to write what came of each test.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import celery.beat
import pytest

import celery_safe_leader.beat
from celery_safe_leader._beat.mixin import mixin_state

KIND = os.environ["LEADER_SUITE_KIND"]
URL = os.environ["LEADER_SUITE_URL"]
IS_READY = os.environ["LEADER_SUITE_READY"] == "1"
REPORT = Path(os.environ["LEADER_SUITE_REPORT"])
RESIGNED = os.environ["LEADER_SUITE_RESIGNED"]
WAIT, WAIT_FOR_THREADS = 30.0, 0.5
"""Seconds."""

made: list[Any] = []
"""Schedulers that the present test has made."""
outcomes: dict[str, dict[str, Any]] = {}
"""Of each test: what came of it, and how many schedulers of ours it made."""


def give_settings(app: Any) -> None:
    """Give an app what it needs to take part in an election that nobody else is in."""
    key = f"suite-{uuid.uuid4().hex[:12]}"
    app.conf.update(leader_url=URL, leader_key=key, leader_ttl=10.0)
    if IS_READY:
        run_path(RESIGNED)["leave_resigned"](URL, key, "beat")


def substitute(module: Any, name: str, *bases: type) -> type:
    """Put a class derived from ours into a module, in place of the one of that name."""

    def make(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
        if all(each is not self for each in made):
            made.append(self)
        give_settings(app)
        super(kind, self).__init__(app, *args, **kwargs)

    kind: Any = type(name, bases, {"__init__": make, "__module__": bases[-1].__module__})
    setattr(module, name, kind)
    return kind


# Ready: what a test does not know of


class LeadingScheduler:
    """For ``LeaderScheduler``: once it is made it leads."""

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)  # type: ignore[call-arg]
        leader = self._membership.join()  # type: ignore[attr-defined]
        leader.wait(lambda: leader.is_leader, WAIT)
        assert leader.is_leader, "it does not lead"


class _Now:
    """In place of the mixin's background thread: whatever is started is done at once."""

    def start(self, function: Any) -> Any:
        from celery_safe_leader._beat.background import BackgroundCall

        call = BackgroundCall(function)
        call.run()
        return call

    def wait(self, call: Any, timeout: float | None) -> bool:
        return True

    def wait_idle(self, timeout: float) -> bool:
        return True

    def close(self) -> None:
        """Do nothing."""


class LeadingMixin:
    """For the mixin: once it is made it leads.

    It works on the test's thread, and returns what the other scheduler's tick returns. What a test
    has put into the scheduler stays there.
    """

    def lead(self) -> None:
        state = self._leader_mixin  # type: ignore[attr-defined]
        if state.begun:
            return
        state.background = _Now()
        leader = state.membership.join()
        leader.wait(lambda: leader.is_leader, WAIT)
        assert leader.is_leader, "it does not lead"
        state.token = leader.fencing_token
        state.pause_watch.begin(leader.candidate_id, state.token)
        state.begun = True
        if not self._leader_suite_lazy:
            self.setup_schedule()  # type: ignore[attr-defined]

    def __init__(self, app: Any, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
        self._leader_suite_lazy = lazy
        super().__init__(app, *args, lazy=lazy, **kwargs)  # type: ignore[call-arg]
        self.lead()

    def _work(self, token: int, args: Any, kwargs: Any) -> float:
        self._leader_suite_pause: Any = super()._work(token, args, kwargs)  # type: ignore[misc]
        return float(self._leader_suite_pause)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        state = self._leader_mixin  # type: ignore[attr-defined]
        self._leader_suite_pause = None
        state.due_at = 0.0
        super().tick(*args, **kwargs)  # type: ignore[misc]
        assert self._leader_suite_pause is not None, "it did not work"
        return self._leader_suite_pause


def install() -> None:
    """Put our class where the suite looks for theirs."""
    if KIND == "scheduler":
        from celery_safe_leader.beat import LeaderScheduler

        leading = (LeadingScheduler,) if IS_READY else ()
        kind = substitute(celery.beat, "Scheduler", *leading, LeaderScheduler)
        # It is one of those in stock Celery, too.
        celery.beat.PersistentScheduler = type("PersistentScheduler", (kind,), {})
        return
    from celery_safe_leader.schedulers import LeaderSchedulerMixin

    ready = (LeadingMixin,) if IS_READY else ()
    if KIND == "mixin":
        stock, persistent = celery.beat.Scheduler, celery.beat.PersistentScheduler
        kind = type("Scheduler", (*ready, LeaderSchedulerMixin, stock), {})
        substitute(celery.beat, "Scheduler", kind)
        substitute(celery.beat, "PersistentScheduler", celery.beat.Scheduler, persistent)
    elif KIND == "redbeat":
        import redbeat

        from celery_safe_leader.schedulers import LeaderRedBeatScheduler

        substitute(redbeat, "RedBeatScheduler", *ready, LeaderRedBeatScheduler)
    elif KIND == "database":
        from django_celery_beat import schedulers

        from celery_safe_leader.schedulers import LeaderDatabaseScheduler

        substitute(schedulers, "DatabaseScheduler", *ready, LeaderDatabaseScheduler)


def without_parent(sender: Any, **_: Any) -> None:
    """Do nothing, where an embedded beat begins to watch its worker: here there is none."""


for module in (celery_safe_leader.beat, mixin_state):
    vars(module)["end_with_parent"] = without_parent
if KIND != "database":
    install()


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: Any) -> None:
    """Substitute what can only be imported once Django is set up."""
    if KIND == "database":
        install()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: Any) -> None:
    """Let schedulers leave their election, before the suite looks for what a test left behind."""
    outcomes.setdefault(item.nodeid, {})["made"] = len(made)
    for scheduler in made:
        leave(scheduler)
    made.clear()
    until = time.monotonic() + WAIT_FOR_THREADS
    while time.monotonic() < until and list(_threads()):
        time.sleep(0.01)


def leave(scheduler: Any) -> None:
    """Let a scheduler leave its election, and end its threads."""
    attributes = vars(scheduler)
    state = attributes.get("_leader_mixin")
    if state is not None:
        state.membership.leave()
        state.background.close()
        state.pause_watch.close()
    elif "_membership" in attributes:
        scheduler._membership.leave()
        for name in ("_background", "_calls"):
            if name in attributes:
                attributes[name].close()


def _threads() -> Iterator[threading.Thread]:
    return (each for each in threading.enumerate() if each.name.startswith("leader:"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Generator[None, Any, None]:
    """Note what came of a test."""
    result = yield
    report = result.get_result()
    noted = outcomes.setdefault(item.nodeid, {})
    if report.when == "call" or report.outcome != "passed":
        noted["outcome"] = report.outcome
        if report.failed and "why" not in noted:
            noted["why"] = str(call.excinfo.value).strip().splitlines()[:1]


def pytest_sessionfinish(session: Any) -> None:
    """Write the report."""
    REPORT.write_text(json.dumps(outcomes))
