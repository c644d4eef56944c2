"""What a leader learns of entries that stand elsewhere in the ledger than it thought."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest
from celery.beat import ScheduleEntry
from celery.schedules import crontab

from celery_safe_leader._beat.entries.entry import read_entry
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.health.clock_watch import ClockWatch
from celery_safe_leader._dispatch.memory import memory as memory_module
from celery_safe_leader._dispatch.memory.memory import Memory
from celery_safe_leader._dispatch.tenure import Tenure
from celery_safe_leader._ledger.codec import LastRun
from celery_safe_leader._ledger.results import (
    Adoption,
    Condition,
    Enrolment,
    EnrolmentOutcome,
    Written,
)
from celery_safe_leader._schedules.missed import Policy
from celery_safe_leader._schedules.moments import DAY_US, SECOND_US

HOUR_US = 3600 * SECOND_US
MIDNIGHT = 20_000 * DAY_US
NOON = MIDNIGHT + 12 * HOUR_US


class FakeLedger:
    """Holds runs, and compares as Redis does."""

    key = "shop"

    def __init__(self, clock: list[int]) -> None:
        self.now = clock
        self.runs: dict[str, LastRun] = {}
        self.anew = False

    def adopt(self, holder: str, token: int) -> Adoption:
        return Adoption(Condition.WHOLE, len(self.runs), 0)

    def write(self, commits: Any, claims: Any) -> Written:
        return Written((), (), self.now[0])

    def read(self, names: Collection[str]) -> dict[str, Any]:
        return {name: (self.runs.get(name), None) for name in names}

    def enrol(
        self, enrolments: Sequence[Enrolment], *, anew: bool = False
    ) -> list[EnrolmentOutcome]:
        self.anew = anew
        outcomes = []
        for each in enrolments:
            if self.runs.get(each.entry) == each.expected:
                self.runs[each.entry] = each.run
                outcomes.append(EnrolmentOutcome.WRITTEN)
            else:
                outcomes.append(EnrolmentOutcome.DIFFERS)
        return outcomes


class FakeSchedule:
    """Entries that are due daily."""

    def __init__(self, *names: str, hour: int = 12) -> None:
        self.entries = {name: daily(name, hour) for name in names}

    def changes(self) -> dict[str, Entry | None]:
        return {}

    def given_last_run(self, name: str) -> None:
        return None


def daily(name: str, hour: int) -> Entry:
    at = crontab(minute=0, hour=hour)
    source = ScheduleEntry(name=name, task="t", schedule=at, options={})
    return read_entry(source, Policy.COALESCE)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What time it is."""
    now = [MIDNIGHT]
    monkeypatch.setattr(memory_module, "now_us", lambda: now[0])
    return now


@pytest.fixture
def ledger(clock: list[int]) -> FakeLedger:
    return FakeLedger(clock)


def memory(ledger: FakeLedger, schedule: FakeSchedule) -> Memory:
    """Of a leader that was elected now, after it had copied where its entries stood."""
    fake: Any = ledger
    memory = Memory(fake, schedule, ClockWatch(5.0))
    for name, entry in schedule.entries.items():
        memory.note(name, LastRun(NOON - DAY_US, 1, NOON - DAY_US, entry.rule.fingerprint))
    memory.adopt(Tenure("a", 1, lambda: True))
    return memory


def test_what_fell_due_since_the_election_is_not_lost_to_another_schedule_before_it(
    clock: list[int], ledger: FakeLedger
) -> None:
    schedule = FakeSchedule("e")
    entry = schedule.entries["e"]
    begun = memory(ledger, schedule)
    ledger.runs["e"] = LastRun(NOON - HOUR_US, 5, NOON - HOUR_US, "another's")
    clock[0] = NOON + SECOND_US  # it was tried, and refused: the ledger has another last run
    assert begun.reread(["e"]) == set()
    assert entry.next_us() == NOON
    assert ledger.runs["e"] == entry.last_run
    assert entry.last_run is not None
    assert entry.last_run.count == 5


def test_a_schedule_that_changes_within_the_tenure_counts_from_then_on(
    clock: list[int], ledger: FakeLedger
) -> None:
    schedule = FakeSchedule("e")
    begun = memory(ledger, schedule)
    before = schedule.entries["e"]
    assert before.last_run is not None
    ledger.runs["e"] = before.last_run
    clock[0] = NOON - HOUR_US
    schedule.entries["e"] = daily("e", 10)
    begun.replace("e", before)
    # It is not known whether the enrolment was executed, so the entry is read again.
    begun.reread(["e"])
    assert schedule.entries["e"].next_us() == MIDNIGHT + DAY_US + 10 * HOUR_US


def test_an_enrolment_that_finds_another_run_is_told(clock: list[int], ledger: FakeLedger) -> None:
    schedule = FakeSchedule("e", "f")
    begun = memory(ledger, schedule)
    for name in ("e", "f"):
        before = schedule.entries[name]
        assert before.last_run is not None
        ledger.runs[name] = before.last_run
        schedule.entries[name] = daily(name, 13)
        begun.replace(name, before)
    ledger.runs["e"] = LastRun(NOON - HOUR_US, 5, NOON - HOUR_US, "another's")
    assert begun.enrol(["e", "f"]) == {"e"}
    assert begun.reread(["e"]) == set()
    assert ledger.runs["e"] == schedule.entries["e"].last_run


@pytest.mark.parametrize("known_before", [True, False])
def test_an_entry_that_somebody_removed_is_entered_anew_with_a_new_mark(
    clock: list[int], ledger: FakeLedger, known_before: bool
) -> None:
    schedule = FakeSchedule("e")
    begun = memory(ledger, schedule)
    if not known_before:
        schedule.entries["e"].last_run = None
    begun.reread(["e"])
    assert ledger.runs["e"] == schedule.entries["e"].last_run
    assert ledger.anew is known_before
