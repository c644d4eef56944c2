"""This machine's clock, beside Redis's and beside time that passes."""

from __future__ import annotations

import pytest

from celery_safe_leader._dispatch.health.clock_watch import ClockOffError, ClockWatch

NOW = 1_700_000_000_000_000
SECOND = 1_000_000


def compare(watch: ClockWatch, offset: float, *, took: float = 0.0) -> float:
    """Compare a clock that is ahead by so much; the answer took so long. Return ``off``."""
    before = NOW + round(offset * SECOND)
    watch.compare(before, NOW, before + round(took * SECOND))
    return watch.off


@pytest.mark.parametrize("offset", [-10.0, -4.0, 0.0, 4.0, 10.0])
def test_within_the_slack_nothing_is_wrong(offset: float) -> None:
    watch = ClockWatch(10.0)
    assert compare(watch, offset) == 0
    watch.check()


@pytest.mark.parametrize("offset", [-3600.0, -30.0, -10.1, 10.1, 20.0, 3600.0])
def test_beyond_it_the_clock_is_off_either_way(offset: float) -> None:
    watch = ClockWatch(10.0)
    assert compare(watch, offset) == offset
    with pytest.raises(ClockOffError) as raised:
        watch.check()
    assert raised.value.offset == offset
    assert ("ahead of" if offset > 0 else "behind") in str(raised.value)


def test_an_answer_that_takes_long_is_no_wrong_clock() -> None:
    watch = ClockWatch(5.0)
    assert compare(watch, -2.0, took=60.0) == 0
    assert compare(watch, -60.0, took=56.0) == 0


def test_a_clock_that_is_right_again_is_right() -> None:
    watch = ClockWatch(5.0)
    assert compare(watch, 20.0)
    assert compare(watch, 1.0) == 0


@pytest.mark.parametrize(("offset", "ahead"), [(20.0, 20.0), (-20.0, 0.0)])
def test_what_is_known_is_not_off_and_lets_runs_lie_further_ahead(
    offset: float, ahead: float
) -> None:
    watch = ClockWatch(5.0)
    compare(watch, offset)
    watch.accept(offset)
    assert watch.off == 0
    assert (watch.known, watch.ahead) == (offset, ahead)
    assert compare(watch, offset + 1.0) == 0
    assert watch.known == offset


def test_a_known_offset_that_grows_is_off_again_and_one_that_goes_is_forgotten() -> None:
    watch = ClockWatch(5.0)
    watch.accept(20.0)
    assert compare(watch, 30.0) == 30.0
    assert compare(watch, 0.5) == 0
    assert watch.known == 0
    assert compare(watch, 20.0) == 20.0


def test_an_answer_that_is_read_late_does_not_let_a_known_offset_be_forgotten() -> None:
    watch = ClockWatch(5.0)
    watch.accept(-8.0)
    assert compare(watch, -8.0, took=4.0) == 0
    assert watch.known == -8.0
    assert compare(watch, -8.0) == 0


@pytest.mark.parametrize("step", [-3600.0, -1.1, 1.1, 20.0])
def test_a_step_of_the_wall_clock_is_noticed_once(step: float) -> None:
    watch = ClockWatch(5.0)
    assert not watch.has_jumped(1000.0, 10.0)
    assert not watch.has_jumped(1060.4, 70.0)
    assert watch.has_jumped(1061.4 + step, 71.0)
    assert not watch.has_jumped(1062.4 + step, 72.0)


@pytest.mark.parametrize(("offset", "doubtful"), [(0.0, False), (4.9, False), (5.1, True)])
@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize("known", [0.0, 20.0, -20.0])
def test_a_look_at_both_clocks_is_in_doubt_if_they_are_not_apart_as_known(
    offset: float, doubtful: bool, way: int, known: float
) -> None:
    watch = ClockWatch(5.0)
    watch.accept(known)
    own = NOW / SECOND + known + way * offset
    assert watch.doubts(own, NOW) is doubtful
    assert (watch.known, watch.off) == (known, 0)


@pytest.mark.parametrize(("known", "limit"), [(0.0, None), (20.0, None), (-20.0, NOW + 5 * SECOND)])
def test_a_clock_that_is_behind_and_counts_says_what_lies_in_the_future(
    known: float, limit: int | None
) -> None:
    watch = ClockWatch(5.0)
    watch.accept(known)
    assert watch.in_future(NOW) == limit
