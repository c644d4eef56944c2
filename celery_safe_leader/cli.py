"""``celery -A proj leader …``: who leads, seen from outside, and the rights of a Redis user.

Celery imports this module before it reads its command line. So importing it, unlike importing
others, changes tables of Celery's: ``celery … -- leader.ttl=3``, ``celery worker --no-leader`` and
``celery inspect leader`` become known here.
"""

from __future__ import annotations

import time

import click
import redis
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader import conf
from celery_safe_leader._clients import redis_client
from celery_safe_leader._store.acl import (
    CANDIDATE,
    CLUSTER,
    SENTINEL,
    VIEWER,
    key_patterns,
    quoted,
    setuser,
)
from celery_safe_leader._store.connection.urls import scheme_of
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.record_view import RecordView, read_record
from celery_safe_leader._worker import inspection
from celery_safe_leader._worker.command_line import add_option
from celery_safe_leader.errors import StoreError

__all__ = ["inspection", "leader"]

conf.register_settings()
add_option()

_POLL = 0.05
"""Seconds between two reads of the record."""


@click.group(name="leader")
def leader() -> None:
    """Show who leads, and which rights a Redis user needs."""


@leader.command()
@click.option(
    "--workers",
    is_flag=True,
    help="Show which worker leads, as for worker -B, instead of which beat.",
)
@click.pass_context
def status(context: click.Context, workers: bool) -> None:
    """Show which beat leads, and whether it is alive.

    Watches the record for up to its ttl, until it is renewed. Only reads. Exits with 0 if a beat
    leads, and with 1 if none does or Redis does not answer.
    """
    role = "worker" if workers else "beat"
    try:
        settings = conf.read(context.obj.app)
        keys = ElectionKeys(settings.key, role, settings.prefix)
        alive, text = _watch(redis_client(settings, keys.lease), keys, role)
    except (ImproperlyConfigured, StoreError) as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(f"{keys.election} at {settings.server}: {text}")
    if not alive:
        context.exit(1)


@leader.command()
@click.option("--user", default="celery-leader", show_default=True, help="Name of the Redis user.")
@click.pass_context
def acl(context: click.Context, user: str) -> None:
    """Print the rights that beats and workers need in Redis.

    The output is for redis-cli and for the key of this app: one user for beats and workers, and a
    read-only user. Does not connect to Redis.
    """
    try:
        settings = conf.read(context.obj.app)
    except ImproperlyConfigured as exc:
        raise click.ClickException(str(exc)) from exc
    for line in rights(settings.key, settings.server, user, settings.prefix):
        click.echo(line)


def rights(key: str, url: str, user: str, prefix: str = "") -> list[str]:
    """Return the lines of ``leader acl``: comments begin with ``#``, all else is for redis-cli."""
    patterns, scheme = key_patterns(key, prefix), scheme_of(url)
    extra = CLUSTER if "cluster" in scheme else ()
    lines = [
        f"# Rights of the elections and the ledger of {quoted(key)}, for redis-cli. Set passwords.",
        "# Beats and workers:",
        setuser(user, patterns.written, (*CANDIDATE, *extra)),
        "# Read-only user (celery leader status), Redis 7 and Valkey; Redis 6 needs ~ for %R~:",
        setuser(f"{user}-viewer", patterns.seen, VIEWER, reads_only=True),
    ]
    if "sentinel" in scheme:
        lines += ["# Beats and workers, on each Sentinel:", setuser(user, (), SENTINEL)]
    return [
        *lines,
        "# No channel is used. Omit +select for database 0, and +wait without",
        "# leader_wait_replicas. Without +info it works, but see docs/operations/redis-acl.md.",
        "# Celery's broker and result backend, if they use the same Redis user, need more.",
    ]


def _watch(client: redis.Redis, keys: ElectionKeys, role: str) -> tuple[bool, str]:
    first = read_record(client, keys)
    if first is None:
        hint = "" if role == "worker" else " (for worker -B, add --workers)"
        return False, f"no record; no {role} has taken part since Redis was emptied{hint}"
    if not first.holder:
        return False, f"nobody leads yet; the {role}s wait in case a leader is still running"
    if first.resigned:
        return False, f"nobody leads; {first.holder} resigned (token {first.token})"
    started = time.monotonic()
    while time.monotonic() - started < first.ttl:
        time.sleep(_POLL)
        now = read_record(client, keys)
        if now is None or now.renewal != first.renewal:
            return _changed(now)
    return False, (
        f"nobody leads; {first.holder} (token {first.token}) has not been heard from for its ttl "
        f"of {first.ttl:g} s. If {role}s stand by, one takes over now; if not, start one"
    )


def _changed(now: RecordView | None) -> tuple[bool, str]:
    if now is None or not now.holder or now.resigned:
        return False, "leadership is changing hands at this moment; ask again"
    return True, f"{now.holder} leads (token {now.token}, ttl {now.ttl:g} s)"
