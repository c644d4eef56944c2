"""Random histories of leaders, faults and changes of the schedule, on a real server.

Each seed is a history of its own. What is judged comes out of the queue: what workers would run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from celery.signals import after_task_publish, before_task_publish

from celery_safe_leader.beat import LeaderScheduler
from tests.integration.beat.driven_leaders import TRANSACTIONAL, WRITE_AHEAD
from tests.integration.beat.random_faults import StandingClock, Wire
from tests.integration.beat.random_history import BEHIND, History, Quiet, Tenants
from tests.support.servers import Server

STEPS = 24
SHORT, LONG = 20, 1_500
"""Histories of each way."""
REMARKABLE = (941, 9309)
"""Seeds of histories that went wrong once: a queue that is no list, a request to publish without a
reply, and the loss of the ledger, which together may lose a run; a run that is made up for under a
new schedule."""


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few entries make several batches."""
    monkeypatch.setattr("celery_safe_leader._dispatch.records.BATCH", 3)
    monkeypatch.setattr("celery_safe_leader._dispatch.rounds.BATCH", 3)
    monkeypatch.setattr("celery_safe_leader._dispatch.rounds._LATE_TOGETHER", 2)


@contextmanager
def listening() -> Iterator[list[str]]:
    """Let receivers of both signals note the ids of what was published."""
    published: list[str] = []

    def before(**_: Any) -> None:
        """Be there."""

    def after(sender: str, headers: Any, **_: Any) -> None:
        # A task with a class of its own is told before the write: its run may still be dropped.
        if sender == "shop.work":
            published.append(headers["id"])

    before_task_publish.connect(before)
    after_task_publish.connect(after)
    try:
        yield published
    finally:
        before_task_publish.disconnect(before)
        after_task_publish.disconnect(after)


def play(
    seed: int,
    way: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    scheduler: type[LeaderScheduler] = LeaderScheduler,
    told: Sequence[str] = (),
) -> int:
    """Play one history, and return how many messages there were."""
    clock, wire = StandingClock(time.time() - BEHIND), Wire(server.port)
    with monkeypatch.context() as patch:
        clock.install(patch)
        wire.install(patch)
        history = History(seed, way, server, clock, wire, scheduler)
        try:
            judge = history.play(STEPS)
            if not judge.excuse:
                assert judge.seen >= set(told), "after_task_publish of what is in no queue"
            return judge.messages
        except Exception as exc:
            steps = "\n".join(history.done)
            raise AssertionError(f"seed {seed}, {way}: {exc!r}, after\n{steps}") from exc


@pytest.mark.parametrize("way", [TRANSACTIONAL, WRITE_AHEAD])
def test_each_run_is_executed_once_in_random_histories(
    quick_server: Server, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    logging.getLogger("celery_safe_leader").setLevel(logging.CRITICAL)
    seeds = (*range(SHORT), *REMARKABLE)
    assert sum(play(seed, way, quick_server, monkeypatch) for seed in seeds) > 5 * SHORT


REMARKABLE_OWN = (116, 9165)
"""Likewise on Celery's own way: the request for a run of a task with a class of its own has no
reply, its entry changes, and the ledger is lost: it is dropped, though `after_task_publish` was
sent; a run that is made up for under a new schedule."""
OWN_WAYS = ["receivers", "an override", "several messages"]
OWN_SHORT = (TRANSACTIONAL, "receivers")
"""What is played in ``make test``."""
SCHEDULERS = {"an override": Quiet, "several messages": Tenants}


def play_own_way(
    seeds: Sequence[int], own: str, way: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Play histories of runs that Celery's own code sends."""
    scheduler = SCHEDULERS.get(own, LeaderScheduler)
    messages = 0
    for seed in seeds:
        with ExitStack() as stack:
            told = stack.enter_context(listening()) if own == "receivers" else ()
            messages += play(seed, way, server, monkeypatch, scheduler, told)
    return messages


@pytest.mark.parametrize(
    ("way", "own"),
    [
        pytest.param(way, own, marks=[pytest.mark.long] * ((way, own) != OWN_SHORT))
        for way in (TRANSACTIONAL, WRITE_AHEAD)
        for own in OWN_WAYS
    ],
)
def test_each_run_is_executed_once_in_random_histories_of_celerys_own_way(
    quick_server: Server, monkeypatch: pytest.MonkeyPatch, way: str, own: str
) -> None:
    logging.getLogger("celery_safe_leader").setLevel(logging.CRITICAL)
    logging.getLogger("celery").setLevel(logging.CRITICAL)
    seeds = (*range(SHORT), *REMARKABLE_OWN)
    assert play_own_way(seeds, own, way, quick_server, monkeypatch) > 5 * SHORT


@pytest.mark.long
@pytest.mark.timeout(1800)  # 1,500 histories of 0.2 s on a slow machine
@pytest.mark.parametrize("way", [TRANSACTIONAL, WRITE_AHEAD])
def test_each_run_is_executed_once_in_thousands_of_random_histories(
    quick_server: Server, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    logging.getLogger("celery_safe_leader").setLevel(logging.CRITICAL)
    seeds = range(SHORT, SHORT + LONG)
    assert sum(play(seed, way, quick_server, monkeypatch) for seed in seeds) > 5 * LONG
