"""The rights that a Redis user needs, no more and no less, as rules of ``ACL SETUSER``.

Does no IO. A test runs everything with exactly these rights, and once without each of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys

__all__ = [
    "CANDIDATE",
    "CLUSTER",
    "SENTINEL",
    "VIEWER",
    "Patterns",
    "key_patterns",
    "quoted",
    "setuser",
]

CANDIDATE = (
    *("blpop", "client|setname", "del", "eval", "evalsha", "exists", "get", "hdel", "hget"),
    *("hlen", "hmget", "hscan", "hset", "info", "ltrim", "mget", "pexpire", "rpush", "select"),
    *("set", "time", "wait", "xadd"),
)
"""Commands of all candidates, and of workers that drop second publications."""
VIEWER = ("client|setname", "hgetall", "hmget", "select", "xrange")
"""Commands of a read-only user."""
CLUSTER = ("asking", "cluster|slots")
"""What a candidate needs in addition in a cluster."""
SENTINEL = ("client|setname", "sentinel|get-master-addr-by-name", "sentinel|master")
"""What a candidate needs at the Sentinels."""

_GLOB = re.compile(r"([\\*?\[\]])")
_BLANK = re.compile(r"[\s\x00]", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_.:{}<>=+%~&*@|/#!,?-]+\Z")


@dataclass(frozen=True, slots=True)
class Patterns:
    """Key patterns, without the sign in front."""

    written: tuple[str, ...]
    """By candidates."""
    seen: tuple[str, ...]
    """By viewers."""


def key_patterns(key: str, prefix: str = "") -> Patterns:
    """Return the patterns of all Redis keys of ``leader_key``, and of those that show who leads.

    Blanks in it, which a pattern cannot contain, become ``?``: any one byte.
    """
    elections = [ElectionKeys(key, role, prefix) for role in ("beat", "worker")]
    ours = [_glob(each.lease.removesuffix("lease")) + "*" for each in elections]
    ledger = LedgerKeys(key, prefix)
    hashes = [_glob(name) for name in (ledger.runs, ledger.pending, ledger.unknown)]
    occurrences = [_glob(name("")) + "*" for name in (ledger.accepted, ledger.again)]
    shown = [_glob(name) for each in elections for name in (each.lease, each.history)]
    return Patterns((*ours, *hashes, *occurrences), tuple(shown))


def setuser(
    user: str, patterns: tuple[str, ...], commands: tuple[str, ...], *, reads_only: bool = False
) -> str:
    """Return a line for ``redis-cli`` that creates a user, with ``PASSWORD`` to be replaced.

    Args:
        user: Name.
        patterns: Key patterns.
        commands: Names, with ``|`` before a subcommand.
        reads_only: Write the patterns so that Redis 7 and Valkey refuse writes to these keys.
            Redis 6 refuses the whole line.
    """
    sign = "%R~" if reads_only else "~"
    words = ["on", ">PASSWORD", "resetkeys", "resetchannels", "-@all"]
    words += [quoted(sign + pattern) for pattern in patterns]
    words += [f"+{command}" for command in commands]
    return " ".join(("ACL SETUSER", quoted(user), *words))


def quoted(word: str) -> str:
    """Return a word quoted so that ``redis-cli`` reads it as one, whatever it contains."""
    if _PLAIN.match(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    shown = (
        character if character.isprintable() and character.isascii() else _hex(character)
        for character in escaped
    )
    return f'"{"".join(shown)}"'


def _hex(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def _glob(name: str) -> str:
    return _BLANK.sub("?", _GLOB.sub(r"\\\1", name))
