"""From a due moment to the id of its run, which is the task id."""

from __future__ import annotations

from hashlib import sha1
from uuid import UUID

__all__ = ["message_id", "occurrence_id", "repeated_id", "successor_id"]

# Of this project, and fixed: another value would give every run in flight a second id.
_NAMESPACE = UUID("3f4fc0ef-54fe-42bd-af55-87f18344e88c")


def occurrence_id(key: str, entry: str, moment_us: int) -> str:
    """Return the task id of the run of an entry that is due at a moment."""
    return _id(key, entry, "at", moment_us)


def successor_id(key: str, entry: str, last_us: int) -> str:
    """Return the task id of the run after ``last_us``, for a rule that is not ``exact``.

    It is never that of the run *at* ``last_us``, which may have been another schedule's.
    """
    return _id(key, entry, "after", last_us)


def repeated_id(key: str, entry: str, moment_us: int, until_us: int) -> str:
    """Return the task id of a run whose moment comes again, since clocks were set back.

    Args:
        key: Of the ledger.
        entry: Its name.
        moment_us: Of the run.
        until_us: Until when moments come again; other each time that clocks are set back.
    """
    return _id(key, entry, f"again:{until_us}:at", moment_us)


def message_id(occurrence: str, number: int) -> str:
    """Return the id of one of the messages of a run: that of the run for number 1."""
    return occurrence if number == 1 else _uuid5(f"{occurrence}message:{number}")


def _id(key: str, entry: str, relation: str, moment_us: int) -> str:
    # Lengths, since names may contain any separator.
    return _uuid5(f"{len(key)}:{key}{len(entry)}:{entry}{relation}:{moment_us}")


def _uuid5(name: str) -> str:
    # The same as str(uuid5(...)), in a fifth of its time: it is done for every run.
    hashed = sha1(_NAMESPACE.bytes + name.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    raw = bytearray(hashed.digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x50  # version 5
    raw[8] = raw[8] & 0x3F | 0x80  # variant of RFC 9562
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
