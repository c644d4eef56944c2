"""``celery -A proj leader …``: who leads, seen from outside, and what a Redis user needs.

Being a command of Celery's, this module is imported before the command line is read: so it is
here that ``celery … -- leader.ttl=3`` and ``celery inspect leader`` are made known to Celery.
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
from celery_safe_leader._store.record_view import Sighting, look
from celery_safe_leader._worker import inspection
from celery_safe_leader._worker.command_line import offer
from celery_safe_leader.errors import StoreError

__all__ = ["inspection", "leader"]

conf.register_settings()
offer()

_POLL = 0.05
"""Seconds between two looks."""


@click.group(name="leader")
def leader() -> None:
    """Show who leads, and which rights a Redis user needs."""


@leader.command()
@click.option(
    "--workers", is_flag=True, help="Which worker, as for worker -B, instead of which beat."
)
@click.pass_context
def status(context: click.Context, workers: bool) -> None:
    """Say which beat leads, and whether it is alive.

    Watches the record for up to its ttl, until it is renewed. Reads only. Ends with 0 if one
    leads, with 1 if none does, or if Redis does not answer.
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

    Lines for redis-cli, for the key of this app: one user for beats and workers, one for who only
    looks. Connects to nothing.
    """
    try:
        settings = conf.read(context.obj.app)
    except ImproperlyConfigured as exc:
        raise click.ClickException(str(exc)) from exc
    for line in rights(settings.key, settings.server, user, settings.prefix):
        click.echo(line)


def rights(key: str, url: str, user: str, prefix: str = "") -> list[str]:
    """Return what ``leader acl`` prints: comments begin with ``#``, all else is for redis-cli."""
    patterns, scheme = key_patterns(key, prefix), scheme_of(url)
    extra = CLUSTER if "cluster" in scheme else ()
    lines = [
        f"# Rights of the elections and the ledger of {quoted(key)}, for redis-cli. Set passwords.",
        "# Beats and workers:",
        setuser(user, patterns.written, (*CANDIDATE, *extra)),
        "# Who only looks (celery leader status), Redis 7 and Valkey; Redis 6 wants ~ for %R~:",
        setuser(f"{user}-viewer", patterns.seen, VIEWER, reads_only=True),
    ]
    if "sentinel" in scheme:
        lines += ["# Beats and workers, at each Sentinel:", setuser(user, (), SENTINEL)]
    return [
        *lines,
        "# No channel is used. Leave out +select for database 0 and +wait without",
        "# leader_wait_replicas. Without +info it works, but see docs/redis-acl.md.",
        "# Celery's broker and result backend, if they use the same Redis user, need more.",
    ]


def _watch(client: redis.Redis, keys: ElectionKeys, role: str) -> tuple[bool, str]:
    first = look(client, keys)
    if first is None:
        hint = "" if role == "worker" else " (for worker -B, add --workers)"
        return False, f"no record; no {role} has taken part since Redis was emptied{hint}"
    if not first.holder:
        return False, f"nobody leads yet; the {role}s wait in case that a leader is still out there"
    if first.resigned:
        return False, f"nobody leads; {first.holder} resigned (token {first.token})"
    started = time.monotonic()
    while time.monotonic() - started < first.ttl:
        time.sleep(_POLL)
        now = look(client, keys)
        if now is None or now.renewal != first.renewal:
            return _changed(now)
    return False, (
        f"nobody leads; {first.holder} (token {first.token}) was not heard of for its ttl of "
        f"{first.ttl:g} s. If {role}s stand by, one takes over now; if not, start one"
    )


def _changed(now: Sighting | None) -> tuple[bool, str]:
    if now is None or not now.holder or now.resigned:
        return False, "leadership is changing hands at this moment; ask again"
    return True, f"{now.holder} leads (token {now.token}, ttl {now.ttl:g} s)"
