"""When the mixin asks Redis for its clock, and what it makes of the answer."""

from __future__ import annotations

import pytest

from celery_safe_leader._beat.mixin import mixin_clock
from celery_safe_leader._beat.mixin.mixin_clock import MixinClock
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import LedgerLook
from celery_safe_leader._dispatch.health.clock_watch import ClockOffError
from celery_safe_leader.errors import StoreUnavailableError

TTL = 3.0


class Clocks:
    """This machine's two clocks and Redis's, in seconds; how often Redis was asked."""

    def __init__(self) -> None:
        self.now, self.ahead, self.asked = 1_000.0, 0.0, 0
        self.away = False

    def monotonic(self) -> float:
        return self.now

    def wall_us(self) -> int:
        return round((self.now + self.ahead) * 1_000_000)

    def redis_us(self) -> int:
        self.asked += 1
        if self.away:
            raise StoreUnavailableError("shop", "no answer")
        return round(self.now * 1_000_000)

    def look(self) -> LedgerLook:
        """Return what a renewal sees now."""
        at = Instant(self.now, self.now, self.now + self.ahead)
        return LedgerLook(at, b"", b"", round(self.now * 1_000_000))


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(mixin_clock, "now_us", clocks.wall_us)
    monkeypatch.setattr(mixin_clock, "time", clocks)
    return clocks


@pytest.fixture
def clock(clocks: Clocks) -> MixinClock:
    clock = MixinClock(TTL, clocks.redis_us)
    clock.begin()
    return clock


def better(_: int) -> bool:
    return True


def nobody_better(_: int) -> bool:
    return False


def no_call(since: int) -> bool:
    raise AssertionError(f"asked who led since {since}")


def test_redis_is_asked_once_while_renewals_tell_the_same(
    clocks: Clocks, clock: MixinClock
) -> None:
    assert clock.wants_check(None)
    assert not clock.check(7, no_call)
    for _ in range(10):
        assert not clock.wants_check(clocks.look())
        clocks.now += TTL / 3
    assert clocks.asked == 1


def test_where_renewals_tell_nothing_it_is_asked_itself(clocks: Clocks, clock: MixinClock) -> None:
    for _ in range(40):
        if clock.wants_check(None):
            clock.check(7, no_call)
        clocks.now += TTL / 10
    assert 6 <= clocks.asked <= 7


@pytest.mark.parametrize("ahead", [-3600.0, -30.0, 20.0, 3600.0])
def test_a_clock_that_is_off_by_the_look_of_it_is_compared_and_found_off(
    clocks: Clocks, clock: MixinClock, ahead: float
) -> None:
    clock.check(7, no_call)
    clocks.ahead = ahead
    assert clock.wants_check(clocks.look())
    with pytest.raises(ClockOffError) as raised:
        clock.check(7, no_call)
    assert raised.value.offset == pytest.approx(ahead)
    # In the next tenure: somebody led well meanwhile, or nobody did.
    clock.begin()
    with pytest.raises(ClockOffError):
        clock.check(9, better)
    clock.begin()
    assert clock.check(11, nobody_better)
    clocks.now += TTL
    assert not clock.wants_check(clocks.look())


def test_a_small_step_is_told_once(clocks: Clocks, clock: MixinClock) -> None:
    clock.wants_check(None)
    clock.check(7, no_call)
    clocks.ahead = -4.0
    assert clock.wants_check(clocks.look())
    assert clock.check(7, no_call)
    assert not clock.wants_check(clocks.look())
    assert not clock.check(7, no_call)


def test_a_redis_that_does_not_answer_is_no_reason(clocks: Clocks, clock: MixinClock) -> None:
    clocks.away, clocks.ahead = True, 3600.0
    assert clock.wants_check(None)
    assert not clock.check(7, no_call)
    clocks.away = False
    clocks.now += TTL
    assert clock.wants_check(None)
    with pytest.raises(ClockOffError):
        clock.check(7, no_call)
