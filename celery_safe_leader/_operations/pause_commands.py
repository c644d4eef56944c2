"""``leader pause`` and ``leader resume``: let nothing be published for a while, whoever leads."""

from __future__ import annotations

import getpass
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import click
import redis

from celery_safe_leader._ledger import pausing
from celery_safe_leader._ledger.errors import LedgerFormatError, LedgerUnpausableError
from celery_safe_leader._ledger.pausing import PauseChange
from celery_safe_leader._operations.ledger_view import read_ledger
from celery_safe_leader._operations.output import clause, moment, plain, print_json, utc
from celery_safe_leader._operations.target import CannotTellError, Target, pass_target
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.record_view import read_record
from celery_safe_leader._store.server_now import read_time
from celery_safe_leader.errors import StoreError, StoreRefusedError, StoreUnavailableError

__all__ = ["as_json_option", "by_option", "length", "note_action", "pause", "resume"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LENGTH = re.compile(r"(?:\d{1,9}(?:\.\d{1,3})?[smhd]?)+")
_PART = re.compile(r"([\d.]+)([smhd]?)")
_LONGEST = 10 * 365 * 86_400
"""Seconds of a pause."""
_LONGEST_TEXT = 200
"""Characters of a reason or a name, so that the history stays small."""
_HISTORY = 604_800_000
"""Milliseconds that a history lasts, as in ``record.lua``."""
_POLL = 0.1
"""Seconds."""


def length(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Return seconds, written as ``90``, ``15m`` or ``1h30m``."""
    if value is None:
        return None
    parts = _PART.findall(value) if _LENGTH.fullmatch(value) else []
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if not 0 < seconds <= _LONGEST:
        raise click.BadParameter(
            f"{value!r} is not a length of time: write seconds, or 90s, 15m, 2h, 1d or 1h30m, "
            "above 0 and at most ten years"
        )
    return seconds


def _short(context: click.Context, option: click.Parameter, value: str) -> str:
    """Return a text shortened to what the history takes, on one line."""
    text = " ".join(value.split())
    if len(text) > _LONGEST_TEXT:
        raise click.BadParameter(f"it has {len(text)} characters; at most {_LONGEST_TEXT} fit")
    return text


def _me() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container whose user has no name
        return f"?@{socket.gethostname()}"


by_option = click.option(
    "--by", callback=_short, default=_me, show_default="you@this-host", help="Who asks for it."
)
_reason = click.option("--reason", callback=_short, default="", help="Shown to everybody.")
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.option(
    "--for",
    "seconds",
    metavar="LENGTH",
    callback=length,
    help="It ends by itself after 90s, 15m, 2h, 1d.",
)
@_reason
@by_option
@click.option(
    "--wait",
    "patience",
    metavar="LENGTH",
    callback=length,
    help="Wait at most so long until no run that was claimed before is left.",
)
@as_json_option
@pass_target
def pause(
    target: Target, seconds: float | None, reason: str, by: str, patience: float | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Let no beat publish anything until `resume`, whoever leads.

    The election goes on. What falls due meanwhile is missed: when the pause is over, the policy for
    missed runs decides. A pause on top of another one replaces it. Runs that go by write-ahead and
    were claimed before may still go out.

    Exits with 0 if it is paused, with 1 if it cannot be, or if claimed runs are left after --wait,
    and with 2 if Redis does not answer: then it may be paused.
    """
    client = target.connect()
    try:
        change = _change(lambda: pausing.pause(client, target.ledger, seconds or 0.0))
        until = change.pause.until_us if change.pause else 0
        note_action(client, target, "paused", by, reason, until)
        claims = _wait(client, target, change.claims, patience)
        now_us = _clock(client)
    finally:
        client.close()
    number = change.pause.number if change.pause else None
    if as_json:
        ends = utc(until) if until else None
        fields = {"paused": True, "number": number, "until": ends, "claimed_before": claims}
        print_json("pause", now_us, {"key": target.key, **fields})
    else:
        end = f"until {moment(until)}" if until else "until it is resumed"
        click.echo(f"{plain(target.key)} is PAUSED {end} (pause #{number}). Nothing is published.")
        if claims:
            click.echo(
                f"{clause(claims, 'run')} claimed before by write-ahead. What its leader is "
                "sending may still go out; what it could not send waits for the end of the pause."
            )
    return 1 if claims and patience else 0


@click.command()
@_reason
@by_option
@as_json_option
@pass_target
def resume(target: Target, reason: str, by: str, as_json: bool) -> int:
    """End a pause. What was missed meanwhile is up to the policy for missed runs.

    Exits with 0 if the key is not paused any more, also if it was not paused before; with 1 if
    there is nothing that could be resumed, and with 2 if Redis does not answer.
    """
    client = target.connect()
    try:
        before, _ = read_ledger(client, target.ledger)
        _change(lambda: pausing.resume(client, target.ledger))
        was_paused = before.pause is not None if before else None
        if was_paused is not False:
            note_action(client, target, "resumed", by, reason, 0)
        now_us = _clock(client)
    finally:
        client.close()
    if as_json:
        fields = {"paused": False, "was_paused": was_paused}
        print_json("resume", now_us, {"key": target.key, **fields})
    elif was_paused is False:
        click.echo(f"{plain(target.key)} was not paused. Nothing was changed.")
    else:
        click.echo(f"{plain(target.key)} is resumed: due runs are published again.")
    return 0


def _change(ask: Callable[[], PauseChange]) -> PauseChange:
    try:
        return ask()
    except LedgerUnpausableError as exc:
        raise click.ClickException(str(exc)) from exc
    except LedgerFormatError as exc:
        raise CannotTellError(str(exc)) from exc
    except StoreUnavailableError as exc:
        raise CannotTellError(f"{exc}. It may have been done: see `status`") from exc


def note_action(
    client: redis.Redis, target: Target, event: str, by: str, reason: str = "", until_us: int = 0
) -> None:
    """Tell the history who did what to a ledger.

    The ledger alone decides, so a failure changes nothing, and is said on stderr.
    """
    try:
        ledger, why = read_ledger(client, target.ledger)
        if ledger is None:
            raise StoreRefusedError(target.key, why)
        keys = target.election(ledger.owner)
        record = read_record(client, keys)
        # The token of whoever leads, so that the history stays in their order.
        token = record.token if record and record.token.isdigit() else "0"
        told = ("event", event, "holder", by, "token", token, "reason", reason)
        moments = ("at", read_time(client) // 1000, "until", until_us)
        caller: Any = client
        try:
            caller.execute_command("XADD", keys.history, "MAXLEN", "~", 1000, "*", *told, *moments)
            caller.execute_command("PEXPIRE", keys.history, _HISTORY)
        except (redis.RedisError, OSError) as exc:
            raise translate(keys.history, exc) from exc
    except StoreError as exc:
        click.echo(f"Warning: done, but not noted in the history: {exc}", err=True)


def _wait(client: redis.Redis, target: Target, claims: int, patience: float | None) -> int:
    """Return how many claims are left when there are none or patience is over."""
    until = time.monotonic() + (patience or 0.0)
    while claims and time.monotonic() < until:
        time.sleep(_POLL)
        ledger, _ = read_ledger(client, target.ledger)
        claims = ledger.unsettled if ledger else claims
    return claims


def _clock(client: redis.Redis) -> int | None:
    try:
        return read_time(client)
    except StoreError:
        return None
