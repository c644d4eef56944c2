"""What an entry is called in the ledger and in the log: a string, whatever the schedule has."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["text_name"]

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def text_name(key: Any) -> str:
    """Return the name of an entry as a string, the same in every process.

    Stock beat takes any key, and uses it as a label alone. A subclass of ``str``, such as a member
    of an enum, is called what it equals; of others it is what ``str()`` says.

    Raises:
        Exception: Whatever ``str(key)`` raises.
    """
    if type(key) is str:
        return key
    if isinstance(key, str):
        return str.__str__(key)
    # bytes, since Python may be told to refuse str() of them.
    return _ADDRESS.sub("", repr(key) if isinstance(key, bytes) else str(key))
