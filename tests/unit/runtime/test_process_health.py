"""What a process says of itself, at each moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.state import State
from celery_safe_leader._runtime.candidate import Candidate
from celery_safe_leader._runtime.service.loop_watch import LoopWatch
from celery_safe_leader._runtime.service.process_health import ProcessHealth
from celery_safe_leader._runtime.service.process_service import health_pages
from celery_safe_leader._runtime.views import LeaderViews


class SetClock:
    """A clock that stands still until a test sets it."""

    at = 100.0

    def now(self) -> Instant:
        return Instant(self.at, self.at, self.at)

    def before(self, deadline: Instant) -> bool:
        return self.at < deadline.raw


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def candidate(clock: SetClock) -> Candidate:
    """One that was elected, and whose threads stand still: nobody notices the end of its lease."""
    candidate = Candidate(Options(10.0), "shop:beat", deliver=lambda _: None, clock=clock)
    deadline, since = Instant(110.0, 110.0, 110.0), Instant(90.0, 90.0, 90.0)
    nothing = SimpleNamespace(record=None, longest_ttl=10.0, takeover_in=lambda _: 1.0)
    candidate._election = SimpleNamespace(  # type: ignore[assignment]
        lease=Lease(7, deadline, since), state=State.LEADING, observation=nothing
    )
    return candidate


@pytest.fixture
def health(candidate: Candidate) -> ProcessHealth:
    views = LeaderViews(candidate)
    return ProcessHealth("beat", "shop:beat", 10.0, LoopWatch(10.0), lambda: views)


def statuses(health: ProcessHealth) -> dict[str, int]:
    return {name: int(page().status) for name, page in health_pages(health).items()}


def test_nobody_leads_at_the_deadline_or_after_it(health: ProcessHealth, clock: SetClock) -> None:
    """Whether its threads have noticed that or not."""
    for at, status in ((100.0, 200), (109.999, 200), (110.0, 503), (5000.0, 503)):
        clock.at = at
        assert statuses(health)["/leader"] == status, at
        assert (health.leading() is not None) == (status == 200)
        assert ("leads (token 7)" in health.status()) == (status == 200)


def test_ready_is_who_takes_part_and_has_heard_of_redis(
    health: ProcessHealth, candidate: Candidate, clock: SetClock
) -> None:
    assert health.why_unready() == "Redis has not answered yet"
    candidate._heard = clock.now()
    assert health.why_unready() == ""
    clock.at += 10.1
    assert health.why_unready() == "Redis has not answered for 10 s"
    election: Any = candidate._election
    election.state = State.IDLE
    assert health.why_unready() == "it takes no part in the election"
    health.candidate = lambda: None
    assert statuses(health) == {"/livez": 200, "/readyz": 503, "/leader": 503}
    assert health.identity()["candidate"] is None


def test_alive_is_whose_loop_turns_and_who_can_call_user_code(health: ProcessHealth) -> None:
    assert statuses(health)["/livez"] == 200
    health.why_stuck = lambda: "four calls hang"
    assert health.why_dead() == "four calls hang"
    health.loop = LoopWatch(-1.0)
    assert health.why_dead().startswith("its loop has not turned")
    assert statuses(health)["/livez"] == 503
