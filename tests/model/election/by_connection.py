"""The model for a Redis user who may not run INFO: a server is known by a connection only."""

from __future__ import annotations

import itertools
from typing import Any

from celery_safe_leader._core.messages import Await, Request
from celery_safe_leader.errors import StoreError
from tests.model.election.fleet import LOST, Node, Outcome
from tests.model.election.simulation import Simulation
from tests.model.election.sites import Site

__all__ = ["ByConnection"]


class ByConnection(Simulation):
    """Each candidate has a connection of its own to each server.

    It ends with a failover, which cuts all of them, and when a reply does not come in time. What
    arrives over one that has ended is lost; what was sent over it may still be executed.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._numbers = itertools.count(1)
        self._labels: dict[tuple[str, str], str] = {}
        self._sent: dict[int, tuple[Request, str]] = {}
        for store in self._stores.values():
            store._commands.server_identity.by_connection = True
        self.reconnects = 0

    def _label(self, node: Node, site: Site) -> str:
        return self._labels.setdefault((node.name, site.name), f"label-{next(self._numbers)}")

    def _send(self, node: Node, request: Request) -> None:
        if not isinstance(request, Await):
            self._sent[id(request)] = request, self._label(node, self.sites.master)
        super()._send(node, request)

    def execute(self, request: Request, site: Site | None = None) -> Outcome:
        site = site or self.sites.master
        if not isinstance(request, Await):
            self._stores[site.name]._commands.server_identity.label = self._sent[id(request)][1]
        return super().execute(request, site)

    def deliver(self, node: Node, request: Request, outcome: Outcome) -> None:
        sent = self._sent.get(id(request))
        if sent is not None and sent[1] not in self._labels.values():
            outcome = LOST
        if isinstance(outcome, StoreError):
            for known in [known for known in self._labels if known[0] == node.name]:
                del self._labels[known]
            self.reconnects += 1
        super().deliver(node, request, outcome)

    def fail_over(self, to: Site, **how: Any) -> None:
        self._labels.clear()
        super().fail_over(to, **how)
