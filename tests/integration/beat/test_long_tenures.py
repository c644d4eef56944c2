"""What a leader keeps of entries that were there once: counted in objects, within one tenure."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import pytest

from celery_safe_leader._dispatch.agenda import _MOST_STALE, Agenda
from tests.integration.beat.driven_leaders import HAS_BATCHES, DrivenLeaders, Leader
from tests.support.servers import Server

YEAR = 365 * 86_400.0


@pytest.fixture
def stage(quick_server: Server, key: str) -> Iterator[DrivenLeaders]:
    stage = DrivenLeaders(quick_server, key)
    yield stage
    for close in stage.closing:
        close()


def objects_of(root: object) -> Iterator[Any]:
    """Return all objects that hang on one, except for modules, classes, functions and apps."""
    seen, found = {id(root)}, [root]
    while found:
        each = found.pop()
        yield each
        for other in gc.get_referents(each):
            skipped = isinstance(other, (ModuleType, type, FunctionType))
            if id(other) not in seen and not skipped and type(other).__name__ != "Celery":
                seen.add(id(other))
                found.append(other)


def kept_names(leader: Leader, prefix: str) -> int:
    """Count the places of all containers below the dispatcher that name such an entry.

    What is done in the background is done first, since a turn that is under way has lists of its
    own, and what is noted in Redis is noted once a minute. Stale places of a heap come and go by
    the moments at which entries were set: they are not counted, but may not be more than it allows.
    """
    finish_background_work(leader)
    found = list(objects_of(leader.dispatcher))
    heaps = set()
    for each in found:
        if isinstance(each, Agenda):
            assert len(each._heap) <= 2 * len(each) + _MOST_STALE
            heaps.add(id(each._heap))
    count = 0
    for each in found:
        if isinstance(each, (dict, set, frozenset, list)) and id(each) not in heaps:
            names = [one[1] if isinstance(one, tuple) and len(one) == 2 else one for one in each]
            count += sum(isinstance(name, str) and name.startswith(prefix) for name in names)
    return count


def finish_background_work(leader: Leader) -> None:
    """Do now, to its end, what a leader does once an hour or minute, a bit at a time."""
    dispatcher, later = leader.dispatcher, time.monotonic() + 2 * 3600.0
    for work in (dispatcher._next_moments, dispatcher._upkeep):
        assert work is not None
        later += work.step(later)
        while work._turn is not None:
            later += work.step(later)


def test_setting_the_schedule_again_and_again_costs_a_leader_nothing(stage: DrivenLeaders) -> None:
    def schedule(turn: int) -> dict[str, Any]:
        entries = {f"yearly-{n}": stage.entry(f"yearly-{n}", YEAR / 2, YEAR) for n in range(500)}
        for entry in entries.values():
            entry["args"] = (turn,)
        return entries

    app = stage.app(**schedule(0))
    leader = stage.leader(app)
    leader.run()
    rounds = leader.dispatcher._rounds
    assert rounds is not None
    app.conf.beat_schedule = schedule(1)
    leader.run()
    before = kept_names(leader, "yearly-")
    for turn in range(2, 60):
        app.conf.beat_schedule = schedule(turn)
        leader.run()
        assert leader.dispatcher._rounds is rounds  # one tenure
    assert kept_names(leader, "yearly-") == before


def test_entries_that_were_dispatched_and_removed_leave_nothing_to_dispatch_with(
    stage: DrivenLeaders,
) -> None:
    app = stage.app(stays=stage.entry("stays", YEAR / 2, YEAR))
    leader = stage.leader(app)
    leader.run()
    for turn in range(10):
        for n in range(50):
            # Every tenth is too large for a script, which is told once for each entry.
            more: dict[str, Any] = {} if n % 10 else {"args": ("x" * 140_000,)}
            app.conf.beat_schedule[f"gone-{turn}-{n}"] = stage.entry("gone", -1.0, **more)
        leader.run()
        rounds = leader.dispatcher._rounds
        assert rounds is not None
        if HAS_BATCHES:  # else it is told once, of all runs of the tenure
            assert 0 < len(rounds._outbox._told) <= 5
        assert len(leader.dispatcher._builder._templates._of_entries) >= 45  # type: ignore[attr-defined]
        for n in range(50):
            del app.conf.beat_schedule[f"gone-{turn}-{n}"]
        leader.run()
    assert len(stage.messages()) == 500
    memory = leader.dispatcher._memory
    assert rounds is not None
    assert len(rounds._outbox._told) == 0
    # The ledger has them for days, in case they come back; so does the memory that restores it.
    assert len(memory._foreign_runs) == 500
    assert kept_names(leader, "gone-") == 500


def test_names_that_come_and_go_are_forgotten_by_the_leader_that_goes_on(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The days for which they are kept are over at once here."""
    monkeypatch.setattr("celery_safe_leader._dispatch.memory.upkeep._MANY", 100)
    app = stage.app(stays=stage.entry("stays", YEAR / 2, YEAR))
    leader = stage.leader(app)
    leader.dispatcher._memory.grace = 0.0
    most = 0
    for turn in range(20):
        names = [f"gone-{turn}-{n}" for n in range(100)]
        for name in names:
            app.conf.beat_schedule[name] = stage.entry(name, YEAR / 2, YEAR)
        leader.run()
        assert stage.runs().keys() >= set(names)
        for name in names:
            del app.conf.beat_schedule[name]
        leader.run()
        most = max(most, leader.dispatcher._memory.foreign_count)
        for _ in range(30):
            leader.run()
    assert most <= 400
    assert len(stage.runs()) <= 400
    assert kept_names(leader, "gone-") == leader.dispatcher._memory.foreign_count <= 400


def test_ten_thousand_names_that_came_and_went_cost_as_much_as_a_few_and_may_come_back(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the ledger for days; the leader remembers the latest of them alone."""
    monkeypatch.setattr("celery_safe_leader._dispatch.memory.memory.MOST_FOREIGN", 100)
    app = stage.app(stays=stage.entry("stays", YEAR / 2, YEAR))
    leader = stage.leader(app)
    app.conf.beat_schedule["came-first"] = stage.entry("came-first", -1.0)
    leader.run()
    [run] = stage.messages()
    record = stage.runs()["came-first"]
    for turn in range(20):
        new = {f"gone-{turn}-{n}": stage.entry("gone", YEAR / 2, YEAR) for n in range(500)}
        app.conf.beat_schedule = {"stays": app.conf.beat_schedule["stays"], **new}
        leader.run()
    app.conf.beat_schedule = {"stays": app.conf.beat_schedule["stays"]}
    leader.run()
    assert sum(name.startswith("gone-") for name in stage.runs()) == 10_000
    assert kept_names(leader, "gone-") == 100
    # The first of all is read from the ledger: it has run, and is not due for an hour.
    app.conf.beat_schedule["came-first"] = stage.entry("came-first", -1.0)
    for _ in range(5):
        leader.run()
    assert [each.headers["id"] for each in stage.messages()] == [run.headers["id"]]
    assert stage.runs()["came-first"] == record
