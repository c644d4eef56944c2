"""Events of runs: told in order, off the dispatching thread, and not without bound."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celery_safe_leader._core.events import Demoted, DemotionReason, Elected
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._dispatch.run_events import (
    MOST_WAITING,
    LeaderEnded,
    LeaderStarted,
    RunEvents,
    RunsMissed,
    RunsPublished,
)
from celery_safe_leader._ledger.codec import Claim
from tests.support.processes import wait_until

NOW = Instant(0.0, 0.0, 0.0)
CLAIM = Claim("e", "o", 1, 1, "f", 7)


class Audience:
    """Hears everything, unless it was told to be silent; may stand still."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.kinds: set[type] = {Elected, Demoted, RunsPublished, RunsMissed}
        self.go_on = threading.Event()
        self.go_on.set()
        self.raises: BaseException | None = None
        self.events = RunEvents(self._tell, lambda kind: kind in self.kinds)
        self.events.announces = True

    def _tell(self, event: Any) -> None:
        self.go_on.wait(30)
        self.heard.append(event)
        if self.raises is not None:
            raise self.raises

    def publish(self, count: int = 1, token: int = 7) -> None:
        self.events.published([CLAIM] * count, token, "transactional")

    def elect(self, token: int = 7) -> None:
        self.events.elected(Elected(token, NOW))

    def demote(self, token: int = 7) -> None:
        self.events.elected(Demoted(token, DemotionReason.EXPIRED))

    def wait_for(self, *kinds: type) -> None:
        wait_until(lambda: len(self.heard) >= len(kinds), 30, lambda: str(self.heard))
        assert [type(each) for each in self.heard] == list(kinds)


@pytest.fixture
def audience() -> Iterator[Audience]:
    audience = Audience()
    yield audience
    audience.go_on.set()
    audience.events.close(10)


def signal_threads() -> int:
    return sum(thread.name == "leader:signals" for thread in threading.enumerate())


def test_a_tenure_is_told_in_its_order(audience: Audience) -> None:
    audience.elect()
    audience.publish(3)
    audience.events.missed("e", 7, 2, "too-late")
    audience.demote()
    audience.wait_for(LeaderStarted, RunsPublished, RunsMissed, LeaderEnded)
    assert audience.heard[1] == RunsPublished(7, (CLAIM,) * 3, "transactional")
    assert audience.heard[3] == LeaderEnded(7, "expired")


def test_no_run_is_told_before_its_tenure_and_no_tenure_twice(audience: Audience) -> None:
    """An election and its first run come from two threads."""
    audience.publish()
    audience.elect()
    audience.publish()
    audience.demote()
    audience.elect(8)
    audience.wait_for(LeaderStarted, RunsPublished, RunsPublished, LeaderEnded, LeaderStarted)


def test_without_an_audience_there_is_no_queue_and_no_thread(audience: Audience) -> None:
    before = signal_threads()
    audience.kinds.clear()
    audience.elect()
    audience.publish()
    audience.events.missed("e", 7, 1, "expired")
    audience.demote()
    assert (signal_threads(), audience.events.wants_published) == (before, False)
    assert audience.events._queue.empty()
    audience.kinds.add(RunsMissed)
    audience.events.missed("e", 7, 1, "expired")
    audience.wait_for(RunsMissed)


def test_what_would_wait_beyond_the_bound_is_dropped_and_counted(
    audience: Audience, caplog: pytest.LogCaptureFixture
) -> None:
    audience.go_on.clear()
    audience.elect()
    for _ in range(20):
        audience.publish(MOST_WAITING // 10)
    audience.demote()
    assert audience.events.dropped == MOST_WAITING
    assert caplog.text.count("do not keep up") == 1
    audience.go_on.set()
    audience.wait_for(LeaderStarted, *[RunsPublished] * 10, LeaderEnded)
    wait_until(lambda: not audience.events._waiting, 30)
    audience.publish()
    wait_until(lambda: len(audience.heard) == 13, 30)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_is_raised_ends_nothing(
    audience: Audience, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    audience.raises = error
    audience.elect()
    audience.publish()
    audience.wait_for(LeaderStarted, RunsPublished)
    wait_until(lambda: "Telling RunsPublished failed" in caplog.text, 30)


def test_closing_waits_for_what_is_told_and_not_for_who_stands_still(audience: Audience) -> None:
    audience.publish()
    audience.events.close(30)
    assert [type(each) for each in audience.heard] == [LeaderStarted, RunsPublished]
    audience.go_on.clear()
    audience.publish()
    audience.events.close(0.01)
    assert len(audience.heard) == 2


def test_it_goes_on_after_it_was_closed(audience: Audience) -> None:
    for count in (1, 2):
        audience.publish()
        audience.events.close(30)
        assert sum(isinstance(each, RunsPublished) for each in audience.heard) == count
