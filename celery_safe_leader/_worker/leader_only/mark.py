"""Which tasks are leader-only: a mark on the function that a task runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["MARK", "Otherwise", "Rules", "rules_of"]

Otherwise = Literal["forward", "skip", "fail"]
"""What becomes of a run of the leader queue that reaches a worker which does not lead."""
MARK = "__leader_only__"


@dataclass(frozen=True, slots=True)
class Rules:
    """What ``@leader_only`` was told."""

    otherwise: Otherwise = "forward"
    revoke_on_loss: bool = False


def rules_of(task: Any) -> Rules | None:
    """Return the rules of a task, ``None`` if it is not leader-only."""
    found = getattr(getattr(task, "run", None), MARK, None)
    return found if isinstance(found, Rules) else None
