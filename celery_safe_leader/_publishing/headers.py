"""The headers by which workers recognize a run: the wire contract of beats and workers."""

from __future__ import annotations

from typing import Any

__all__ = ["COVERS", "ELECTION", "OCCURRENCE", "PUBLICATION", "TOKEN", "leader_headers"]

ELECTION = "leader_election"
"""Header: the key whose ledger and acceptance records hold the occurrence."""

OCCURRENCE = "leader_occurrence"
"""Header: id of the occurrence, which is the task id too."""

PUBLICATION = "leader_publication"
"""Header: the nonce of one attempt to publish."""

TOKEN = "leader_token"  # noqa: S105 - the name of a header
"""Header: the fencing token under which it was published."""

COVERS = "leader_covers"
"""Header: "first,last" due moment that the run stands for, in microseconds."""


def leader_headers(
    election: str, occurrence: str, token: int, covers_us: tuple[int, int]
) -> dict[str, Any]:
    """Return the headers that workers need to recognize an occurrence.

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
