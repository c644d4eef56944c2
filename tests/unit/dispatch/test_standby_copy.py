"""The rules of a standby's copy: when it counts, what has to be read all the same, and its pace."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
from celery.beat import ScheduleEntry
from celery.schedules import schedule

from celery_safe_leader._beat.entries.entry import read_entry
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.health.clock_watch import ClockWatch
from celery_safe_leader._dispatch.memory import standby_copy as copy_module
from celery_safe_leader._dispatch.memory.memory import Memory
from celery_safe_leader._dispatch.memory.standby_copy import StandbyCopy
from celery_safe_leader._ledger.codec import LastRun
from celery_safe_leader._ledger.results import Adoption, Condition, CopiedPiece, LedgerState
from celery_safe_leader._schedules.missed import Policy
from celery_safe_leader._schedules.moments import DAY_US, SECOND_US

NOW = 20_000 * DAY_US
STATE = LedgerState("epoch", "mark", 3)
PIECE = 2


class Own(schedule):
    """A class of the user's."""

    def is_due(self, last_run_at: Any) -> Any:
        raise NotImplementedError


class Broken:
    """A rule that raises."""

    exact = True

    def __init__(self, rule: Any) -> None:
        self.fingerprint = rule.fingerprint

    def after(self, moment_us: int) -> int:
        return moment_us // 0


class FakeLedger:
    """A ledger that is read in pieces of two entries."""

    key = "shop"

    def __init__(self) -> None:
        self.state, self.now = STATE, NOW
        self.runs: dict[str, LastRun] = {}
        self.unreadable: dict[str, bytes] = {}
        self.asked: list[Any] = []

    def copy_next(self, cursor: int = 0) -> CopiedPiece:
        self.asked.append(cursor)
        names = sorted(self.runs)
        piece = {name: self.runs[name] for name in names[cursor : cursor + PIECE]}
        following = cursor + PIECE if cursor + PIECE < len(names) else 0
        return CopiedPiece(self.state, self.now, following, piece, self.unreadable)

    def copy_entries(self, entries: Collection[str]) -> CopiedPiece:
        self.asked.append(list(entries))
        found = {name: self.runs[name] for name in entries if name in self.runs}
        return CopiedPiece(self.state, self.now, 0, found, {})


class FakeSchedule:
    """Entries that are due daily, half a day from now."""

    def __init__(self, *names: str) -> None:
        self.entries = {name: entry(name) for name in names}
        self.changed: dict[str, Entry | None] = {}

    def changes(self) -> dict[str, Entry | None]:
        changed, self.changed = self.changed, {}
        return changed

    def set(self, name: str, new: Entry | None) -> None:
        self.changed[name] = self.entries.pop(name, None)
        if new is not None:
            self.entries[name] = new

    def given_last_run(self, name: str) -> None:
        return None


def entry(name: str, every: schedule | None = None) -> Entry:
    source = ScheduleEntry(name=name, task="t", schedule=every or schedule(86_400), options={})
    return read_entry(source, Policy.COALESCE)


class Standby:
    """A copy with all around it: entries ``a`` to ``c`` of which none is due."""

    def __init__(self) -> None:
        self.ledger, self.schedule = FakeLedger(), FakeSchedule("a", "b", "c")
        fake: Any = self.ledger
        self.memory = Memory(fake, self.schedule, ClockWatch(5.0))
        self.copy = StandbyCopy(fake, self.schedule, self.memory)
        for name, each in self.schedule.entries.items():
            self.ledger.runs[name] = self.run(each)

    def run(self, of: Entry, ago_us: int = DAY_US // 2) -> LastRun:
        return LastRun(NOW - ago_us, 1, NOW - ago_us, of.rule.fingerprint)

    def step(self) -> float:
        return self.copy.step(lambda: True)

    def complete(self) -> Standby:
        assert self.step() == copy_module._LOOK_EVERY
        return self

    def why_useless(self, **found: Any) -> str:
        condition = found.pop("condition", Condition.WHOLE)
        redis_us = found.pop("redis_us", NOW)
        state = STATE._replace(**found)
        adoption = Adoption(condition, state.entries, 0, state.mark, epoch=state.epoch)
        return self.copy.why_useless(adoption, redis_us)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What time it is."""
    now = [NOW]
    monkeypatch.setattr(copy_module, "now_us", lambda: now[0])
    return now


@pytest.fixture
def standby(clock: list[int], monkeypatch: pytest.MonkeyPatch) -> Standby:
    monkeypatch.setattr(copy_module, "PIECE", PIECE)
    return Standby()


# When it counts


def test_a_copy_of_this_ledger_counts_and_nothing_has_to_be_read(standby: Standby) -> None:
    standby.complete()
    assert standby.why_useless() == ""
    assert standby.copy.to_read(NOW + SECOND_US) == set()
    moments = {name: each.next_us() for name, each in standby.schedule.entries.items()}
    assert moments == dict.fromkeys("abc", NOW + DAY_US // 2)
    timetable = standby.copy.hand_over()
    assert set(timetable.pop_all(NOW + DAY_US)) == {"a", "b", "c"}
    assert standby.why_useless() == "there is no copy", "it is used up"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"epoch": "other"}, "restarted or failed over"),
        ({"epoch": ""}, "restarted or failed over"),
        ({"mark": "other"}, "set back or removed"),
        ({"mark": ""}, "set back or removed"),
        ({"entries": 2}, "other entries"),
        ({"entries": 4}, "other entries"),
        ({"condition": Condition.TORN}, "do not belong together"),
        ({"condition": Condition.PARTIAL}, "died while restoring"),
        ({"condition": Condition.NEW}, "there was no ledger"),
        ({"redis_us": NOW - 1}, "clock was set back"),
    ],
)
def test_each_sign_of_another_ledger_is_a_reason_to_read_all(
    standby: Standby, found: dict[str, Any], why: str
) -> None:
    assert why in standby.complete().why_useless(**found)


def test_a_copy_of_another_app_s_ledger_is_told_of_once_before_this_standby_is_elected(
    standby: Standby, caplog: pytest.LogCaptureFixture
) -> None:
    standby.complete()
    assert "in this beat's schedule" not in caplog.text
    standby.copy.drop()
    standby.ledger.runs = {"theirs": standby.run(entry("theirs"))}
    standby.complete()
    standby.copy.drop()
    standby.complete()
    (told,) = [each for each in caplog.messages if "in this beat's schedule" in each]
    assert "has 1 entry, but it is not in this beat's schedule: 'theirs'" in told


def test_a_copy_that_is_not_there_or_not_complete_is_a_reason_as_well(
    standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert standby.why_useless() == "there is no copy"
    monkeypatch.setattr(copy_module, "_FEWEST_PIECES", 1)
    assert standby.step() == copy_module._STEP_EVERY
    assert standby.why_useless() == "the copy was not complete"
    standby.complete()
    assert standby.why_useless() == ""


@pytest.mark.parametrize("found", [{"epoch": "other"}, {"mark": "other"}, {"entries": 9}])
def test_a_piece_of_another_ledger_drops_the_copy_and_the_next_step_begins_anew(
    standby: Standby, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]
) -> None:
    monkeypatch.setattr(copy_module, "_FEWEST_PIECES", 1)
    standby.step()
    standby.ledger.state = STATE._replace(**found)
    assert standby.step() == copy_module._STEP_EVERY
    assert standby.why_useless(**found) == "there is no copy"
    standby.step()
    standby.complete()
    assert standby.why_useless(**found) == ""


@pytest.mark.parametrize("found", [{"epoch": "other"}, {"mark": "other"}, {"entries": 9}])
def test_a_look_at_another_ledger_drops_the_copy(standby: Standby, found: dict[str, Any]) -> None:
    standby.complete()
    standby.ledger.state = STATE._replace(**found)
    assert standby.step() == copy_module._STEP_EVERY
    assert standby.why_useless(**found) == "there is no copy"
    standby.complete()
    assert standby.why_useless(**found) == ""


def test_a_look_by_a_clock_that_was_set_back_drops_the_copy(standby: Standby) -> None:
    standby.complete()
    standby.ledger.now -= 1
    standby.step()
    assert standby.why_useless() == "there is no copy"


@pytest.mark.parametrize("found", [{"epoch": ""}, {"mark": ""}])
def test_a_ledger_that_cannot_be_told_from_another_is_not_copied_and_asked_ever_more_rarely(
    standby: Standby, found: dict[str, Any]
) -> None:
    standby.ledger.state = STATE._replace(**found)
    assert [standby.step() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert standby.ledger.asked == [0] * 8
    assert standby.why_useless(**found) == "there is no copy"


# What is read at the election all the same


def test_what_fell_due_is_read(standby: Standby) -> None:
    standby.ledger.runs["b"] = standby.run(standby.schedule.entries["b"], DAY_US)
    standby.complete()
    assert standby.copy.to_read(NOW + SECOND_US) == {"b"}
    assert standby.copy.to_read(NOW + DAY_US) == {"a", "b", "c"}
    # Again, if they could not be read.
    assert standby.copy.to_read(NOW + SECOND_US) == {"a", "b", "c"}
    assert standby.copy.hand_over().pop_all(NOW + 9 * DAY_US) == []


def missing(standby: Standby) -> None:
    del standby.ledger.runs["b"]


def in_the_future(standby: Standby) -> None:
    run = standby.ledger.runs["b"]
    standby.ledger.runs["b"] = replace(run, moment=NOW + 1)


def of_another_schedule(standby: Standby) -> None:
    standby.ledger.runs["b"] = replace(standby.ledger.runs["b"], fingerprint="another")


def of_an_unknown_class(standby: Standby) -> None:
    new = entry("b", Own(86_400))
    standby.schedule.entries["b"] = new
    standby.ledger.runs["b"] = standby.run(new)


def that_cannot_be_read(standby: Standby) -> None:
    del standby.ledger.runs["b"]
    standby.ledger.unreadable["b"] = b"x"


def whose_schedule_fails(standby: Standby) -> None:
    broken: Any = Broken(standby.schedule.entries["b"].rule)
    standby.schedule.entries["b"].rule = broken


UNSURE = [
    missing,
    in_the_future,
    of_another_schedule,
    of_an_unknown_class,
    that_cannot_be_read,
    whose_schedule_fails,
]


@pytest.mark.parametrize("how", UNSURE, ids=lambda how: how.__name__)
def test_an_entry_of_which_the_copy_does_not_say_when_it_is_due_is_read(
    standby: Standby, how: Any
) -> None:
    how(standby)
    standby.complete()
    assert standby.copy.to_read(NOW + SECOND_US) == {"b"}


def test_what_is_not_in_the_ledger_any_more_is_not_remembered_from_an_earlier_copy(
    standby: Standby,
) -> None:
    standby.complete()
    del standby.ledger.runs["b"]
    standby.ledger.state = state = STATE._replace(mark="other", entries=2)
    standby.step()
    standby.complete()
    assert standby.why_useless(**state._asdict()) == ""
    assert standby.schedule.entries["b"].last_run is None
    assert standby.copy.to_read(NOW) == {"b"}


def test_entries_that_change_on_standby_keep_their_place(standby: Standby) -> None:
    standby.complete()
    standby.schedule.set("a", entry("a"))
    standby.schedule.set("b", entry("b", schedule(3600)))
    standby.schedule.set("new", entry("new"))
    gone = standby.schedule.entries["c"].last_run
    standby.schedule.set("c", None)
    assert standby.copy.to_read(NOW) == {"b", "new"}
    assert standby.memory.foreign == {"c"}
    standby.schedule.set("c", entry("c"))
    assert standby.copy.to_read(NOW) == {"b", "new"}
    assert standby.schedule.entries["c"].last_run == gone
    assert standby.memory.foreign == set()


def test_entries_that_change_while_they_are_copied_are_followed(
    standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "_FEWEST_PIECES", 1)
    standby.step()  # a and b
    standby.schedule.set("a", None)
    standby.schedule.set("c", entry("c", schedule(3600)))
    standby.schedule.set("d", entry("d"))
    standby.complete()
    assert standby.copy.to_read(NOW) == {"c", "d"}
    assert standby.memory.foreign == {"a"}


# Its pace


def test_all_is_copied_within_a_minute(standby: Standby) -> None:
    fingerprint = standby.schedule.entries["a"].rule.fingerprint
    count = 500 * PIECE
    for n in range(count):
        standby.ledger.runs[f"entry-{n:05}"] = LastRun(NOW, 0, NOW, fingerprint)
    standby.ledger.state = STATE._replace(entries=len(standby.ledger.runs))
    steps = 1
    while standby.step() == copy_module._STEP_EVERY:
        steps += 1
    assert steps <= 60
    pieces = len(standby.ledger.asked)
    assert pieces == -(-len(standby.ledger.runs) // PIECE), "each once"
    assert max(copy_module._FEWEST_PIECES, -(-pieces // 60)) * steps >= pieces


def test_once_a_minute_it_looks_and_reads_again_what_fell_due(
    standby: Standby, clock: list[int]
) -> None:
    standby.complete()
    standby.ledger.asked.clear()
    assert standby.step() == copy_module._LOOK_EVERY
    assert standby.ledger.asked == [[]]
    clock[0] = standby.ledger.now = NOW + DAY_US // 2
    standby.ledger.runs["b"] = replace(standby.ledger.runs["b"], moment=clock[0], seen=NOW)
    assert standby.step() == copy_module._LOOK_EVERY
    assert sorted(standby.ledger.asked[1] + standby.ledger.asked[2]) == ["a", "b", "c"]
    # Of the others nobody has run a thing; they are read at the election.
    assert standby.copy.to_read(clock[0]) == {"a", "c"}


def test_an_election_ends_a_step_and_nothing_is_forgotten(
    standby: Standby, clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    standby.complete()
    clock[0] += DAY_US
    standby.ledger.asked.clear()
    standby.copy.step(lambda: False)
    assert standby.ledger.asked == []
    assert standby.copy.to_read(NOW) == {"a", "b", "c"}


def test_what_fell_due_is_read_again_over_several_steps_if_it_is_much(
    standby: Standby, clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "_FEWEST_PIECES", 1)
    while standby.step() == copy_module._STEP_EVERY:
        pass
    clock[0] += DAY_US
    assert standby.step() == copy_module._STEP_EVERY
    assert standby.step() == copy_module._LOOK_EVERY
