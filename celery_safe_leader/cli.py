"""``celery -A proj leader …``: the commands for people on call, and the rights of a Redis user.

Celery imports this module before it reads its command line. So importing it, unlike importing
others, changes tables of Celery's: ``celery … -- leader.ttl=3``, ``celery worker --no-leader`` and
``celery inspect leader`` become known here.
"""

from __future__ import annotations

from collections.abc import Iterable

import click
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader import conf
from celery_safe_leader._app.app_target import app_target, import_tasks
from celery_safe_leader._operations.command_group import CommandGroup
from celery_safe_leader._operations.target import WrongSettingError, offer_target
from celery_safe_leader._publishing.broker_settings import QueueKeys, queue_keys, why_write_ahead
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
from celery_safe_leader._worker import inspection
from celery_safe_leader._worker.command_line import add_option

__all__ = ["inspection", "leader"]

_WITHOUT_CELERY = "python -m celery_safe_leader --url … --key …"

conf.register_settings()
add_option()


@click.group(name="leader", cls=CommandGroup)
@click.pass_context
def leader(context: click.Context) -> None:
    """Show who leads and what runs, and act."""
    offer_target(context, lambda: app_target(_named_app(context, context.invoked_subcommand)))


def _named_app(context: click.Context, command: str | None) -> Celery:
    """Return the app that the command line names, or that a ``celeryconfig`` configures.

    Args:
        context: Of this group or of its ``command``.
        command: Its name.

    Raises:
        WrongSettingError: There is neither. Celery's app without settings says nothing of anybody.
    """
    app: Celery = context.obj.app
    # Without the option Celery gives an app of its own; code that calls this group gives one.
    is_named = context.find_root().params.get("app", app) is not None
    if is_named or app.conf.get("leader_key") is not None:
        return app
    raise WrongSettingError(
        f"no Celery app is named: write -A and its module, as in `celery -A proj leader {command}`"
        + ("" if command == "acl" else f", or without Celery `{_WITHOUT_CELERY} {command}`")
    )


@leader.command()
@click.option("--user", default="celery-leader", show_default=True, help="Name of the Redis user.")
@click.pass_context
def acl(context: click.Context, user: str) -> None:
    """Print the rights that beats and workers need in Redis.

    The output is for redis-cli and for the key of this app: one user for beats and workers, what
    it needs in addition for transactional publication, a read-only user, and an operator. Imports
    the tasks, to find their queues. Does not connect to Redis.
    """
    app = _named_app(context, "acl")
    try:
        settings = conf.read(app)
    except ImproperlyConfigured as exc:
        raise WrongSettingError(str(exc)) from exc
    reason, queues = why_write_ahead(app), None
    if not reason:
        import_tasks(app)
        queues = queue_keys(app, settings.queue)
    for line in rights(
        settings.key, settings.server, user, settings.prefix, queues=queues, reason=reason
    ):
        click.echo(line)


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
        setuser(f"{user}-viewer", (), (*VIEWER, *extra), seen=patterns.seen),
        "# Operator, who may also pause, resume, ask a leader to resign, and move the ledger:",
        setuser(
            f"{user}-operator", patterns.acted, (*VIEWER, *OPERATOR, *extra), seen=patterns.seen
        ),
    ]
    if "sentinel" in scheme:
        lines += [
            "# Beats and workers, on each Sentinel; viewer and operator need the same there:",
            setuser(user, (), SENTINEL),
        ]
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
