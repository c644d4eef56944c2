"""When a leader looks at the ledger itself, and when the looks of its renewals suffice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import LedgerLook
from celery_safe_leader._dispatch.health.clock_watch import SLACK, ClockWatch
from celery_safe_leader._dispatch.records import Records
from celery_safe_leader._ledger.errors import GenerationChangedError
from celery_safe_leader._ledger.results import Written
from celery_safe_leader._schedules.moments import now_us

TTL = 9.0
THIRD = TTL / 3
START = Instant(0.0, 0.0, 0.0)


class FakeLedger:
    """A ledger that only counts its writes."""

    ttl = TTL
    key = "shop"

    def __init__(self) -> None:
        self.writes = 0
        self.lost = False

    def is_as_left(self, look: LedgerLook) -> bool:
        return look.runs == b"left"

    def write(
        self, commits: Sequence[object], claims: Sequence[object], *, ahead: float
    ) -> Written:
        self.writes += 1
        if self.lost:
            raise GenerationChangedError("shop", "lost")
        return Written((), (), now_us())


class Tenure:
    """Records of one tenure, the time, and what renewals saw last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.look: LedgerLook | None = None
        self.ledger = FakeLedger()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        ledger: Any = self.ledger
        self.records = Records(ledger, ClockWatch(SLACK), lambda: self.look)

    def sees(self, runs: bytes, redis_us: int = 0) -> None:
        self.look = LedgerLook(START, runs, runs, redis_us)


@pytest.fixture
def tenure(monkeypatch: pytest.MonkeyPatch) -> Tenure:
    return Tenure(monkeypatch)


def test_without_looks_it_looks_itself_each_third_of_the_ttl(tenure: Tenure) -> None:
    assert tenure.records.check_in() == pytest.approx(THIRD)
    tenure.now += THIRD - 0.5
    assert tenure.records.check_in() == pytest.approx(0.5)
    tenure.now += 0.5
    assert tenure.records.check_in() == 0
    tenure.records.check()
    assert tenure.records.check_in() == pytest.approx(THIRD)


def test_with_looks_it_asks_for_nothing(tenure: Tenure) -> None:
    for _ in range(100):
        tenure.now += THIRD + 0.2  # a look is sent after a third, and takes its time
        tenure.sees(b"left")
        assert tenure.records.check_in() > THIRD
    assert tenure.ledger.writes == 0


@pytest.mark.parametrize("seen", [b"", b"other"])
def test_a_look_that_shows_something_else_makes_it_ask_at_once(tenure: Tenure, seen: bytes) -> None:
    tenure.sees(b"left")
    tenure.records.check_in()
    tenure.now += THIRD
    tenure.sees(seen)
    assert tenure.records.check_in() == 0
    tenure.records.check()
    # It was an older look, or was restored meanwhile: the same one is not judged again.
    assert tenure.records.check_in() > THIRD


def test_it_asks_until_it_has_an_answer(tenure: Tenure) -> None:
    tenure.sees(b"")
    tenure.ledger.lost = True
    for _ in range(2):
        assert tenure.records.check_in() == 0
        with pytest.raises(GenerationChangedError):
            tenure.records.check()
    tenure.sees(b"left")
    assert tenure.records.check_in() > 0, "restored"


def test_looks_that_end_are_replaced_by_its_own(tenure: Tenure) -> None:
    tenure.sees(b"left")
    assert tenure.records.check_in() == pytest.approx(2 * THIRD)
    tenure.look = None
    assert tenure.records.check_in() == pytest.approx(THIRD)
    tenure.sees(b"left")
    tenure.records.check_in()
    tenure.now += 2 * THIRD
    assert tenure.records.check_in() == 0, "no renewal was answered for so long"


@pytest.mark.parametrize("redis_us", [-6_000_000, 6_000_000])
def test_a_look_that_shows_another_time_than_this_machines_makes_it_compare_at_once(
    tenure: Tenure, redis_us: int
) -> None:
    tenure.sees(b"left", redis_us)
    assert tenure.records.check_in() == 0
    tenure.records.check()
    assert tenure.records.check_in() > 0
