"""What must hold at each moment of true time, whatever happens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_safe_leader._core.events import Demoted, Elected, Event
from celery_safe_leader._core.messages import Request

if TYPE_CHECKING:
    from tests.model.election.fleet import Node

__all__ = ["Judge", "Violation"]


class Violation(AssertionError):  # noqa: N818 - it is a finding, not an error of the test
    """A promise was broken; the text has the trace."""


@dataclass(frozen=True)
class Execution:
    """One execution of a campaign that was accepted."""

    losses: int
    server_ms: float


@dataclass
class Judge:
    """Watches a fleet.

    Leadership only ever begins when a reply is delivered, and between two events clocks only go
    on. So who leads right after an event is a superset of who leads until the next one: to check
    after every event is to check the whole of true time.
    """

    trace: list[str] = field(default_factory=list)
    seed: str = ""
    elections: int = 0
    losses: int = 0
    """How often the record was lost, or replaced by an older copy."""
    excused: int = 0
    """Overlaps with a leader whose longer ttl the new leader had no way to know."""
    _open: dict[str, int] = field(default_factory=dict)
    _executions: dict[int, list[Execution]] = field(default_factory=dict)
    """By token, the oldest first: after a loss the same one may be made again."""
    _last_token: int = 0

    def executed(self, token: int, server_ms: float) -> None:
        """Note that a campaign for a new token was accepted by a server."""
        self._executions.setdefault(token, []).append(Execution(self.losses, server_ms))

    def leaders(self, nodes: Iterable[Node]) -> list[Node]:
        """Check who leads now, and return them."""
        leading = [node for node in nodes if node.leads]
        if len(leading) > 1 and not self._excuse(leading):
            self._found("two lead at once: " + " and ".join(map(str, leading)))
        return leading

    def _excuse(self, leading: list[Node]) -> bool:
        # A lease is longer than anything that the other could have seen, since the only record
        # that said so was lost before it looked. The design asks for equal ttls in that case.
        first, *rest = sorted(leading, key=lambda node: node.elected_at)
        excused = all(node.shown_before < first.election.options.ttl for node in rest)
        self.excused += excused
        return excused

    def leased(self, node: Node, request: Request) -> None:
        """Check the lease that a reply gave."""
        lease = node.election.lease
        if lease is None:
            return
        latest = request.sent_at.plus(node.election.options.ttl)
        end = lease.deadline
        if max(end.boottime - latest.boottime, end.raw - latest.raw, end.wall - latest.wall) > 1e-6:
            self._found(f"{node} leads for longer than its ttl from the sending of its request")

    def events(self, node: Node, events: Iterable[Event]) -> None:
        """Check what a candidate tells."""
        for event in events:
            if isinstance(event, Elected):
                self._elected(node, event.fencing_token)
            elif isinstance(event, Demoted):
                token = self._open.pop(node.name, None)
                if token != event.fencing_token:
                    self._found(f"{node}: Demoted({event.fencing_token}) closes {token}")

    def _elected(self, node: Node, token: int) -> None:
        if node.name in self._open:
            self._found(f"{node}: a second Elected({token}) before Demoted")
        self._open[node.name] = token
        self.elections += 1
        if token <= self._last_token and not self._may_fall(token):
            self._found(f"{node}: token {token} comes after {self._last_token}")
        self._last_token = max(self._last_token, token)

    def _may_fall(self, token: int) -> bool:
        # The promise: after the loss of the record, while the server's clock is not behind the
        # lost token's moment. In the model an election takes microseconds of the server's time.
        new, old = self._executions[token][-1], self._executions[self._last_token][0]
        return new.losses != old.losses and new.server_ms < self._last_token

    def gone(self, node: Node) -> None:
        """Forget a candidate that was killed."""
        self._open.pop(node.name, None)

    def _found(self, what: str) -> None:
        tail = "\n  ".join(self.trace[-60:])
        raise Violation(f"{what}\n{self.seed}\n  {tail}")
