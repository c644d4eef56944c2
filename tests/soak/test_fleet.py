"""The judge of the fleet finds each thing that it is there to find."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.soak.fleet.__main__ import grown
from tests.soak.fleet.app import EffectRun, PeriodicRun
from tests.soak.fleet.judge import judge_effects, judge_periodic, let_through
from tests.support.celery.chaos import Execution, Grid

GRIDS = {"tick": Grid(1_000, 10)}


def effect(call: str, began: float, token: int = 7, **more: object) -> EffectRun:
    run = EffectRun(call, token, f"host:{token}", began, 2.0, "written", "w", 0, False, 0)
    return replace(run, **more)  # type: ignore[arg-type]


def periodic(number: int, publication: str = "", **more: object) -> PeriodicRun:
    moment = 1_000 + 10 * number
    name = publication or f"p{number}"
    execution = Execution("tick", f"o{number}", moment, moment, name, 7, float(number))
    return replace(PeriodicRun(execution, float(number), "w", False), **more)  # type: ignore[arg-type]


EFFECTS = [effect(f"c{n}", float(n), token=7 + n // 5) for n in range(10)]
SENT = {run.call for run in EFFECTS}
RUNS = [periodic(number) for number in range(10)]


def test_each_call_and_each_run_once_is_right() -> None:
    assert judge_effects(SENT, set(), EFFECTS, []).problems == []
    assert judge_periodic(RUNS, GRIDS, 1_090, set(), []).problems == []


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        (EFFECTS[1:], "c0 was lost"),
        ([*EFFECTS, effect("c9", 20.0, token=8)], "c9 ran again for no reason"),
        ([*EFFECTS, effect("other", 20.0, token=8)], "nobody sent other"),
        ([*EFFECTS[:-1], effect("c9", 9.0, token=7)], "c9 began under token 7 after token 8 ran"),
        ([*EFFECTS[:-1], effect("c9", 9.0, token=8, candidate="x")], "token 8 of host:8 and x"),
        ([*EFFECTS[:-1], effect("c9", 9.0, token=8, outcome="refused")], "c9 was lost"),
    ],
)
def test_what_is_wrong_with_calls_is_named(runs: list[EffectRun], problem: str) -> None:
    problems = judge_effects(SENT, set(), runs, []).problems
    assert any(line.startswith(problem) for line in problems), problems


@pytest.mark.parametrize(
    ("again", "restarts"),
    [
        ({"redelivered": True}, []),
        ({"retries": 1}, []),
        ({"forwards": 1}, []),
        ({}, [15.0]),
    ],
)
def test_what_the_broker_delivers_again_is_its_own(
    again: dict[str, object], restarts: list[float]
) -> None:
    run = effect("c9", 20.0, token=8, outcome="again", **again)
    verdict = judge_effects(SENT, set(), [*EFFECTS, run], restarts)
    assert verdict.problems == []
    assert sum(verdict.counts["runs again"].values()) == 1  # type: ignore[attr-defined]


def test_a_run_under_an_old_token_whose_lease_was_over_is_no_second_leader() -> None:
    runs = [*EFFECTS[:-1], effect("c9", 9.0, token=7, left=0.0, outcome="refused")]
    runs.append(effect("c9", 10.0, token=8, retries=1))
    assert judge_effects(SENT, set(), runs, []).problems == []


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        (RUNS[:5] + RUNS[6:], "tick: lost between 1050 and 1060 (token 7)"),
        (RUNS[:-1], "tick: lost from 1090 to 1090"),
        ([*RUNS, periodic(3, at=20.0)], "o3 ran again for no reason"),
        ([*RUNS, periodic(3, "other", at=20.0)], "o3 ran again for no reason"),
    ],
)
def test_what_is_wrong_with_runs_is_named(runs: list[PeriodicRun], problem: str) -> None:
    problems = judge_periodic(runs, GRIDS, 1_090, set(), []).problems
    assert any(line.startswith(problem) for line in problems), problems


def test_a_second_publication_is_excused_by_what_its_worker_says_alone() -> None:
    line = "Periodic run o3 of shop was executed twice: publication x was let through unchecked"
    unchecked = let_through(["o4 of shop", line])
    assert unchecked == {"o3"}
    runs = [*RUNS, periodic(3, "other", at=20.0)]
    assert judge_periodic(runs, GRIDS, 1_090, unchecked, []).problems == []
    redelivered = [*RUNS, periodic(3, at=20.0, redelivered=True)]
    assert judge_periodic(redelivered, GRIDS, 1_090, set(), []).problems == []
    assert judge_periodic(runs, GRIDS, 1_090, set(), [15.0]).problems != []


def test_a_first_delivery_may_run_after_the_second_and_there_is_but_one() -> None:
    second, first = periodic(3, at=3.0, redelivered=True), periodic(3, at=20.0)
    others = RUNS[:3] + RUNS[4:]
    assert judge_periodic([*others, second, first], GRIDS, 1_090, set(), []).problems == []
    third = periodic(3, at=30.0)
    found = judge_periodic([*others, second, first, third], GRIDS, 1_090, set(), []).problems
    assert [line.split(": ")[0] for line in found] == ["o3 ran again for no reason"] * 2
    calls = [*EFFECTS[:-1], effect("c9", 9.0, token=8, redelivered=True)]
    late = effect("c9", 20.0, token=8, outcome="again")
    assert judge_effects(SENT, set(), [*calls, late], []).problems == []
    twice = judge_effects(SENT, set(), [*calls, late, replace(late, began=21.0)], []).problems
    assert [line.split(": ")[0] for line in twice] == ["c9 ran again for no reason"] * 2


def held(threads: float, leads: float = 0.0, **more: float) -> dict[str, float]:
    figures = {"RSS KiB": 60_000.0, "threads": threads, "sockets": 11.0, "leads": leads, **more}
    return {f"beat 0: {name}": value for name, value in figures.items()}


LEVEL = [held(4.0)] * 9


def test_what_grows_is_named() -> None:
    assert grown(LEVEL) == []
    larger = held(6.0, **{"RSS KiB": 64_000.0, "sockets": 14.0})
    assert grown([*LEVEL[:6], *[larger] * 3]) == [
        "beat 0 waiting: RSS KiB grew from 60000 to 64000",
        "beat 0 waiting: threads grew from 4 to 6",
        "beat 0 waiting: sockets grew from 11 to 14",
    ]


@pytest.mark.parametrize(
    ("thirds", "problems"),
    [
        ((6, 4, 6), []),
        ((4, 6, 6), []),
        ((4, 4, 6), ["beat 0 waiting: threads grew from 4 to 6"]),
        ((4, 6, 8), ["beat 0 waiting: threads grew from 6 to 8"]),
        ((6, 4, 8), ["beat 0 waiting: threads grew from 6 to 8"]),
    ],
)
def test_growth_is_what_was_never_held_before(
    thirds: tuple[int, int, int], problems: list[str]
) -> None:
    assert grown([held(float(threads)) for threads in thirds for _ in range(3)]) == problems


def test_a_leader_is_compared_with_itself_when_it_led() -> None:
    waiting, leading = held(4.0), held(6.0, leads=1.0)
    turns = [waiting, leading] * 6
    assert grown([*[waiting] * 12, *turns, *[leading] * 12]) == []
    assert grown([*[waiting] * 9, *[held(50.0, leads=-1.0)] * 9]) == []
    assert grown([*turns, *[held(9.0, leads=1.0)] * 3]) == [
        "beat 0 leading: threads grew from 6 to 9"
    ]
