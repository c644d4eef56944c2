"""The headers by which workers recognize a run: the wire contract of beats and workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_safe_leader._schedules.occurrence_id import message_id

__all__ = [
    "COVERS",
    "ELECTION",
    "OCCURRENCE",
    "ONCE",
    "PUBLICATION",
    "TOKEN",
    "leader_headers",
    "numbered",
]

ELECTION = "leader_election"
"""Header: the key whose ledger and acceptance records hold the occurrence."""

OCCURRENCE = "leader_occurrence"
"""Header: id of the occurrence, which is the task id too. By it workers know a second publication.

If a run has several messages, each has its own from the second on: see ``numbered``.
"""

PUBLICATION = "leader_publication"
"""Header: the nonce of one attempt to publish."""

ONCE = "once-"
"""What the nonce begins with if one script queued the message and recorded its run.

It is the only message of its run, so workers need not ask whether it is the first.
"""

TOKEN = "leader_token"  # noqa: S105 - the name of a header
"""Header: the fencing token under which it was published."""

COVERS = "leader_covers"
"""Header: "first,last" due moment that the run stands for, in microseconds."""


def leader_headers(
    election: str, occurrence: str, token: int, covers_us: tuple[int, int]
) -> dict[str, Any]:
    """Return the headers by which workers recognize an occurrence.

    The publisher adds ``PUBLICATION``, another one for each attempt.

    Args:
        election: Key of the ledger.
        occurrence: Id of the occurrence.
        token: Fencing token of the leader that publishes.
        covers_us: First and last due moment that the run stands for, in microseconds.
    """
    return {
        ELECTION: election,
        OCCURRENCE: occurrence,
        TOKEN: token,
        COVERS: f"{covers_us[0]},{covers_us[1]}",
    }


def numbered(number: int, body: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give one of several messages of a run an id that follows from the run and the number.

    Else workers would take all but the first for further publications of it.

    Args:
        number: Of the message, from 1 on, in the order in which the run's messages are sent.
        body: As it is given to a producer; a mapping with protocol 1.
        options: As they are given to a producer, with the headers of the occurrence among them.

    Returns:
        Body and options to publish with: copies, since receivers of signals keep theirs.
    """
    headers = options["headers"]
    occurrence = headers[OCCURRENCE]
    own = message_id(occurrence, number)

    def renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
        names = ("id", "root_id", "correlation_id", OCCURRENCE)
        return {**fields, **{name: own for name in names if fields.get(name) == occurrence}}

    body = renamed(body) if isinstance(body, Mapping) else body
    return body, {**renamed(options), "headers": renamed(headers)}
