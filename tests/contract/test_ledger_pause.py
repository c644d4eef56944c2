"""Pause and resumption: whoever leads obeys, and who would not is not asked to."""

from __future__ import annotations

from typing import Any

import pytest

from celery_safe_leader._ledger.errors import (
    LedgerFormatError,
    LedgerPausedError,
    LedgerUnpausableError,
)
from celery_safe_leader._ledger.hash_sentinel import SENTINEL, Pause
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.pausing import end_expired_pause, pause, resume
from celery_safe_leader._ledger.publications import Batch, Published
from celery_safe_leader._ledger.results import ClaimOutcome
from celery_safe_leader.errors import SafeLeaderError
from tests.contract.ledger_helpers import SECOND, Bench
from tests.support.servers import ExternalServer


@pytest.fixture
def bench(shared_server: ExternalServer, key: str) -> Bench:
    return Bench(shared_server.client(decode_responses=False), key)


@pytest.fixture
def ledger(bench: Bench) -> Ledger:
    ledger = bench.ledger()
    bench.enrol(ledger, "e", "f")
    return ledger


def publish(bench: Bench, ledger: Ledger, second: int = 1) -> Published | SafeLeaderError:
    run = bench.publication(second=second, after=second - 1, count=second - 1)
    (answer,) = ledger.publish([Batch((run,))], lambda: True) or []
    return answer


def test_whoever_leads_obeys_until_the_resumption(bench: Bench, ledger: Ledger) -> None:
    ledger.write([], [bench.next("f")])
    assert isinstance(publish(bench, ledger), Published)
    change = pause(bench.client, bench.names)
    assert (change.pause, change.claims) == (Pause(1, 0), 1)
    assert isinstance(publish(bench, ledger, 2), LedgerPausedError)
    written = ledger.write([bench.commit("f")], [bench.next("e", 2, 1, 1)])
    assert [each.name for each in written.commits] == ["COMMITTED"]
    assert written.claims == (ClaimOutcome.PAUSED,)
    change = resume(bench.client, bench.names)
    assert (change.pause, change.claims) == (None, 0)
    assert isinstance(publish(bench, ledger, 2), Published)
    assert ledger.pause is None


def test_a_zombie_obeys_too(bench: Bench, ledger: Ledger) -> None:
    """Its writes are refused for the pause even before they are for the fence, or after."""
    pause(bench.client, bench.names)
    bench.lease(holder="b", token=8)
    assert isinstance(publish(bench, ledger), SafeLeaderError)
    other = bench.ledger(adopted=False)
    assert other.adopt("b", 8).pause == Pause(1, 0)
    assert isinstance(publish(bench, other), LedgerPausedError)


def test_generation_and_step_stay(bench: Bench, ledger: Ledger) -> None:
    before = bench.sentinel().split(b" ")
    pause(bench.client, bench.names)
    after = bench.sentinel().split(b" ")
    assert (before[0], after[0]) == (b"1", b"2")
    assert (before[1:3], before[4]) == (after[1:3], after[4])
    resume(bench.client, bench.names)
    assert bench.sentinel() == b" ".join([*before[:3], before[3] + b"/1", before[4]])


def test_each_pause_has_a_higher_number(bench: Bench, ledger: Ledger) -> None:
    numbers = []
    for _ in range(2):
        for _ in range(2):
            change = pause(bench.client, bench.names)
            assert change.pause is not None
            numbers.append(change.pause.number)
        resume(bench.client, bench.names)
        ledger.write([], [])
    assert numbers == [1, 2, 3, 4]


def test_a_pause_ends_by_the_clock_of_redis(bench: Bench, ledger: Ledger) -> None:
    change = pause(bench.client, bench.names, 900.0)
    assert change.pause is not None
    assert abs(change.pause.until_us - bench.start - 1000 * SECOND) < 60 * SECOND
    assert end_expired_pause(bench.client, bench.names).pause == change.pause
    bench.pause(7, bench.start)
    assert end_expired_pause(bench.client, bench.names).pause is None
    assert bench.sentinel().startswith(b"1 ")
    assert isinstance(publish(bench, ledger), Published)


def test_a_resumption_of_what_is_not_paused_changes_nothing(bench: Bench, ledger: Ledger) -> None:
    before = bench.state()
    for request in (resume, end_expired_pause):
        assert request(bench.client, bench.names).pause is None
        assert bench.state() == before


def no_ledger(bench: Bench, ledger: Ledger) -> None:
    bench.client.delete(bench.names.runs, bench.names.pending)


def torn(bench: Bench, ledger: Ledger) -> None:
    bench.client.delete(bench.names.pending)


def restoring(bench: Bench, ledger: Ledger) -> None:
    ledger.adopt("a", 7, restoring=True)


def older_release(bench: Bench, ledger: Ledger) -> None:
    """It writes the sentinel without a mark."""
    _, generation, step, _, owner = bench.sentinel().decode().split(" ", 4)
    for name in (bench.names.runs, bench.names.pending):
        bench.client.hset(name, SENTINEL, f"1 {generation} {step} whole {owner}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_ledger, "there is no ledger"),
        (torn, "part of it was lost"),
        (restoring, "is restoring it"),
        (older_release, "knows no pauses"),
    ],
)
def test_what_would_not_be_obeyed_is_refused(
    bench: Bench, ledger: Ledger, change: Any, said: str
) -> None:
    change(bench, ledger)
    before = bench.state()
    with pytest.raises(LedgerUnpausableError, match=said):
        pause(bench.client, bench.names)
    assert bench.state() == before


def test_a_leader_of_an_older_release_is_not_paused(bench: Bench, ledger: Ledger) -> None:
    older_release(bench, ledger)
    with pytest.raises(LedgerUnpausableError):
        pause(bench.client, bench.names)


def test_a_newer_format_is_left_alone(bench: Bench, ledger: Ledger) -> None:
    sentinel = b"3" + bench.sentinel()[1:]
    for name in (bench.names.runs, bench.names.pending):
        bench.client.hset(name, SENTINEL, sentinel)
    for request in (pause, resume, end_expired_pause):
        with pytest.raises(LedgerFormatError, match="has format 3"):
            request(bench.client, bench.names)
    assert bench.sentinel() == sentinel


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_pause_has_a_length_that_can_be(bench: Bench, ledger: Ledger, seconds: float) -> None:
    with pytest.raises(ValueError, match="a pause of"):
        pause(bench.client, bench.names, seconds)
