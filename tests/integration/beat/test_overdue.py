"""How late the most overdue run is, which monitors are told, whatever keeps it from the broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery.beat import BeatLazyFunc
from celery.schedules import schedule

from celery_safe_leader._dispatch.health import user_calls
from tests.integration.beat.driven_leaders import DrivenLeaders, Leader, ticked_aside
from tests.support.processes.waiting import wait_until

LATE = 1.0
"""Seconds that a run is late on purpose; none of the others is so late for long."""


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What everything waits for that hangs."""
    gate = threading.Event()
    yield gate
    gate.set()


class Closed(schedule):
    """A schedule of the user's own, which raises while its gate is closed."""

    gate: threading.Event

    def is_due(self, last_run_at: Any) -> Any:
        if not self.gate.is_set():
            raise RuntimeError("closed")
        return super().is_due(last_run_at)


Held = Callable[[DrivenLeaders, threading.Event], dict[str, Any]]


def by_a_call(stage: DrivenLeaders, gate: threading.Event) -> dict[str, Any]:
    hangs = BeatLazyFunc(lambda: gate.wait(60))
    return stage.entry("held", 0.1, kwargs={"entry": "held", "value": hangs})


def by_its_schedule(stage: DrivenLeaders, gate: threading.Event) -> dict[str, Any]:
    own = Closed(3600.0)
    own.gate = gate
    return stage.entry("held", 0.1) | {"schedule": own}


def by_the_broker(stage: DrivenLeaders, gate: threading.Event) -> dict[str, Any]:
    name = f"no list of {stage.key}"
    with redis.Redis.from_url(stage.broker) as broker:
        broker.set(name, "x")

    def mend() -> None:
        gate.wait(60)
        with redis.Redis.from_url(stage.broker) as broker:
            broker.delete(name)

    threading.Thread(target=mend, daemon=True).start()
    return stage.entry("held", 0.1, options={"queue": name})


def overdue(leader: Leader) -> float:
    found = leader.dispatcher.overdue
    assert found is not None
    return found


def has_come(stage: DrivenLeaders, entry: str) -> bool:
    return any(f"'{entry}'" in sent.headers["kwargsrepr"] for sent in stage.messages())


@pytest.mark.parametrize("held", [by_a_call, by_its_schedule, by_the_broker])
def test_it_grows_until_the_run_is_done(
    stage: DrivenLeaders, gate: threading.Event, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = user_calls.UserCalls.__init__
    monkeypatch.setattr(
        user_calls.UserCalls, "__init__", lambda *a, **more: make(*a, **{"limit": 0.1, **more})
    )
    monkeypatch.setattr(
        "celery_safe_leader._dispatch.timetable._RETRY_SCHEDULE", 300_000
    )  # not a minute
    entries = {"often": stage.entry("often", 0.1, 0.1), "held": held(stage, gate)}
    leader = stage.leader(stage.app(**entries))
    assert leader.dispatcher.overdue is None
    due_at = time.time() + 0.1
    wait_until(lambda: ticked_aside(leader) and overdue(leader) > LATE)
    assert overdue(leader) <= time.time() - due_at + LATE
    # At first both are refused together.
    wait_until(lambda: ticked_aside(leader) and has_come(stage, "often"))
    gate.set()
    wait_until(lambda: ticked_aside(leader) and overdue(leader) < LATE / 2)
    leader.stand_by()
    assert leader.dispatcher.overdue is None
