"""How a scheduler takes part in an election when its beat is embedded in a worker."""

from __future__ import annotations

from enum import Enum

__all__ = ["EmbeddedRole", "embedded_role_of"]

_ATTRIBUTE = "safe_leader_embedded_role"


class EmbeddedRole(Enum):
    """What a scheduler class of this package says in ``safe_leader_embedded_role``.

    A worker starts an embedded beat again when it ends, if its scheduler has such a role.
    """

    FOLLOWS_WORKER = "follows worker"
    """The beat leads while its worker leads."""
    OWN_CANDIDATE = "own candidate"
    """The beat takes part in the election of beats, as it does outside of a worker."""


def embedded_role_of(scheduler: type) -> EmbeddedRole | None:
    """Return the role of a scheduler class, ``None`` if it is not one of this package.

    The value counts, not the name alone: another package's class cannot match by accident.
    """
    found = getattr(scheduler, _ATTRIBUTE, None)
    return found if isinstance(found, EmbeddedRole) else None
