"""``celery -A proj leader …``: the commands for people on call, and the rights of a Redis user.

Celery imports this module before it reads its command line. So importing it, unlike importing
others, changes tables of Celery's: ``celery … -- leader.ttl=3``, ``celery worker --no-leader`` and
``celery inspect leader`` become known here.
"""

from __future__ import annotations

from collections.abc import Iterable

import click
import redis
from celery import Celery
from celery.beat import ScheduleEntry
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader import conf
from celery_safe_leader._app_check import app_findings
from celery_safe_leader._beat.entries.names import text_name
from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._clients import redis_client
from celery_safe_leader._ledger.codec import LastRun
from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._operations.command_group import COMMANDS
from celery_safe_leader._operations.target import (
    NextMoment,
    Target,
    WrongSettingError,
    offer_target,
)
from celery_safe_leader._publishing.broker_settings import QueueKeys, queue_keys, why_write_ahead
from celery_safe_leader._schedules.rule import Rule, ScheduleError
from celery_safe_leader._store.acl import (
    CANDIDATE,
    CLUSTER,
    OPERATOR,
    PROBE,
    SENTINEL,
    TRANSACTIONAL,
    VIEWER,
    Patterns,
    key_patterns,
    queue_patterns,
    quoted,
    setuser,
)
from celery_safe_leader._store.connection.urls import scheme_of
from celery_safe_leader._store.keys import BEAT, WORKER
from celery_safe_leader._worker import inspection
from celery_safe_leader._worker.command_line import add_option

__all__ = ["inspection", "leader"]

conf.register_settings()
add_option()


@click.group(name="leader")
@click.pass_context
def leader(context: click.Context) -> None:
    """Show who leads and what runs, and act."""
    offer_target(context, lambda: _target(context.obj.app))


for _command in COMMANDS:
    leader.add_command(_command)


def _target(app: Celery) -> Target:
    try:
        settings = conf.read(app)
    except ImproperlyConfigured as exc:
        raise WrongSettingError(str(exc)) from exc

    def open_client(key: str, seconds: float | None = None) -> redis.Redis:
        return redis_client(settings, key, connect_timeout=seconds, read_timeout=seconds)

    roles = (BEAT, WORKER)
    return Target(
        settings.key,
        settings.server,
        open_client,
        open_client,
        settings.prefix,
        roles,
        lambda: _next_moments(app),
        lambda: app_findings(app, settings),
        settings.ttl,
        settings.wait_replicas,
    )


def _next_moments(app: Celery) -> NextMoment:
    """Read the app's schedule; return when an entry is due, where the ledger is of that schedule.

    Entries that cannot be read are not known.
    """
    _import_tasks(app)
    rules: dict[str, Rule] = {}
    for key, given in dict(app.conf.beat_schedule or {}).items():
        try:
            schedule = ScheduleEntry(**{**dict(given), "name": key, "app": app}).schedule
            rules[text_name(key)] = rule_for(schedule, tz=lambda: app.timezone)
        except Exception as exc:
            logger.debug("entry %r cannot be read: %r", key, exc)

    def next_moment(entry: str, run: LastRun) -> int | None:
        rule = rules.get(entry)
        if rule is None or not rule.exact or rule.fingerprint != run.fingerprint:
            return None
        try:
            return rule.after(run.base)
        except ScheduleError:
            return None

    return next_moment


@leader.command()
@click.option("--user", default="celery-leader", show_default=True, help="Name of the Redis user.")
@click.pass_context
def acl(context: click.Context, user: str) -> None:
    """Print the rights that beats and workers need in Redis.

    The output is for redis-cli and for the key of this app: one user for beats and workers, what
    it needs in addition for transactional publication, a read-only user, and an operator. Imports
    the tasks, to find their queues. Does not connect to Redis.
    """
    app = context.obj.app
    try:
        settings = conf.read(app)
    except ImproperlyConfigured as exc:
        raise WrongSettingError(str(exc)) from exc
    reason, queues = why_write_ahead(app), None
    if not reason:
        _import_tasks(app)
        queues = queue_keys(app, settings.queue)
    for line in rights(
        settings.key, settings.server, user, settings.prefix, queues=queues, reason=reason
    ):
        click.echo(line)


def _import_tasks(app: Celery) -> None:
    try:
        app.loader.import_default_modules()
    except Exception as exc:
        raise WrongSettingError(f"the tasks cannot be imported: {exc!r}") from exc


def rights(
    key: str,
    url: str,
    user: str,
    prefix: str = "",
    *,
    queues: QueueKeys | None = None,
    reason: str = "",
) -> list[str]:
    """Return the lines of ``leader acl``: comments begin with ``#``, all else is for redis-cli.

    Args:
        key: ``leader_key``.
        url: Of the election's server.
        user: Name of the Redis user.
        prefix: Of all keys of the election.
        queues: To which runs may go by transactional publication; ``None`` if none can.
        reason: Why none can.
    """
    patterns, scheme = key_patterns(key, prefix), scheme_of(url)
    extra = CLUSTER if "cluster" in scheme else ()
    lines = [
        f"# Rights of the elections and the ledger of {quoted(key)}, for redis-cli. Set passwords.",
        "# Beats and workers:",
        setuser(user, patterns.written, (*CANDIDATE, *extra)),
        *_transactional(user, patterns, queues, reason),
        "# Read-only user (celery leader status, …), Redis 7 and Valkey; Redis 6 needs ~ for %R~:",
        setuser(f"{user}-viewer", (), VIEWER, seen=patterns.seen),
        "# Operator, who may also pause, resume, ask a leader to resign, and move the ledger:",
        setuser(f"{user}-operator", patterns.acted, (*VIEWER, *OPERATOR), seen=patterns.seen),
    ]
    if "sentinel" in scheme:
        lines += ["# Beats and workers, on each Sentinel:", setuser(user, (), SENTINEL)]
    return [
        *lines,
        "# No channel is used. Omit +select for database 0, and +wait without",
        "# leader_wait_replicas. Without +info it works, but see docs/operations/redis-acl.md.",
        "# Celery's broker and result backend, if they use the same Redis user, need more.",
    ]


def _transactional(
    user: str, patterns: Patterns, queues: QueueKeys | None, reason: str
) -> list[str]:
    if queues is None:
        return (
            [f"# Every run goes by write-ahead, which needs no more: {reason}."] if reason else []
        )
    added = (*patterns.recorded, *queue_patterns(*queues))
    probed = " ".join(quoted(f"~{pattern}") for pattern in patterns.probed)
    return [
        "# The same user in addition, for transactional publication: beats put a run into its",
        "# queue in the script that records it. Without this line every run goes by write-ahead.",
        "# Add queues that only code names: one that is missing turns all runs to write-ahead.",
        setuser(user, added, TRANSACTIONAL, adds=True),
        f"# If the broker logs in as another user, it needs {_shown(PROBE)} {probed}",
        "# besides its own rights.",
    ]


def _shown(commands: Iterable[str]) -> str:
    return " ".join(f"+{command}" for command in commands)
