"""Celery signals of the workers' election.

Receivers are called in the worker's main process, on a background thread, with
``sender`` (the worker's node name), ``election``, ``candidate_id`` and ``fencing_token``;
``leader_demoted`` also has ``reason``, a string such as ``"expired"``. Leadership may have ended by
the time a receiver runs: what it writes should carry the fencing token.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

__all__ = ["leader_demoted", "leader_elected"]

leader_elected = Signal(
    name="leader_elected",
    providing_args={"election", "candidate_id", "fencing_token"},
)
leader_demoted = Signal(
    name="leader_demoted",
    providing_args={"election", "candidate_id", "fencing_token", "reason"},
)
