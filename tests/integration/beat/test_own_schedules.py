"""Schedules of the user's own are asked when they said, with stock beat on the same ones beside."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import celery
import pytest
from celery.schedules import BaseSchedule

from tests.integration.beat.driven_leaders import (
    DrivenLeaders,
    Leader,
    Queue,
    ticked,
)
from tests.support.celery.services import BeatService
from tests.support.celery.stock_beat import StockBeat
from tests.support.processes.waiting import PATIENCE, wait_until
from tests.support.servers import Server

STOCK_IS_RIGHT = celery.VERSION >= (5, 7)
"""Before, one that does not say until when holds up all others in stock beat, and one that was not
due at first is then sent over and over."""
TICK = {"task": "shop.work", "schedule": 0.1, "kwargs": {"entry": "tick"}}


class Own(BaseSchedule):
    """Gives one answer after the other, the last one for ever. Looks at nothing."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.answers = list(answers)
        self.questions = 0

    def is_due(self, last_run_at: Any) -> Any:
        self.questions += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return "<own>"


class UntilRun(Own):
    """Due until it was run, and never says when to ask again."""

    def is_due(self, last_run_at: Any) -> Any:
        return last_run_at < NOON, None


NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def own(*answers: Any) -> dict[str, Any]:
    return {"task": "shop.work", "schedule": Own(*answers), "kwargs": {"entry": "own"}}


def run_until_ticks(leader: Leader, queue: Queue, more: int) -> None:
    """Let other entries be dispatched meanwhile."""
    enough = len(queue.sent("tick")) + more
    wait_until(lambda: ticked(leader) and len(queue.sent("tick")) >= enough, PATIENCE)


@pytest.mark.parametrize(
    "answers",
    [[(True, 3600)], [(True, float("inf"))], [(True, 10**400)]],
    ids=["an hour", "never again", "beyond all clocks"],
)
def test_a_schedule_that_is_due_whenever_it_is_asked_is_asked_when_it_said(
    stage: DrivenLeaders, queue: Queue, answers: list[Any]
) -> None:
    app = stage.app(own=own(*answers), tick=TICK)
    with StockBeat(stage.app(own=own(*answers), tick=TICK)) as stock:
        leader = stage.leader(app)
        run_until_ticks(leader, queue, 10)
        wait_until(lambda: stock.sent["tick"] >= 10 or stock.error, PATIENCE)
    assert len(queue.sent("own")) == 1
    if stock.error is None:  # it cannot add so large a number to its clock
        assert stock.sent["own"] == 1


def test_one_that_is_due_until_it_was_run_and_says_no_more_runs_once(
    stage: DrivenLeaders, queue: Queue
) -> None:
    once = {**own(), "schedule": UntilRun(), "last_run_at": NOON - timedelta(days=1)}
    with StockBeat(stage.app(own=once, tick=TICK)) as stock:
        leader = stage.leader(stage.app(own=dict(once, schedule=UntilRun()), tick=TICK))
        run_until_ticks(leader, queue, 10)
        if STOCK_IS_RIGHT:
            wait_until(lambda: stock.sent["tick"] >= 10, PATIENCE)
    assert len(queue.sent("own")) == 1
    assert stock.sent["own"] == 1


def test_restoring_a_lost_ledger_and_setting_the_entry_again_ask_it_no_sooner(
    stage: DrivenLeaders, queue: Queue
) -> None:
    app = stage.app(own=own((True, 3600)), tick=TICK)
    schedule = app.conf.beat_schedule["own"]["schedule"]
    leader = stage.leader(app)
    run_until_ticks(leader, queue, 3)
    stage.client.delete(stage.names.runs)
    run_until_ticks(leader, queue, 3)
    app.conf.beat_schedule["own"] = {**app.conf.beat_schedule["own"], "args": (1,)}
    run_until_ticks(leader, queue, 3)
    leader.dispatcher.start_over()  # as after an unexpected error, or a wall clock that was set
    run_until_ticks(leader, queue, 3)
    assert schedule.questions == 1
    assert len(queue.sent("own")) == 1


def test_one_that_is_not_due_and_does_not_say_until_when_is_asked_again(
    stage: DrivenLeaders, queue: Queue
) -> None:
    app = stage.app(own=own((False, None), (False, None), (True, 3600)), tick=TICK)
    app.conf.beat_max_loop_interval = 0.2
    beside = stage.app(own=own((False, None), (False, None), (True, 3600)))
    beside.conf.beat_max_loop_interval = 0.2
    with StockBeat(beside) as stock:
        leader = stage.leader(app)
        wait_until(lambda: ticked(leader) and queue.sent("own"), PATIENCE)
        wait_until(lambda: stock.sent["own"], PATIENCE)
    run_until_ticks(leader, queue, 5)
    assert len(queue.sent("own")) == 1
    assert stock.sent["own"] == 1 or not STOCK_IS_RIGHT


def test_one_that_is_always_due_at_once_does_not_hold_up_the_others(
    stage: DrivenLeaders, queue: Queue
) -> None:
    leader = stage.leader(stage.app(own=own((True, 0)), tick=TICK))
    run_until_ticks(leader, queue, 5)
    # At most 100 a second: stock sends as many as it can.
    ticks, owns = queue.sent("tick"), queue.sent("own")
    seconds = (ticks[-1].covers[1] - ticks[0].covers[1]) / 1e6
    assert 1 < len(owns) <= 100 * (seconds + 2)
    assert all(sent.covers[0] == sent.covers[1] for sent in ticks[1:])


def test_a_beat_that_leads_again_asks_it_no_sooner(quick_server: Server, key: str) -> None:
    stage = DrivenLeaders(quick_server, key)
    app = stage.app(own=own((True, 3600)), tick=TICK)
    queue = Queue(stage.broker, key)
    with BeatService(app) as beat:
        beat.wait_leading()
        # By write-ahead its message is out before it is recorded. A beat stands down between the
        # two only if it is told to from outside, as below.
        wait_until(lambda: queue.sent("own") and "own" not in stage.pending(), PATIENCE)
        token = beat.scheduler._membership.fencing_token
        assert token is not None
        beat.scheduler._membership.stand_down("test")
        wait_until(lambda: (beat.scheduler._membership.fencing_token or 0) > token, PATIENCE)
        count = len(queue.sent("tick"))
        wait_until(lambda: len(queue.sent("tick")) > count + 5, PATIENCE)
    queue.close()
    assert len(queue.sent("own")) == 1
    assert app.conf.beat_schedule["own"]["schedule"].questions == 1
