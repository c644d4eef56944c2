"""The states of a candidate, and the one table of moves between them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from celery_safe_leader.errors import LifecycleError

__all__ = ["TRANSITIONS", "Move", "State", "next_state"]


class State(enum.Enum):
    """What a candidate is at this moment."""

    IDLE = "idle"
    """Does not take part: not started yet, or stopped."""
    STANDBY = "standby"
    """Takes part without leading: observes, and campaigns when it may."""
    LEADING = "leading"
    """Leads, until its deadline."""
    RESIGNING = "resigning"
    """No longer leads, and is resigning the record."""
    CLOSED = "closed"
    """Ended for good."""


class Move(enum.Enum):
    """What can happen to a candidate."""

    START = "start"
    WIN = "win"
    """A campaign was accepted, and its lease is not over yet."""
    LOSE = "lose"
    """The lease ended, or somebody else holds the record."""
    GIVE_UP = "give up"
    """Stopped while leading, or while a campaign is under way."""
    HALT = "halt"
    """Stopped with nothing to give up."""
    SETTLE = "settle"
    """The resignation was sent, or is pointless by now."""
    CLOSE = "close"


TRANSITIONS: Mapping[State, Mapping[Move, State]] = MappingProxyType(
    {
        State.IDLE: {
            Move.START: State.STANDBY,
            Move.HALT: State.IDLE,
            Move.CLOSE: State.CLOSED,
        },
        State.STANDBY: {
            Move.WIN: State.LEADING,
            Move.GIVE_UP: State.RESIGNING,
            Move.HALT: State.IDLE,
        },
        State.LEADING: {Move.LOSE: State.STANDBY, Move.GIVE_UP: State.RESIGNING},
        State.RESIGNING: {
            Move.SETTLE: State.IDLE,
            Move.HALT: State.RESIGNING,
            Move.START: State.STANDBY,
        },
        State.CLOSED: {Move.CLOSE: State.CLOSED, Move.HALT: State.CLOSED},
    }
)


def next_state(state: State, move: Move) -> State:
    """Return the state after a move.

    Raises:
        LifecycleError: The table does not allow the move.
    """
    try:
        return TRANSITIONS[state][move]
    except KeyError:
        message = f"a candidate that is {state.value} cannot {move.value}"
        raise LifecycleError(message) from None
