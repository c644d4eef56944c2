"""The rights that a Redis user needs, no more and no less, as rules of ``ACL SETUSER``.

Does no IO. A test runs everything with exactly these rights, and once without each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys

__all__ = [
    "CANDIDATE",
    "CLUSTER",
    "OPERATOR",
    "PROBE",
    "SENTINEL",
    "TRANSACTIONAL",
    "VIEWER",
    "Patterns",
    "key_patterns",
    "queue_patterns",
    "quoted",
    "setuser",
]

CANDIDATE = (
    *("blpop", "client|setname", "del", "eval", "evalsha", "exists", "get", "hdel", "hget"),
    *("hlen", "hmget", "hscan", "hset", "info", "ltrim", "mget", "pexpire", "rpush", "select"),
    *("set", "time", "wait", "xadd", "xrevrange"),
)
"""Commands of all candidates, and of workers that drop second publications."""
TRANSACTIONAL = ("lpush",)
"""What a candidate needs in addition to queue runs in the script that records them."""
PROBE = ("set",)
"""What a broker's user needs in addition, if it is not the same one."""
VIEWER = (
    *("client|setname", "get", "hget", "hgetall", "hlen", "hmget", "hscan", "info", "select"),
    *("time", "xrange"),
)
"""Commands of a read-only user."""
OPERATOR = (
    *("eval", "evalsha", "hdel", "hset", "persist", "pexpire", "rename", "rpush", "set", "unlink"),
    "xadd",
)
"""What a user needs in addition who pauses, resumes, asks a leader to resign, and moves ledgers."""
CLUSTER = ("asking", "cluster|slots")
"""What each of them needs in addition in a cluster."""
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
    acted: tuple[str, ...]
    """By operators, besides what they see."""
    recorded: tuple[str, ...]
    """By candidates that queue runs in the script that records them, besides the queues."""
    probed: tuple[str, ...]
    """By the user that the broker logs in as."""


def key_patterns(key: str, prefix: str = "") -> Patterns:
    """Return the patterns of all Redis keys of ``leader_key``, and of those that show who leads.

    Blanks in it, which a pattern cannot contain, become ``?``: any one byte.
    """
    elections = [ElectionKeys(key, role, prefix) for role in ("beat", "worker")]
    ours = [_glob(each.lease.removesuffix("lease")) + "*" for each in elections]
    ledger = LedgerKeys(key, prefix)
    hashes = [_glob(name) for name in (ledger.runs, ledger.pending, ledger.unknown)]
    occurrences = [_glob(name("")) + "*" for name in (ledger.accepted, ledger.again)]
    shown = [
        _glob(name)
        for each in elections
        for name in (each.lease, each.history, each.publication, each.presences)
    ]
    shown += hashes[:2]
    acted = [_glob(name) for each in elections for name in (each.ask, each.history)]
    acted += (*hashes, _glob(ledger.staged("", "").rstrip(":")) + ":*", occurrences[0])
    probes = [_glob(each.probe) for each in elections]
    written = (*ours, *hashes, *occurrences)
    recorded = (_glob(ledger.running),)
    return Patterns(written, tuple(shown), tuple(acted), recorded, tuple(probes))


def queue_patterns(names: Iterable[str], prefix: str, separator: str) -> tuple[str, ...]:
    """Return the patterns of the lists in which kombu keeps queues.

    Args:
        names: Of the queues.
        prefix: Before each key.
        separator: Between the name of a queue and a priority.
    """
    lists = [prefix + name for name in names]
    return tuple(part for each in lists for part in (_glob(each), f"{_glob(each + separator)}*"))


def setuser(
    user: str,
    patterns: tuple[str, ...],
    commands: tuple[str, ...],
    *,
    seen: tuple[str, ...] = (),
    adds: bool = False,
) -> str:
    """Return a line for ``redis-cli`` that creates a user, with ``PASSWORD`` to be replaced.

    Args:
        user: Name.
        patterns: Key patterns.
        commands: Names, with ``|`` before a subcommand.
        seen: Patterns of keys that the user may read only. Redis 7 and Valkey know such; Redis 6
            refuses the whole line.
        adds: Give an existing user more rights instead of creating one.
    """
    words = [] if adds else ["on", ">PASSWORD", "resetkeys", "resetchannels", "-@all"]
    words += [quoted(f"%R~{pattern}") for pattern in seen]
    words += [quoted(f"~{pattern}") for pattern in patterns]
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
