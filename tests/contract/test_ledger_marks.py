"""The mark and the pause in the sentinel: what keeps them, and what changes them."""

from __future__ import annotations

from typing import Any

import pytest

from celery_safe_leader._ledger.hash_sentinel import SENTINEL, Pause
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.results import Condition, Enrolment
from tests.contract.ledger_helpers import SECOND, Bench
from tests.support.servers import ExternalServer


@pytest.fixture
def bench(shared_server: ExternalServer, key: str) -> Bench:
    return Bench(shared_server.client(decode_responses=False), key)


def state(bench: Bench) -> tuple[str, str]:
    """Format and state of the sentinel."""
    format_, _, _, found, owner = bench.sentinel().decode().split(" ", 4)
    assert owner == "beat"
    return format_, found


def set_state(bench: Bench, format_: str, found: str) -> None:
    """Write over the format and the state."""
    _, generation, step, _, owner = bench.sentinel().decode().split(" ", 4)
    for name in (bench.names.runs, bench.names.pending):
        bench.client.hset(name, SENTINEL, f"{format_} {generation} {step} {found} {owner}")


def adopted(bench: Bench) -> Ledger:
    ledger = bench.ledger()
    bench.enrol(ledger, "e", "f")
    return ledger


# The mark


def test_most_writes_and_the_next_leader_keep_the_mark(bench: Bench) -> None:
    ledger = adopted(bench)
    mark = ledger.adopt("a", 7).mark
    assert state(bench) == ("1", f"whole/{mark}")
    ledger.write([], [bench.next()])
    ledger.write([bench.commit()], [])
    ledger.enrol([Enrolment("f", bench.run(), bench.run(1))])
    ledger.settle([bench.claim()])
    ledger.forget(["e"], ["f"], grace=100)
    ledger.load()
    bench.lease(holder="b", token=8)
    adoption = bench.ledger(adopted=False).adopt("b", 8)
    assert (adoption.condition, adoption.mark) == (Condition.WHOLE, mark)


def set_back(bench: Bench, ledger: Ledger) -> None:
    ledger.enrol([Enrolment("e", bench.run(), bench.run(-1))])


def forget(bench: Bench, ledger: Ledger) -> None:
    ledger.forget(["e"], grace=0)


def merge(bench: Bench, ledger: Ledger) -> None:
    ledger.adopt("a", 7, restoring=True)
    ledger.merge({"e": bench.run(1, 1)}, {})
    ledger.seal()


def lose(bench: Bench, ledger: Ledger) -> None:
    bench.client.delete(bench.names.pending)


def forget_the_mark(bench: Bench, ledger: Ledger) -> None:
    set_state(bench, "1", "whole")  # as an older release does


@pytest.mark.parametrize("change", [set_back, forget, merge, lose, forget_the_mark])
def test_a_mark_changes_if_moments_may_have_been_set_back(bench: Bench, change: Any) -> None:
    ledger = adopted(bench)
    mark = ledger.adopt("a", 7).mark
    change(bench, ledger)
    again = ledger.adopt("a", 7)
    assert again.mark
    assert again.mark != mark
    assert state(bench) == ("1", f"whole/{again.mark}")


def test_a_moment_that_is_set_back_renews_the_mark(bench: Bench) -> None:
    ledger = adopted(bench)
    before = state(bench)
    set_back(bench, ledger)
    assert state(bench) != before


def test_a_ledger_that_an_older_release_led_gets_a_new_mark(bench: Bench) -> None:
    ledger = adopted(bench)
    forget_the_mark(bench, ledger)
    assert ledger.adopt("a", 7).mark


def test_a_partial_ledger_has_no_mark(bench: Bench) -> None:
    ledger = adopted(bench)
    assert ledger.adopt("a", 7, restoring=True).mark == ""
    ledger.enrol([Enrolment("e", bench.run(), bench.run(-1))])
    ledger.forget(["f"], grace=0)
    ledger.merge({"e": bench.run(1, 1)}, {})
    assert state(bench) == ("1", "partial")


# The pause


def test_all_that_writes_keeps_a_pause(bench: Bench) -> None:
    ledger = adopted(bench)
    bench.pause(3, 0)
    _, found = state(bench)
    calls = [
        lambda: ledger.write([], []),
        lambda: ledger.enrol([Enrolment("e", bench.run(), bench.run(1))]),
        lambda: ledger.settle([bench.claim()]),
        lambda: ledger.forget(["f"], grace=100),
        ledger.load,
    ]
    for call in calls:
        call()
        assert (state(bench), ledger.pause) == (("2", found), Pause(3, 0))
    bench.lease(holder="b", token=8)
    assert bench.ledger(adopted=False).adopt("b", 8).pause == Pause(3, 0)
    assert state(bench) == ("2", found)


def test_a_new_mark_keeps_the_pause(bench: Bench) -> None:
    ledger = adopted(bench)
    bench.pause(3, 0)
    for change in (set_back, forget):
        before = state(bench)[1]
        change(bench, ledger)
        format_, found = state(bench)
        assert format_ == "2"
        assert found.endswith("/3/0")
        assert found != before


def test_a_merge_keeps_the_pause_while_it_lasts_and_after(bench: Bench) -> None:
    ledger = adopted(bench)
    bench.pause(3, 0)
    ledger.write([], [])
    bench.client.delete(bench.names.runs, bench.names.pending)
    assert ledger.adopt("a", 7, restoring=True).pause == Pause(3, 0)
    assert state(bench) == ("2", "partial/-/3/0")
    ledger.merge({"e": bench.run(1, 1)}, {})
    ledger.seal()
    format_, found = state(bench)
    assert (format_, found.split("/")[2:]) == ("2", ["3", "0"])


def test_the_number_of_a_pause_that_is_over_outlives_a_leader_that_restores(bench: Bench) -> None:
    ledger = adopted(bench)
    set_state(bench, "1", "whole/m/3")
    ledger.adopt("a", 7, restoring=True)
    ledger.merge({"e": bench.run(1, 1)}, {})
    assert state(bench) == ("1", "partial")  # a release that knows no pauses compares it
    bench.lease(holder="b", token=8)
    adoption = bench.ledger(adopted=False).adopt("b", 8)
    assert (adoption.condition, adoption.pause) == (Condition.PARTIAL, None)
    assert state(bench) == ("1", f"whole/{adoption.mark}/3")


IN_FORCE, OVER = ("2", "whole/m/{}/0"), ("1", "whole/m/{}")


@pytest.mark.parametrize(
    ("memory", "number", "in_redis", "other", "in_force", "kept"),
    [
        (IN_FORCE, 3, OVER, 2, True, "3"),
        (IN_FORCE, 3, OVER, 3, False, "3"),
        (IN_FORCE, 3, OVER, 4, False, "4"),
        (OVER, 3, IN_FORCE, 2, False, "3"),
        (OVER, 3, IN_FORCE, 3, False, "3"),
        (OVER, 3, IN_FORCE, 10, True, "10"),
    ],
)
def test_at_a_merge_the_later_pause_or_resumption_wins(
    bench: Bench,
    memory: tuple[str, str],
    number: int,
    in_redis: tuple[str, str],
    other: int,
    in_force: bool,
    kept: str,
) -> None:
    ledger = adopted(bench)
    set_state(bench, memory[0], memory[1].format(number))
    ledger.write([], [])
    set_state(bench, in_redis[0], in_redis[1].format(other))
    ledger.adopt("a", 7, restoring=True)
    assert (ledger.pause is not None) == in_force
    ledger.merge({"e": bench.run(1, 1)}, {})
    ledger.seal()
    format_, found = state(bench)
    assert (format_ == "2", found.split("/")[2]) == (in_force, kept)


def test_a_new_tenure_believes_redis_not_its_memory(bench: Bench) -> None:
    ledger = adopted(bench)
    bench.pause(3, 0)
    ledger.write([], [])
    set_state(bench, "1", "whole/m/2")
    assert ledger.adopt("a", 7).pause is None
    assert state(bench) == ("1", "whole/m/2")


@pytest.mark.parametrize("way", ["adopt", "restore", "write"])
def test_a_pause_that_has_run_out_is_ended_by_whoever_meets_it(bench: Bench, way: str) -> None:
    ledger = adopted(bench)
    bench.pause(3, bench.start)
    if way == "write":
        ledger.write([], [])
    else:
        ledger.adopt("a", 7, restoring=way == "restore")
    assert ledger.pause is None
    assert state(bench)[0] == "1"
    if way == "restore":
        ledger.seal()
    assert state(bench)[1].endswith("/3")


def test_a_pause_that_has_an_end_lasts_until_then(bench: Bench) -> None:
    ledger = adopted(bench)
    ends = bench.start + 900 * SECOND
    bench.pause(3, ends)
    ledger.write([], [])
    assert ledger.pause == Pause(3, ends)
    assert state(bench)[0] == "2"
