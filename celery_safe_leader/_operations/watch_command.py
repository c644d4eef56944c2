"""``leader watch``: the status, again and again, in a terminal."""

from __future__ import annotations

import sys
import time

import click

from celery_safe_leader._operations.pause_commands import length
from celery_safe_leader._operations.status_command import lines, read_status
from celery_safe_leader._operations.target import ROLES, Target, pass_target
from celery_safe_leader.errors import StoreError

__all__ = ["watch"]

_LEAST = 0.5
"""Seconds: each look is some ten requests."""


def _interval(context: click.Context, option: click.Parameter, value: str) -> float | None:
    seconds = length(context, option, value)
    if seconds is not None and seconds < _LEAST:
        raise click.BadParameter(f"{value!r} is too short: at least {_LEAST:g}s is allowed")
    return seconds


@click.command()
@click.option("--role", type=click.Choice(ROLES), help="Show this election alone.")
@click.option(
    "--every",
    "seconds",
    metavar="LENGTH",
    default="2s",
    show_default=True,
    callback=_interval,
    help="How often to look: at least 0.5s.",
)
@pass_target
def watch(target: Target, role: str | None, seconds: float) -> int:
    """Show what `status` shows, live, until Ctrl-C. While Redis is away, say so and go on."""
    try:
        while True:
            _show(target, role)
            time.sleep(seconds)
    except KeyboardInterrupt:
        return 0


def _show(target: Target, role: str | None) -> None:
    try:
        shown = list(lines(read_status(target, role, wait=False)))
    except StoreError as exc:
        shown = [f"{target.told(exc)}; looking again"]
    # Into a file or a pipe one look follows the other.
    if sys.stdout.isatty():
        click.clear()
    click.echo("\n".join(shown))
