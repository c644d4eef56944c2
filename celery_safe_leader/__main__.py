"""``python -m celery_safe_leader --url … --key …``: the ``leader`` commands without Celery."""

from __future__ import annotations

import shlex

import click
import redis
from click.core import ParameterSource

from celery_safe_leader._operations.command_group import CommandGroup
from celery_safe_leader._operations.output import plain
from celery_safe_leader._operations.target import Target, WrongSettingError, offer_target
from celery_safe_leader._store.connection.client import describe, make_client
from celery_safe_leader._store.keys import checked_key
from celery_safe_leader.errors import ConfigurationError

__all__ = ["main"]

_TIMEOUT = 3.0
"""Seconds, for connecting and for each answer."""
_LONGEST = 2000
"""Characters of an option in advice."""


@click.group(cls=CommandGroup, context_settings={"auto_envvar_prefix": "CELERY_SAFE_LEADER"})
@click.option(
    "--url",
    required=True,
    show_envvar=True,
    help="Redis, Sentinels or cluster: leader_url, or redis= of the library. In the environment a "
    "password is not shown to other users of this machine.",
)
@click.option("--key", required=True, show_envvar=True, help="leader_key, or key= of the library.")
@click.option("--prefix", default="", help="Celery's global_keyprefix, if it is set.")
@click.option("--master-name", help="Name of the master that the Sentinels of --url watch.")
@click.pass_context
def main(context: click.Context, url: str, key: str, prefix: str, master_name: str | None) -> None:
    """Show who leads the elections of a key, and act on them."""
    options = {"master_name": master_name} if master_name else {}

    def open_client(name: str, seconds: float = _TIMEOUT) -> redis.Redis:
        return make_client(
            url,
            options,
            connect_timeout=seconds,
            read_timeout=seconds,
            key=name,
            setting="--url",
            options_setting="--master-name",
        )

    def target() -> Target:
        try:
            checked_key(key, "--key")
            open_client("").close()
        except ConfigurationError as exc:
            raise WrongSettingError(str(exc)) from exc
        return Target(
            key,
            describe(url),
            open_client,
            open_client,
            prefix,
            command=_called(context),
        )

    offer_target(context, target)


def _called(context: click.Context) -> str:
    """Return how this was called, for a shell; a URL that may hold a secret is left to be put in.

    What came from the environment is there for the next command as well.
    """
    words = ["python -m celery_safe_leader"]
    for option, value in context.params.items():
        if value and context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            is_secret = option == "url" and ("@" in value or "?" in value)
            shown = "…" if is_secret else shlex.quote(plain(value, _LONGEST))
            words.append(f"--{option.replace('_', '-')} {shown}")
    return " ".join(words)


if __name__ == "__main__":
    main(prog_name="python -m celery_safe_leader")
