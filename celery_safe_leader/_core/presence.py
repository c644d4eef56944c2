"""What a candidate says of itself, for people: plain data, and how it is written.

No decision of an election depends on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LONGEST", "Presence", "clipped", "without_credentials"]

LONGEST = 4096
"""Bytes of what one candidate says."""
_LONGEST_ERROR = 200
"""Bytes of the last error."""
_LONGEST_TEXT = 200
"""Bytes of any other text."""
_CREDENTIALS = re.compile(r"(\w://)[^\s/]*@")


@dataclass(frozen=True, slots=True)
class Presence:
    """What a candidate is and does. Lengths of time are in seconds."""

    host: str
    pid: int
    release: str
    """Of this package; empty if it is not installed as one."""
    ttl: float
    every: float
    """How often it says so, at least: a standby sends nothing between two looks."""
    age: float
    """Since it takes part."""
    token: int | None
    """Its fencing token, if it leads."""
    error: str = ""
    """The last error of Redis or of the connection to it."""
    error_age: float = 0.0
    """Since that error."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else whoever made the candidate says of it: strings and numbers, lists and mappings of
    them."""

    def encode(self) -> str:
        """Return it as one JSON object of at most 4096 bytes, in ASCII.

        If it is too long, ``about`` is left out.
        """
        fields: dict[str, Any] = {
            "host": clipped(self.host),
            "pid": self.pid,
            "release": clipped(self.release),
            "ttl": self.ttl,
            "every": self.every,
            "age": round(self.age, 3),
            "token": self.token,
        }
        if self.error:
            fields["error"] = clipped(without_credentials(self.error), _LONGEST_ERROR)
            fields["error_age"] = round(self.error_age, 3)
        whole = json.dumps({**fields, **self.about}, separators=(",", ":"))
        return whole if len(whole) <= LONGEST else json.dumps(fields, separators=(",", ":"))


def clipped(text: str, longest: int = _LONGEST_TEXT) -> str:
    """Return any text as one line of at most ``longest`` bytes of UTF-8."""
    line = "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
    return line.encode("utf-8", "replace")[:longest].decode("utf-8", "ignore")


def without_credentials(text: str) -> str:
    """Return a string without the user names and passwords of the URLs in it."""
    return _CREDENTIALS.sub(r"\1***@", text)
