"""The count of lost and doubled runs, on which the demo's verdict rests."""

from __future__ import annotations

import random
from typing import Any

import pytest

from demo import tally

STEP = 250_000


def runs(*ranges: tuple[int, int]) -> list[Any]:
    """Executions for moments given as numbers on the grid."""
    return [
        tally.Execution(f"{first}-{last}-{place}", first * STEP, last * STEP)
        for place, (first, last) in enumerate(ranges)
    ]


def counted(executions: list[Any], **more: Any) -> tuple[int, int, int]:
    count = tally.tally("entry", executions, STEP, **more)
    assert count.ok == (not (count.lost or count.doubled or count.off_grid))
    return count.lost, count.doubled, count.off_grid


def test_ranges_laid_end_to_end_are_no_fault_in_any_order() -> None:
    executions = runs((1, 1), (2, 2), (3, 12), (13, 13))
    random.Random(4).shuffle(executions)
    assert counted(executions) == (0, 0, 0)
    assert tally.tally("entry", executions, STEP).moments == 13


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([(1, 1), (3, 3)], (1, 0, 0)),
        ([(1, 1), (12, 12)], (10, 0, 0)),
        ([(1, 3), (3, 5)], (0, 1, 0)),
        ([(1, 9), (4, 6)], (0, 3, 0)),
        ([(1, 9), (4, 6), (10, 10)], (0, 3, 0)),
        ([(1, 1), (1, 1)], (0, 1, 0)),
        ([(1, 1), (3, 3), (3, 3)], (1, 1, 0)),
    ],
)
def test_gaps_are_lost_and_overlaps_doubled(
    ranges: list[tuple[int, int]], expected: tuple[int, int, int]
) -> None:
    assert counted(runs(*ranges)) == expected


def test_an_occurrence_executed_twice_is_doubled() -> None:
    executions = runs((1, 1), (2, 2), (3, 3))
    assert counted([*executions, executions[1]]) == (0, 1, 0)


def test_a_run_between_two_due_moments_is_off_the_grid() -> None:
    early = tally.Execution("early", 3 * STEP + 1000, 3 * STEP + 1000)
    assert counted([*runs((1, 1), (2, 2), (3, 3)), early]) == (0, 0, 1)
    late = tally.Execution("late", 5 * STEP + 1000, 5 * STEP + 1000)
    assert counted([*runs((3, 3)), late]) == (2, 0, 1)


def test_runs_missing_at_the_ends_of_the_window_are_lost() -> None:
    executions = runs((10, 10), (11, 11))
    inside = tally.Window(10 * STEP - STEP // 2, 11 * STEP + STEP // 2)
    assert counted(executions, window=inside) == (0, 0, 0)
    wider = tally.Window(8 * STEP, 14 * STEP)
    assert counted(executions, window=wider) == (2 + 3, 0, 0)
    assert counted([], window=wider) == (6, 0, 0)


def test_without_headers_the_clock_estimates_and_the_count_is_never_ok() -> None:
    times = [1 * STEP, 2 * STEP + 9_000, 3 * STEP, 3 * STEP + 50_000, 6 * STEP]
    count = tally.tally_by_clock("entry", times, STEP)
    assert (count.lost, count.doubled) == (2, 1)
    even = tally.tally_by_clock("entry", [STEP, 2 * STEP, 3 * STEP], STEP)
    assert (even.lost, even.doubled) == (0, 0)
    assert not even.ok
    assert "no leader_covers" in even.problem
    assert "estimated by the clock" in tally.table([even])


def test_a_problem_is_told_in_words() -> None:
    assert tally.tally("entry", runs((1, 1), (3, 3), (3, 3)), STEP).problem == ("1 lost, 1 doubled")
    assert tally.tally("entry", runs((1, 1)), STEP).problem == ""
