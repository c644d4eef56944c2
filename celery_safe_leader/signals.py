"""Celery signals: who leads, and what became of the runs of periodic tasks.

Receivers are called afterwards, in order, on a thread of their own, in the main process of a worker
or in a beat, with ``sender`` (the worker's node name, or ``beat@host``), ``election``,
``candidate_id`` and ``fencing_token``. ``leader_demoted`` also has ``reason``, a string such as
``"expired"``. In beats only, ``run_published`` has ``entry``, ``task_id``, ``due`` and ``first``
(the last and the first moment that the run stands for, in UTC) and ``way``; ``run_missed`` has
``entry``, ``count`` and ``reason``. Leadership may have ended by the time a receiver runs: what it
writes should carry the fencing token. Whatever a receiver raises, ``SystemExit`` too, is logged,
and the others are called. Who does not keep up is not told of all runs.
"""

from __future__ import annotations

from typing import Any

from celery.utils.dispatch import Signal

from celery_safe_leader._loggers import beat_logger, worker_logger

__all__ = ["leader_demoted", "leader_elected", "run_missed", "run_published"]


class LeaderSignal(Signal):
    """Celery's, but a receiver that exits costs the other receivers nothing."""

    def send(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        """Call all receivers; return each with what it returned or raised."""
        responses: list[tuple[Any, Any]] = []
        for receiver in self._live_receivers(sender):
            try:
                response = receiver(signal=self, sender=sender, **named)
            except BaseException as exc:
                logger = beat_logger if str(sender).startswith("beat@") else worker_logger
                logger.exception("Receiver %r of %s raised %r", receiver, self.name, exc)
                response = exc
            responses.append((receiver, response))
        return responses

    send_robust = send


leader_elected = LeaderSignal(
    name="leader_elected",
    providing_args={"election", "candidate_id", "fencing_token"},
)
leader_demoted = LeaderSignal(
    name="leader_demoted",
    providing_args={"election", "candidate_id", "fencing_token", "reason"},
)
run_published = LeaderSignal(
    name="run_published",
    providing_args={
        *("election", "candidate_id", "fencing_token", "entry", "task_id", "due", "first", "way"),
    },
)
run_missed = LeaderSignal(
    name="run_missed",
    providing_args={"election", "candidate_id", "fencing_token", "entry", "count", "reason"},
)
