"""What a leader does for entries that the schedule does not have: when, and a bit at a time."""

from __future__ import annotations

import gc
from collections.abc import Collection, Generator
from types import SimpleNamespace
from typing import Any

import pytest

from celery_safe_leader._dispatch.health.clock_watch import ClockWatch
from celery_safe_leader._dispatch.memory import memory as memory_module
from celery_safe_leader._dispatch.memory import upkeep as upkeep_module
from celery_safe_leader._dispatch.memory.memory import GRACE, Memory
from celery_safe_leader._dispatch.memory.upkeep import Upkeep
from celery_safe_leader._ledger.codec import LastRun
from celery_safe_leader._ledger.results import ForgetOutcome
from celery_safe_leader.errors import StoreRefusedError, StoreUnavailableError

NOW_US = 1_700_000_000_000_000
GRACE_US = round(GRACE * 1_000_000)
RUN = LastRun(1, 0, 1, "f")


class FakeLedger:
    """Forgets what it marked long ago, and counts requests."""

    key = "shop"

    def __init__(self) -> None:
        self.marks: dict[str, int] = {}
        self.runs: dict[str, LastRun] = {}
        self.notes: set[str] = set()
        self.refuses_notes = False
        self.requests: list[tuple[Any, ...]] = []

    def unknown(self, cursor: int = 0) -> tuple[int, dict[str, int]]:
        self.requests.append(("unknown", cursor))
        names = sorted(self.marks)[cursor : cursor + 2]
        return (cursor + 2 if cursor + 2 < len(self.marks) else 0), {
            name: self.marks[name] for name in names
        }

    def unknown_since(self, names: Collection[str]) -> dict[str, int]:
        self.requests.append(("since", list(names)))
        return {name: self.marks[name] for name in names if name in self.marks}

    def copy_next(self, cursor: int = 0) -> Any:
        self.requests.append(("names", cursor))
        names = sorted(self.runs)[cursor : cursor + 2]
        following = cursor + 2 if cursor + 2 < len(self.runs) else 0
        return SimpleNamespace(cursor=following, runs={name: self.runs[name] for name in names})

    def read(self, names: Collection[str]) -> dict[str, Any]:
        self.requests.append(("read", sorted(names)))
        return {name: (self.runs.get(name), None) for name in names}

    def forget(
        self, unknown: Collection[str], known: Collection[str] = (), *, grace: float
    ) -> dict[str, ForgetOutcome]:
        self.requests.append(("forget", sorted(unknown), sorted(known)))
        for name in known:
            del self.marks[name]
        outcomes = {}
        for name in unknown:
            gone = name in self.marks and NOW_US - self.marks[name] >= grace * 1_000_000
            outcomes[name] = ForgetOutcome.FORGOTTEN if gone else ForgetOutcome.MARKED
            if gone:
                del self.marks[name]
                self.runs.pop(name, None)
            else:
                self.marks[name] = NOW_US
        return outcomes

    def drop_next(self, names: Collection[str]) -> None:
        self.notes -= set(names)
        if self.refuses_notes and names:
            raise StoreRefusedError("shop", "NOPERM")


class FakeSchedule:
    """Has the entry ``known``."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {"known": object()}


class Leader:
    """Upkeep with all around it, from the beginning of a tenure at 0 s."""

    def __init__(self) -> None:
        self.ledger, self.schedule = FakeLedger(), FakeSchedule()
        fake: Any = self.ledger
        schedule: Any = self.schedule
        self.memory = Memory(fake, schedule, ClockWatch(5.0))
        self.upkeep = Upkeep(fake, schedule, self.memory, 0.0)

    def note(self, *names: str) -> None:
        for name in names:
            self.ledger.runs[name] = RUN
            self.memory.note(name, RUN)

    def turn(self, now: float) -> list[tuple[Any, ...]]:
        """Take a whole turn; return its requests."""
        self.ledger.requests.clear()
        while (pause := self.upkeep.step(now)) == upkeep_module._PAUSE:
            pass
        assert pause == upkeep_module._EVERY
        return list(self.ledger.requests)


@pytest.fixture
def leader(monkeypatch: pytest.MonkeyPatch) -> Leader:
    monkeypatch.setattr(upkeep_module, "now_us", lambda: NOW_US)
    monkeypatch.setattr(upkeep_module, "PIECE", 2)
    monkeypatch.setattr(upkeep_module, "_FORGET", 2)
    return Leader()


FIRST, HOUR = upkeep_module._FIRST_AFTER, upkeep_module._EVERY


def test_it_begins_a_little_after_the_tenure_with_one_look(leader: Leader) -> None:
    assert leader.upkeep.step(0.0) == FIRST
    assert leader.ledger.requests == []
    assert leader.turn(FIRST) == [("unknown", 0)]


def test_without_such_entries_there_is_no_further_request(leader: Leader) -> None:
    leader.turn(FIRST)
    leader.ledger.requests.clear()
    for hour in range(1, 30):
        assert leader.upkeep.step(FIRST + hour * HOUR) > 0
    assert leader.ledger.requests == []


def test_entries_that_went_begin_their_grace_period_within_an_hour(leader: Leader) -> None:
    leader.turn(FIRST)
    leader.note("gone")
    assert 0 < leader.upkeep.step(FIRST + 1.0) < HOUR
    looks: list[tuple[Any, ...]] = [("unknown", 0), ("since", ["gone"])]
    assert leader.turn(FIRST + HOUR) == [*looks, ("forget", ["gone"], [])]
    # It is marked now, and need not be written of before the period is over.
    assert leader.turn(FIRST + 2 * HOUR) == looks
    leader.ledger.marks["gone"] = NOW_US - GRACE_US
    assert leader.turn(FIRST + 3 * HOUR) == [*looks, ("forget", ["gone"], [])]
    assert leader.memory.foreign == set()


@pytest.mark.parametrize("refuses", [False, True])
def test_with_an_entry_goes_the_note_that_a_leader_left_of_its_next_moment(
    leader: Leader, refuses: bool
) -> None:
    leader.note("long gone", "gone")
    leader.ledger.notes, leader.ledger.refuses_notes = {"long gone", "gone", "known"}, refuses
    leader.ledger.marks = {"long gone": NOW_US - GRACE_US, "gone": NOW_US - 1}
    leader.turn(FIRST)
    assert leader.memory.foreign == {"gone"}
    assert leader.ledger.notes == {"gone", "known"}


def test_many_that_went_are_reason_enough_for_a_turn_at_once(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "_MANY", 3)
    leader.turn(FIRST)
    leader.note("a", "b")
    assert leader.upkeep.step(FIRST + 1) > 0
    leader.note("c")
    requests = leader.turn(FIRST + 2)
    assert names_of(requests) == ["a", "b", "c"]
    # They are no reason for another one.
    leader.ledger.requests.clear()
    assert leader.upkeep.step(FIRST + 3) > 0
    assert leader.ledger.requests == []


def test_it_does_one_request_at_a_time(leader: Leader) -> None:
    leader.note("a", "b", "c", "d", "e")
    done = []
    for _ in range(4):
        before = len(leader.ledger.requests)
        assert leader.upkeep.step(FIRST) == upkeep_module._PAUSE
        done.append(len(leader.ledger.requests) - before)
    assert done == [1, 1, 1, 1]


def test_an_entry_that_is_known_again_loses_its_mark(leader: Leader) -> None:
    leader.ledger.marks = {"known": NOW_US - 2 * GRACE_US, "x": NOW_US, "y": NOW_US}
    assert ("forget", [], ["known"]) in leader.turn(FIRST)
    assert leader.ledger.marks.keys() == {"x", "y"}


def test_one_that_comes_back_in_the_middle_of_a_turn_is_not_forgotten(leader: Leader) -> None:
    leader.note("a")
    leader.ledger.marks["a"] = NOW_US - GRACE_US
    assert leader.upkeep.step(FIRST) == upkeep_module._PAUSE  # it has looked
    leader.schedule.entries["a"] = object()
    assert names_of(leader.turn(FIRST)) == []


def test_of_marks_no_more_than_a_piece_is_kept(leader: Leader) -> None:
    """Where names come and go there are a hundred thousand of them, and a thousand here."""
    gone = [f"gone-{n:03}" for n in range(200)]
    leader.ledger.marks = dict.fromkeys(gone, NOW_US)
    leader.ledger.runs = dict.fromkeys(gone, RUN)
    leader.memory.has_more = True
    most = 0
    while leader.upkeep.step(FIRST) == upkeep_module._PAUSE:
        most = max(most, kept_by(leader.upkeep._turn))
    assert len(leader.ledger.requests) == 100 + 2 * 100
    assert 0 < most <= 20


def kept_by(turn: object) -> int:
    """Count the names in the containers that a turn holds, and those in the turns within it."""
    count = 0
    for each in gc.get_referents(turn):
        if isinstance(each, (dict, list, set)):
            count += sum(str(name).startswith("gone-") for name in each)
        elif isinstance(each, Generator):
            count += kept_by(each)
    return count


def test_a_mark_that_cannot_be_right_is_made_anew(leader: Leader) -> None:
    leader.note("a")
    leader.ledger.marks["a"] = 2**53
    assert ("forget", ["a"], []) in leader.turn(FIRST)


def test_what_was_copied_and_may_have_run_since_is_read_first(leader: Leader) -> None:
    leader.note("a", "b", "c")
    leader.memory.lagging = {"a", "b", "c"}
    later = LastRun(2, 1, 1, "f")
    leader.ledger.runs["b"] = later
    del leader.ledger.runs["c"]
    requests = leader.turn(FIRST)
    assert [what for what, *_ in requests[:3]] == ["read", "read", "unknown"]
    assert leader.memory.lagging == set()
    assert leader.memory._foreign_runs == {"a": RUN, "b": later}


def test_a_turn_that_failed_is_over(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    leader.note("a")
    with monkeypatch.context() as patch:
        patch.setattr(leader.ledger, "unknown", lambda cursor=0: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            leader.upkeep.step(FIRST)
    assert 0 < leader.upkeep.step(FIRST + 1) < upkeep_module._AGAIN < HOUR
    assert ("forget", ["a"], []) in leader.turn(FIRST + upkeep_module._AGAIN)


@pytest.fixture
def forgetful(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> Leader:
    """It remembers three entries outside the schedule; the ledger has five, and a known one."""
    monkeypatch.setattr(memory_module, "MOST_FOREIGN", 3)
    leader.note("a", "b", "c", "d", "e")
    leader.ledger.runs["known"] = RUN
    return leader


def names_of(requests: list[tuple[Any, ...]]) -> list[str]:
    """Return the entries that are to be forgotten."""
    return sorted(name for kind, *rest in requests if kind == "forget" for name in rest[0])


def test_it_marks_also_what_only_the_ledger_has(forgetful: Leader) -> None:
    assert forgetful.memory.foreign == {"c", "d", "e"}
    assert names_of(forgetful.turn(FIRST)) == ["a", "b", "c", "d", "e"]
    assert names_of(forgetful.turn(FIRST + HOUR)) == []


def test_it_forgets_also_what_only_the_ledger_has_and_looks_no_further(forgetful: Leader) -> None:
    forgetful.turn(FIRST)
    forgetful.ledger.marks = dict.fromkeys(forgetful.ledger.marks, NOW_US - GRACE_US)
    assert names_of(forgetful.turn(FIRST + HOUR)) == ["a", "b", "c", "d", "e"]
    assert [*forgetful.ledger.runs] == ["known"]
    assert forgetful.memory.foreign == set()
    forgetful.turn(FIRST + 2 * HOUR)
    assert forgetful.turn(FIRST + 3 * HOUR) == []
    assert not forgetful.memory.has_more


def test_what_is_dropped_from_the_memory_in_the_middle_of_a_turn_is_found_in_the_next(
    forgetful: Leader,
) -> None:
    for _ in range(100):
        if ("names", 4) not in forgetful.ledger.requests:
            forgetful.upkeep.step(FIRST)
    forgetful.note("f")  # and so the first one goes, which the turn has passed
    forgetful.turn(FIRST)
    assert forgetful.memory.has_more
    assert forgetful.memory.foreign == {"d", "e", "f"}


def test_a_turn_that_fails_is_taken_again(forgetful: Leader) -> None:
    answer = forgetful.ledger.copy_next

    def fail(cursor: int = 0) -> Any:
        raise StoreUnavailableError("shop", "no answer")

    forgetful.ledger.copy_next = fail  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        forgetful.turn(FIRST)
    assert forgetful.memory.has_more
    forgetful.ledger.copy_next = answer  # type: ignore[method-assign]
    assert names_of(forgetful.turn(FIRST + upkeep_module._AGAIN)) == ["a", "b"]
