"""Telling events to listeners that block, raise or exit."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from celery_safe_leader._core.events import Demoted, DemotionReason, Elected, Event, HolderSeen
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._runtime import teller as teller_module
from celery_safe_leader._runtime.teller import MOST_WAITING, Teller, WaitingEvents
from tests.support.processes.waiting import PATIENCE, wait_until


def elected(token: int) -> Elected:
    return Elected(token, Instant(0.0, 0.0, 0.0))


def demoted(token: int) -> Demoted:
    return Demoted(token, DemotionReason.EXPIRED, "")


def make(tell: Callable[[Event], None]) -> tuple[Teller, threading.Event]:
    idle = threading.Event()
    return Teller("shop", tell, idle.set), idle


class Blocker:
    """Keeps each event, and blocks at the first until it may go on."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.called, self.may_go_on = threading.Event(), threading.Event()
        self.inside = self.most_inside = 0

    def tell_pager(self, event: Event) -> None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.called.set()
        assert self.may_go_on.wait(PATIENCE)
        self.told.append(event)
        self.inside -= 1


def test_events_queue_up_behind_one_that_blocks_and_are_told_in_order_one_at_a_time() -> None:
    blocker = Blocker()
    teller, idle = make(blocker.tell_pager)
    events = [each for token in range(20) for each in (elected(token), demoted(token))]
    for event in events:
        teller.add(event)
    assert blocker.called.wait(PATIENCE)
    assert blocker.told == []
    blocker.may_go_on.set()
    assert idle.wait(PATIENCE)
    assert blocker.told == events
    assert blocker.most_inside == 1


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_one_raises_the_next_is_told(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Event] = []

    def tell(event: Event) -> None:
        told.append(event)
        raise kind("out of here")

    teller, _ = make(tell)
    for event in (elected(1), demoted(1), elected(2)):
        teller.add(event)
    wait_until(lambda: not teller.is_watched, what="the end")
    assert told == [elected(1), demoted(1), elected(2)]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3


def test_one_that_does_not_return_is_named_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = Blocker()
    teller, idle = make(blocker.tell_pager)
    assert teller.look() is None
    assert not teller.is_watched
    teller.add(elected(1))
    assert blocker.called.wait(PATIENCE)
    left = teller.look()
    assert left is not None
    assert 0 < left <= teller_module.PATIENCE == 5.0
    assert caplog.records == []
    monkeypatch.setattr(teller_module, "PATIENCE", 0.0)
    for _ in range(3):
        assert teller.look() is None
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("Election 'shop': ")
    assert "tell_pager (" in text
    assert "since it was told elected" in text
    assert not teller.is_watched
    monkeypatch.setattr(teller_module, "PATIENCE", 5.0)
    blocker.may_go_on.set()
    assert idle.wait(PATIENCE)


def test_its_thread_lives_no_longer_than_there_is_something_to_tell() -> None:
    threads: list[threading.Thread] = []
    teller, idle = make(lambda _: threads.append(threading.current_thread()))
    for token in (1, 2):
        teller.add(elected(token))
        assert idle.wait(PATIENCE)
        idle.clear()
        wait_until(lambda: not threads[-1].is_alive(), what="the end of the thread")
    assert threads[0].name == "leader:shop:listeners"


def test_what_comes_as_its_thread_ends_is_told_all_the_same() -> None:
    told: list[int] = []
    teller, _ = make(lambda event: told.append(event.fencing_token))  # type: ignore[union-attr]
    for token in range(2_000):
        teller.add(elected(token))
        if token % 3:
            # Anywhere from its last look for events to its end.
            while teller.is_watched and len(told) <= token:
                pass
    wait_until(lambda: len(told) == 2_000, what="all to be told")
    assert told == list(range(2_000))


def test_no_more_than_so_many_events_wait_and_each_tenure_is_told_whole_or_not_at_all() -> None:
    waiting = WaitingEvents()
    for token in range(MOST_WAITING):
        waiting.add(elected(token))
        waiting.add(HolderSeen("other", token, 1.0, False))
        waiting.add(demoted(token))
    told = [waiting.pop() for _ in range(len(waiting))]
    assert len(told) <= MOST_WAITING + 1
    begun = [each.fencing_token for each in told if isinstance(each, Elected)]
    ended = [each.fencing_token for each in told if isinstance(each, Demoted)]
    assert begun == ended
    # One that leads when the queue is full is told of its end, and the next is told again.
    waiting.add(elected(7))
    for _ in range(MOST_WAITING):
        waiting.add(HolderSeen("other", 1, 1.0, False))
    waiting.add(demoted(7))
    assert [waiting.pop() for _ in range(len(waiting))][-1] == demoted(7)
