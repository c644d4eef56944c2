"""What a process offers to the machine it runs on, from when it takes part until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus

from celery_safe_leader._runtime.service import metrics
from celery_safe_leader._runtime.service.http_address import HttpAddress
from celery_safe_leader._runtime.service.http_server import HttpAnswer, HttpServer
from celery_safe_leader._runtime.service.process_health import ProcessHealth
from celery_safe_leader._runtime.service.systemd import ServiceNotifier

__all__ = ["ProcessService", "health_pages"]

Pages = dict[str, Callable[[], HttpAnswer]]


class ProcessService:
    """Notifies systemd and answers HTTP, where either is wanted. Thread-safe.

    Args:
        health: Of the process.
        address: ``leader_http``; ``None`` for no server.
        sources: Of metrics, besides those of the election.
    """

    def __init__(
        self, health: ProcessHealth, address: HttpAddress | None, *sources: metrics.Source
    ) -> None:
        self.health = health
        self._notifier = ServiceNotifier(health.loop.is_turning, health.status)
        self._server: HttpServer | None = None

        def election() -> Iterable[metrics.Family]:
            candidate = health.candidate()
            counts = None if candidate is None else candidate.counts
            return metrics.election_families(health, counts)

        if address is not None:
            self._server = HttpServer(
                address.for_process(health.role),
                {**health_pages(health), "/metrics": metrics.page(health, (election, *sources))},
            )

    @property
    def server(self) -> HttpServer | None:
        """The HTTP server, if there is one."""
        return self._server

    def start(self) -> None:
        """Begin, once the process is ready. May be called again."""
        self._notifier.start()
        if self._server is not None:
            self._server.start()

    def close(self) -> None:
        """End. May be called again."""
        self._notifier.close()
        if self._server is not None:
            self._server.close()


def health_pages(health: ProcessHealth) -> Pages:
    """Return the pages that need nothing but the standard library."""

    def live() -> HttpAnswer:
        return _judged(health, health.why_dead(), "alive")

    def ready() -> HttpAnswer:
        return _judged(health, health.why_unready(), "ready")

    def leader() -> HttpAnswer:
        leading = health.leading()
        fields = {
            **health.identity(),
            "leads": leading is not None,
            "token": None if leading is None else leading.token,
            "remaining": None if leading is None else round(leading.remaining, 3),
        }
        status = HTTPStatus.SERVICE_UNAVAILABLE if leading is None else HTTPStatus.OK
        return HttpAnswer.of(status, fields)

    return {"/livez": live, "/readyz": ready, "/leader": leader}


def _judged(health: ProcessHealth, why_not: str, what: str) -> HttpAnswer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if why_not else HTTPStatus.OK
    return HttpAnswer.of(
        status, {**health.identity(), what: not why_not, "reason": why_not or None}
    )
