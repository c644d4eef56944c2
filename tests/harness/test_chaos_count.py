"""The count of the end-to-end tests finds each thing that it is there to find."""

from __future__ import annotations

from dataclasses import replace

from tests.support.celery.chaos import Execution, Grid, doubles, problems

GRIDS = {"tick": Grid(start=1_000, step=10)}
RIGHT = [
    Execution("tick", "a", 1_000, 1_000, "p1", 1, 0.0),
    Execution("tick", "b", 1_010, 1_030, "p2", 1, 0.0),
    Execution("tick", "c", 1_040, 1_040, "p3", 2, 0.0),
]


def test_ranges_end_to_end_are_right_in_any_order() -> None:
    assert problems(RIGHT, GRIDS, 1_049) == []
    assert problems(reversed(RIGHT), GRIDS, 1_049) == []


def test_missing_moments_are_lost_wherever_they_are() -> None:
    for missing in range(3):
        runs = [run for run in RIGHT if run != RIGHT[missing]]
        assert "lost" in problems(runs, GRIDS, 1_040)[0]
    assert problems(RIGHT, GRIDS, 1_050) == ["tick: lost from 1050 to 1050"]
    assert problems([], GRIDS, 1_000) == ["tick: lost from 1000 to 1000"]


def test_an_occurrence_that_was_executed_again_is_a_double() -> None:
    runs = [*RIGHT, replace(RIGHT[1], publication="p4")]
    assert doubles(runs) == ["b"]
    assert problems(runs, GRIDS, 1_040) == ["b was executed more than once"]
    assert problems(runs, GRIDS, 1_040, may_double=True) == []


def test_another_occurrence_of_the_same_moments_is_always_wrong() -> None:
    runs = [*RIGHT, replace(RIGHT[1], occurrence="d", last=1_010)]
    assert "doubled" in problems(runs, GRIDS, 1_040, may_double=True)[0]


def test_moments_beside_the_grid_and_unknown_entries_are_wrong() -> None:
    beside = [*RIGHT[:2], replace(RIGHT[2], last=1_045)]
    assert "not on its grid" in problems(beside, GRIDS, 1_040)[0]
    assert problems([*RIGHT, replace(RIGHT[0], entry="other", occurrence="x")], GRIDS, 1_040) == [
        "other: nobody knows this entry"
    ]


def test_a_line_is_read_as_it_was_written() -> None:
    line = "tick\tb\t1010,1030\tp2\t7\t1.500000"
    assert Execution.of_line(line) == Execution("tick", "b", 1_010, 1_030, "p2", 7, 1.5)
