"""Which tasks are leader-only: a mark on the function that a task runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["MARK", "LeaderOnlyMark", "Otherwise", "mark_of"]

Otherwise = Literal["forward", "skip", "fail"]
"""What happens to a run from the leader queue on a worker that does not lead."""
MARK = "__leader_only__"


@dataclass(frozen=True, slots=True)
class LeaderOnlyMark:
    """The arguments of ``@leader_only``."""

    otherwise: Otherwise = "forward"
    revoke_on_loss: bool = False


def mark_of(task: Any) -> LeaderOnlyMark | None:
    """Return the mark of a task, ``None`` if it is not leader-only."""
    found = getattr(getattr(task, "run", None), MARK, None)
    return found if isinstance(found, LeaderOnlyMark) else None
