"""Drives one candidate by hand: time, replies and failures are what the test says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from celery_safe_leader._core.election import Election
from celery_safe_leader._core.events import Event
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import (
    Answer,
    Await,
    Campaign,
    LedgerLook,
    Observe,
    Record,
    ReplyStatus,
    Request,
    Woken,
)
from celery_safe_leader._core.options import Options
from celery_safe_leader.errors import StoreUnavailableError

__all__ = ["START", "TTL", "WAIT", "Driver", "record"]

TTL, WAIT = 10.0, 2.0
START = Instant(100.0, 50.0, 1.7e9)
R = TypeVar("R", bound=Request)


def record(version: str = "v1", holder: str = "", token: int = 5, **fields: Any) -> Record:
    """Make a record as a server would show it."""
    known = {"epoch": "e1", "ttl": TTL, "resigned": False, **fields}
    return Record(version, holder=holder, token=token, **known)


class Driver:
    """A candidate ``me`` and the moment it lives in."""

    def __init__(self, ttl: float = TTL, wait: float = WAIT, wait_replicas: int = 0) -> None:
        self.now = START
        self.election = Election(Options(ttl, wait, wait_replicas), "me", "seed")
        self.told: list[Event] = []
        self.election.start(self.now)

    # Time

    def later(self, seconds: float) -> None:
        """Let all clocks go on."""
        self.now = self.now.plus(seconds)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock."""
        self.now = replace(self.now, wall=self.now.wall + seconds)

    def suspend(self, seconds: float) -> None:
        """Sleep through some time, which CLOCK_MONOTONIC_RAW does not notice."""
        raw = self.now.raw
        self.later(seconds)
        self.now = replace(self.now, raw=raw)

    # Steps

    def poll(self) -> Request | None:
        """Ask for a request."""
        request = self.election.poll(self.now)
        self._drain()
        return request

    def expect(self, kind: type[R]) -> R:
        """Ask for a request, which must be of this kind."""
        request = self.poll()
        assert isinstance(request, kind), request
        return request

    def receive(self, request: Request, reply: Any) -> None:
        """Give a reply."""
        self.election.receive(request, reply, self.now)
        self._drain()

    def answer(
        self,
        request: Request,
        status: str,
        shown: Record,
        *,
        confirmed: bool = True,
        look: LedgerLook | None = None,
    ) -> None:
        """Give the reply of a script."""
        self.receive(request, Answer(ReplyStatus(status), shown, confirmed, look))

    def fail(self, request: Request) -> None:
        """Say that no reply came."""
        self.election.failed(request, StoreUnavailableError("k", "no answer"), self.now)
        self._drain()

    def stop(self, *reason: Any) -> None:
        """Stop it."""
        self.election.stop(self.now, *reason)
        self._drain()

    def tick(self) -> None:
        """Let it notice the time."""
        self.election.tick(self.now)
        self._drain()

    def _drain(self) -> None:
        self.told += self.election.events()

    def heard(self, kind: type[Event] | tuple[type[Event], ...]) -> list[Any]:
        """Return what was told of one kind, and forget everything."""
        heard = [event for event in self.told if isinstance(event, kind)]
        self.told.clear()
        return heard

    # Ways

    def sees(self, shown: Record, *, confirmed: bool = True) -> Observe:
        """Let it look and see a record."""
        request = self.expect(Observe)
        self.answer(request, "seen", shown, confirmed=confirmed)
        return request

    def wait(self) -> None:
        """Let it sleep until it wants to look again."""
        request = self.expect(Await)
        self.later(request.timeout)
        self.receive(request, Woken(resigned=False))

    def campaigns(self) -> Campaign:
        """Let it see a record, wait long enough, and campaign."""
        self.sees(record())
        request = self.expect(Await)
        self.fail(request)
        self.told.clear()
        self.later(1.01 * self.election.observation.longest_ttl + 0.001)
        return self.expect(Campaign)

    def wins(self, token: int = 6) -> None:
        """Make it the leader."""
        request = self.campaigns()
        self.answer(request, "accepted", record("own", "me", token))

    @property
    def leads(self) -> bool:
        """Whether it leads now."""
        return self.election.is_leader(self.now)
