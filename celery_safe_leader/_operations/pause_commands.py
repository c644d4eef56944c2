"""``leader pause`` and ``leader resume``: let nothing be published for a while, whoever leads."""

from __future__ import annotations

import getpass
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import redis

from celery_safe_leader._ledger import pausing
from celery_safe_leader._ledger.errors import LedgerFormatError, LedgerUnpausableError
from celery_safe_leader._ledger.pausing import PauseChange
from celery_safe_leader._operations.ledger_view import read_ledger
from celery_safe_leader._operations.output import clause, moment, plain, print_json, utc
from celery_safe_leader._operations.target import (
    CannotTellError,
    Target,
    as_operator,
    pass_target,
    require_answer,
)
from celery_safe_leader._store.errors import for_operator, translate
from celery_safe_leader._store.record_view import read_record
from celery_safe_leader._store.server_now import read_time
from celery_safe_leader.errors import StoreError, StoreRefusedError, StoreUnavailableError

__all__ = [
    "PauseOutcome",
    "as_json_option",
    "by_option",
    "length",
    "me",
    "note_action",
    "one_line",
    "pause",
    "pause_key",
    "resume",
    "resume_key",
    "seconds_of",
    "warn",
]

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
    return None if value is None else seconds_of(value)


def seconds_of(text: str) -> float:
    """Return a length of time in seconds.

    Raises:
        BadParameter: It is not one, or is too long.
    """
    parts = _PART.findall(text) if _LENGTH.fullmatch(text) else []
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if not 0 < seconds <= _LONGEST:
        raise click.BadParameter(
            f"{text!r} is not a length of time: write seconds, or 90s, 15m, 2h, 1d or 1h30m, "
            "above 0 and at most ten years"
        )
    return seconds


def _short(context: click.Context, option: click.Parameter, value: str) -> str:
    return one_line(value)


def one_line(value: str) -> str:
    """Return a string on one line.

    Raises:
        BadParameter: It is longer than the history takes.
    """
    text = " ".join(value.split())
    if len(text) > _LONGEST_TEXT:
        raise click.BadParameter(f"it has {len(text)} characters; at most {_LONGEST_TEXT} fit")
    return text


def me() -> str:
    """Return who runs this process, where: what a command says unless it is told."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container whose user has no name
        return f"?@{socket.gethostname()}"


by_option = click.option(
    "--by", callback=_short, default=me, show_default="you@this-host", help="Who asks for it."
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
    outcome = pause_key(target, seconds, by, reason, patience)
    warn(outcome.warning)
    if as_json:
        until = outcome.until_us
        ends = {"number": outcome.number, "until": utc(until) if until else None}
        fields = {"paused": True, **ends, "claimed_before": outcome.claims}
        print_json("pause", outcome.now_us, {"key": target.key, **fields})
    else:
        click.echo(outcome.text)
    return 1 if outcome.claims and patience else 0


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
    outcome = resume_key(target, by, reason)
    warn(outcome.warning)
    if as_json:
        fields = {"paused": False, "was_paused": outcome.was_paused}
        print_json("resume", outcome.now_us, {"key": target.key, **fields})
    else:
        click.echo(outcome.text)
    return 0


@dataclass(frozen=True, slots=True)
class PauseOutcome:
    """What became of a request to pause or to resume."""

    text: str
    """For people."""
    warning: str
    """What went wrong beside it; empty for nothing."""
    now_us: int | None
    """Redis's clock."""
    was_paused: bool | None = None
    """Before it was to be resumed; ``None`` if that is not known."""
    number: int | None = None
    until_us: int = 0
    """End of the pause; 0 for none."""
    claims: int = 0
    """Runs that were claimed before, and are left."""


@as_operator()
def pause_key(
    target: Target, seconds: float | None, by: str, reason: str, patience: float | None = None
) -> PauseOutcome:
    """Pause a key, and tell its history.

    Args:
        target: Which key.
        seconds: After which the pause ends by itself; ``None`` for no end.
        by: Who asks, and ``reason`` why, in one line each.
        reason: See ``by``.
        patience: Seconds to wait until no claimed run is left.

    Raises:
        ClickException: It cannot be paused; exit code 2 where it may have been.
        StoreError: Redis refuses.
    """
    client = target.connect()
    try:
        require_answer(client, target)
        change = _change(target, lambda: pausing.pause(client, target.ledger, seconds or 0.0))
        until = change.pause.until_us if change.pause else 0
        warning = note_action(client, target, "paused", by, reason, until)
        claims = _wait(client, target, change.claims, patience)
        now_us = _clock(client)
    finally:
        client.close()
    number = change.pause.number if change.pause else None
    end = f"until {moment(until)}" if until else "until it is resumed"
    text = f"{plain(target.key)} is PAUSED {end} (pause #{number}). Nothing is published."
    if claims:
        text += (
            f"\n{clause(claims, 'run')} claimed before by write-ahead. What its leader is "
            "sending may still go out; what it could not send waits for the end of the pause."
        )
    return PauseOutcome(text, warning, now_us, None, number, until, claims)


@as_operator()
def resume_key(target: Target, by: str, reason: str) -> PauseOutcome:
    """End a pause, and tell the history if there was one. Raises what ``pause_key`` raises."""
    client = target.connect()
    try:
        require_answer(client, target)
        before, _ = read_ledger(client, target.ledger)
        _change(target, lambda: pausing.resume(client, target.ledger))
        was_paused, warning = before.pause is not None if before else None, ""
        if was_paused is not False:
            warning = note_action(client, target, "resumed", by, reason)
        now_us = _clock(client)
    finally:
        client.close()
    if was_paused is False:
        text = f"{plain(target.key)} was not paused. Nothing was changed."
    else:
        text = f"{plain(target.key)} is resumed: due runs are published again."
    return PauseOutcome(text, warning, now_us, was_paused)


def _change(target: Target, ask: Callable[[], PauseChange]) -> PauseChange:
    try:
        return ask()
    except LedgerUnpausableError as exc:
        raise click.ClickException(str(exc)) from exc
    except LedgerFormatError as exc:
        raise CannotTellError(str(exc)) from exc
    except StoreUnavailableError as exc:
        raise CannotTellError(
            f"{target.told(exc)}. It may have been done: see `{target.command} status`"
        ) from exc


def note_action(
    client: redis.Redis, target: Target, event: str, by: str, reason: str = "", until_us: int = 0
) -> str:
    """Tell the history who did what to a ledger.

    The ledger alone decides, so a failure changes nothing: it is returned, as a warning.
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
        return f"done, but not noted in the history: {target.told(for_operator(exc))}"
    return ""


def warn(text: str) -> None:
    """Say on stderr what went wrong beside what was asked for, if anything did."""
    if text:
        click.echo(f"Warning: {text}", err=True)


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
