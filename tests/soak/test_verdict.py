"""The verdict finds each thing that it is there to find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tests.soak.pushes import Pushed
from tests.soak.verdict import (
    NOTHING_DOUBLED,
    TRANSACTIONAL,
    WRITE_AHEAD,
    Verdict,
    judge,
    judge_executions,
)
from tests.support.celery.chaos import Execution, Grid

GRIDS = {"tick": Grid(1_000, 10)}
WHERE = (0, "celery")


def made(number: int, nonce: str = "") -> Pushed:
    moment = 1_000 + 10 * number
    publication = nonce or f"once-{number}"
    run = Execution("tick", f"o{number}", moment, moment, publication, 7, 0.0)
    return Pushed(*WHERE, restored=False, run=run)


RIGHT = [made(number) for number in range(200)]


def verdict_of(
    pushed: Sequence[Pushed],
    way: str = TRANSACTIONAL,
    executions: Sequence[Execution] | None = None,
) -> Verdict:
    runs = [m.run for m in pushed if not m.restored] if executions is None else executions
    return judge(way, pushed, runs, GRIDS, 1_000 + 10 * 199, WHERE)


def test_each_run_published_and_executed_once_is_right() -> None:
    verdict = verdict_of(RIGHT)
    assert verdict.passed, verdict
    assert verdict.counts["messages by way"] == {TRANSACTIONAL: 200, WRITE_AHEAD: 0}


def without_one() -> list[Pushed]:
    return RIGHT[:50] + RIGHT[51:]


def without_the_last() -> list[Pushed]:
    return RIGHT[:-1]


def one_again() -> list[Pushed]:
    return [*RIGHT, made(50, "once-again")]


def one_again_by_another_name() -> list[Pushed]:
    other = made(50, "once-again")
    return [*RIGHT, replace(other, run=replace(other.run, occurrence="another"))]


def three_by_write_ahead() -> list[Pushed]:
    return [*(made(number, f"nonce{number}") for number in range(3)), *RIGHT[3:]]


def one_elsewhere() -> list[Pushed]:
    return [replace(RIGHT[0], key="celery3"), *RIGHT[1:]]


@pytest.mark.parametrize(
    ("pushed", "problem"),
    [
        (without_one, "lost"),
        (without_the_last, "lost"),
        (one_again, "published more than once"),
        (one_again_by_another_name, "doubled"),
        (three_by_write_ahead, "98.50% were transactional, below 99%"),
        (one_elsewhere, "'celery3'"),
    ],
)
def test_each_fault_is_found(pushed: Callable[[], list[Pushed]], problem: str) -> None:
    verdict = verdict_of(pushed())
    assert not verdict.passed
    assert [line for line in verdict.problems if problem in line] == verdict.problems


def test_two_of_two_hundred_by_write_ahead_are_few_enough() -> None:
    assert verdict_of([made(0, "a"), made(1, "b"), *RIGHT[2:]]).passed


def test_by_write_ahead_something_must_be_doubled() -> None:
    pushed = [made(number, f"nonce{number}") for number in range(200)]
    assert verdict_of(pushed, WRITE_AHEAD).problems == [NOTHING_DOUBLED]
    verdict = verdict_of([*pushed, made(50, "another")], WRITE_AHEAD)
    assert verdict.passed, verdict
    assert verdict.counts["doubled"] == 1


def test_a_transactional_message_where_all_must_be_write_ahead_is_found() -> None:
    pushed = [made(number, f"nonce{number}") for number in range(199)]
    verdict = verdict_of([*pushed, made(50, "another"), RIGHT[199]], WRITE_AHEAD)
    assert verdict.problems == ["1 messages were published transactionally"]


def test_a_message_that_was_not_executed_is_found() -> None:
    verdict = verdict_of(RIGHT, executions=[message.run for message in RIGHT[1:]])
    assert verdict.problems == ["message once-0: 1 at the list, 0 executed"]


def test_an_execution_of_a_message_that_was_not_seen_makes_the_run_void() -> None:
    executions = [*(message.run for message in RIGHT), made(5, "once-unseen").run]
    verdict = verdict_of(RIGHT, executions=executions)
    assert verdict.void == "1 messages were executed that MONITOR did not show"
    assert not verdict.passed


def executed(pushed: Sequence[Pushed], runs: Sequence[Execution]) -> Verdict:
    return judge_executions(pushed, runs, GRIDS, 1_000 + 10 * 199)


def test_a_second_publication_that_was_dropped_is_no_second_execution() -> None:
    verdict = executed([*RIGHT, made(5, "again")], [message.run for message in RIGHT])
    assert verdict.passed, verdict
    assert verdict.counts["published twice"] == 1


def test_two_publications_that_were_executed_are_found() -> None:
    pushed = [*RIGHT, made(5, "again")]
    verdict = executed(pushed, [message.run for message in pushed])
    assert verdict.problems == ["o5 was executed more than once"]


def test_one_message_that_is_executed_twice_was_given_back_in_between() -> None:
    runs = [*(message.run for message in RIGHT), RIGHT[5].run]
    assert executed(RIGHT, runs).problems == ["o5 was executed more than once"]
    verdict = executed([*RIGHT, replace(RIGHT[5], restored=True)], runs)
    assert verdict.passed, verdict
    assert verdict.counts["executed again after given back"] == 1


def test_a_run_that_was_not_executed_is_lost() -> None:
    verdict = executed(RIGHT, [message.run for message in without_one()])
    assert "lost" in verdict.problems[0]
    assert verdict.counts["lost"] == 1
