"""One line of ``leader check``: what was looked at, how it is, and what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Finding", "Grade", "bad", "doubtful", "good"]


class Grade(enum.Enum):
    """How something is; the value is what JSON shows."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    """It may be meant, or nobody can tell."""
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """How one thing is."""

    grade: Grade
    subject: str
    """A word or two."""
    text: str
    """A clause: what was found."""
    advice: str = ""
    """What to do about it; empty if nothing."""


def good(subject: str, text: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(Grade.GOOD, subject, text)


def doubtful(subject: str, text: str, advice: str) -> Finding:
    """Return that something may be meant, or that nobody can tell."""
    return Finding(Grade.DOUBTFUL, subject, text, advice)


def bad(subject: str, text: str, advice: str) -> Finding:
    """Return that something is wrong."""
    return Finding(Grade.BAD, subject, text, advice)
