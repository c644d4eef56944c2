"""Redis users with the rights that ``celery leader acl`` prints, or with one less."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import redis

from celery_safe_leader._publishing.broker_settings import QueueKeys
from celery_safe_leader.cli import rights
from tests.support.servers import Server

__all__ = ["AT_FIRST", "VIEWER_BEFORE", "denials", "printed", "url_of", "user_with", "words_of"]


AT_FIRST = (
    "ACL SETUSER celery-leader on >PASSWORD resetkeys resetchannels -@all ~{leader:shop}:beat:* "
    "~{leader:shop}:worker:* ~{leader:shop}:runs ~{leader:shop}:pending ~{leader:shop}:unknown "
    "~{leader:shop}:accepted:* ~{leader:shop}:again:* +blpop +client|setname +del +eval +evalsha "
    "+exists +get +hdel +hget +hlen +hmget +hscan +hset +info +ltrim +mget +pexpire +rpush "
    "+select +set +time +wait +xadd",
    "ACL SETUSER celery-leader-viewer on >PASSWORD resetkeys resetchannels -@all "
    "%R~{leader:shop}:beat:lease %R~{leader:shop}:beat:history %R~{leader:shop}:worker:lease "
    "%R~{leader:shop}:worker:history +client|setname +hgetall +hmget +select +xrange",
)
"""What was printed before there was transactional publication. Users have it in their servers."""
VIEWER_BEFORE = (
    "ACL SETUSER celery-leader-viewer on >PASSWORD resetkeys resetchannels -@all "
    "%R~{leader:shop}:beat:lease %R~{leader:shop}:beat:history %R~{leader:shop}:beat:publication "
    "%R~{leader:shop}:worker:lease %R~{leader:shop}:worker:history "
    "%R~{leader:shop}:worker:publication +client|setname +get +hgetall +hmget +select +xrange"
)
"""What was printed for viewers before the commands looked at clock, epoch and ledger."""


def printed(
    key: str,
    url: str = "redis://h",
    user: str = "celery-leader",
    *,
    queues: QueueKeys | None = None,
) -> list[list[bytes]]:
    """Return the printed lines, as words.

    They are for candidates, if ``queues`` are given also for transactional publication, for
    viewers and for operators.
    """
    lines = rights(key, url, user, queues=queues)
    return [words_of(line) for line in lines if not line.startswith("#")]


def words_of(line: str) -> list[bytes]:
    """Take a line apart as redis-cli does."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)
    return [_unescaped(quoted) if quoted else plain.encode() for quoted, plain in found]


def _unescaped(text: str) -> bytes:
    def meant(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else match[2]

    return re.sub(r"\\(?:x([0-9a-f]{2})|(.))", meant, text).encode("latin-1")


def user_with(
    server: Server, words: Iterable[bytes], *, without: str = "", name: str = "", db: int = 0
) -> str:
    """Make a user of a printed line, and return the server's URL for it."""
    left_out = f"+{without}".encode()
    chosen = [word.replace(b"PASSWORD", b"pw") for word in words if word != left_out]
    if name:
        chosen[2] = name.encode()
    client: Any = server.client()
    client.execute_command(*chosen)
    client.execute_command("ACL", "LOG", "RESET")
    return url_of(server, chosen[2].decode(), db)


def url_of(server: Server, user: str, db: int = 0) -> str:
    """Return the server's URL for a user."""
    return f"redis://{user}:pw@{server.host}:{server.port}/{db}"


def denials(client: redis.Redis) -> list[str]:
    """Return what was tried without the right to it."""
    seen: Any = client.acl_log()  # of all that show it, only this is the same up from redis-py 5
    return sorted(f"{entry['username']}: {entry['object']}" for entry in seen)
