"""What a page may do: pause, resume, and ask a leader to resign; the same as the commands.

Whoever may ask for it, is decided by what answers HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click

from celery_safe_leader._operations.pause_commands import (
    PauseOutcome,
    me,
    one_line,
    pause_key,
    resume_key,
    seconds_of,
)
from celery_safe_leader._operations.resign_command import ask_to_resign
from celery_safe_leader._operations.target import CannotTellError, Target
from celery_safe_leader._store.keys import BEAT, WORKER
from celery_safe_leader.errors import StoreError

__all__ = ["ACTIONS", "ActionAnswer", "act"]


@dataclass(frozen=True, slots=True)
class ActionAnswer:
    """What became of an action."""

    is_done: bool
    text: str
    """For people."""
    is_unknown: bool = False
    """Whether it was not done since Redis, its rights or the leader did not let it be done, or
    nobody can tell; else it was wrong to ask for it."""


def act(target: Target, name: str, words: Mapping[str, str], who: str) -> ActionAnswer:
    """Do something. Blocks for up to some seconds. Raises nothing.

    Args:
        target: To which key.
        name: One of ``ACTIONS``.
        words: What was said with it: ``reason``, ``for`` (a length of time) of a pause; ``role``
            and ``to`` of a resignation. Empty is as good as absent; anybody may have sent it.
        who: Who asks, as far as is known.
    """
    try:
        return ACTIONS[name](target, words, one_line(who) or me())
    except click.ClickException as exc:
        return ActionAnswer(False, exc.message, isinstance(exc, CannotTellError))
    except StoreError as exc:
        return ActionAnswer(False, target.told(exc), True)


def _pause(target: Target, words: Mapping[str, str], by: str) -> ActionAnswer:
    length, reason = words.get("for", "").strip(), one_line(words.get("reason", ""))
    return _paused(pause_key(target, seconds_of(length) if length else None, by, reason))


def _resume(target: Target, words: Mapping[str, str], by: str) -> ActionAnswer:
    return _paused(resume_key(target, by, one_line(words.get("reason", ""))))


def _paused(outcome: PauseOutcome) -> ActionAnswer:
    warning = f"\nWarning: {outcome.warning}" if outcome.warning else ""
    return ActionAnswer(True, f"{outcome.text}{warning}")


def _resign(target: Target, words: Mapping[str, str], by: str) -> ActionAnswer:
    role = words.get("role", "") or None
    if role not in (None, BEAT, WORKER):
        raise click.BadParameter(f"role is {role!r:.80}; allowed are {BEAT} and {WORKER}")
    outcome = ask_to_resign(target, role, words.get("to", "").strip() or None, by)
    return ActionAnswer(outcome.is_done, outcome.text(target))


ACTIONS: Mapping[str, Callable[[Target, Mapping[str, str], str], ActionAnswer]] = {
    "pause": _pause,
    "resume": _resume,
    "resign": _resign,
}
"""By name."""
