"""What people ask a leader for, as it travels in the list ``ask``."""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ["RESIGN_WITHIN_US", "ResignRequest", "decode_request", "encode_request"]

RESIGN_WITHIN_US = 5_000_000
"""Microseconds after which a request counts no more: whoever asked has given up by then."""
_LONGEST = 4096
"""Bytes of a request that is read at all."""
_LONGEST_NAME = 200
"""Characters of the name of who asks."""


@dataclass(frozen=True, slots=True)
class ResignRequest:
    """Asks the leader of one tenure to hand leadership over."""

    token: int
    """Fencing token of that tenure: nobody else is meant."""
    expires_us: int
    """By Redis's clock, in microseconds since 1970."""
    by: str
    """Who asks, for the history and the log."""
    successor: str = ""
    """Candidate id of the one that the others are to let go first; empty for nobody."""

    @property
    def reason(self) -> str:
        """What the history says, in one line."""
        return f"requested by {self.by}" if self.by else "requested"


def encode_request(request: ResignRequest) -> bytes:
    """Return a request as a value of the list."""
    fields = {
        "ask": "resign", "token": request.token, "expires": request.expires_us, "by": request.by,
    }  # fmt: skip
    if request.successor:
        fields["to"] = request.successor
    return json.dumps(fields).encode()


def decode_request(value: bytes) -> ResignRequest | None:
    """Return a request, or ``None`` for anything else, such as one of a newer release."""
    try:
        fields = json.loads(value[:_LONGEST])
        if fields["ask"] != "resign":
            return None
        token, expires, by = fields["token"], fields["expires"], fields["by"]
        successor = fields.get("to", "")
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if type(token) is not int or type(expires) is not int:
        return None
    if not (isinstance(by, str) and isinstance(successor, str) and len(successor) <= _LONGEST_NAME):
        return None
    line = "".join(each if each.isprintable() else "?" for each in by[:_LONGEST_NAME])
    return ResignRequest(token, expires, line, successor)
