"""``leader history``: who led when, why it ended, and for how long nobody led."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import redis

from celery_safe_leader._operations.election_view import look_at, read_server
from celery_safe_leader._operations.output import (
    duration,
    moment,
    plain,
    print_json,
    print_table,
    utc,
)
from celery_safe_leader._operations.pause_commands import as_json_option, length
from celery_safe_leader._operations.target import ROLES, Target, candidates_of, pass_target
from celery_safe_leader._operations.tenure_history import (
    Ended,
    PastPause,
    PastTenure,
    pauses,
    read_events,
    tenures,
)
from celery_safe_leader._operations.timeline import ENDINGS, Timeline, draw, page

__all__ = ["HISTORY_HEAD", "RoleHistory", "history", "history_row", "timeline_of"]

HISTORY_HEAD = ("election", "from (UTC)", "to", "led for", "leader", "token", "how it ended", "gap")


@dataclass(frozen=True)
class RoleHistory:
    """What is known of one election."""

    role: str
    tenures: Sequence[PastTenure]
    pauses: Sequence[PastPause]
    now_us: int | None


@click.command()
@click.option("--role", type=click.Choice(ROLES), help="Show this election alone.")
@click.option(
    "--since", "seconds", metavar="LENGTH", callback=length, help="Only the last 90s, 15m, 2h, 1d."
)
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture.")
@click.option(
    "--html", "html_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a page."
)
@as_json_option
@pass_target
def history(
    target: Target, role: str | None, seconds: float | None, svg: Path | None,
    html_file: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Show who led when, why it ended, and for how long nobody led.

    Redis keeps about the last thousand events of an election, for 7 days after the last one. A
    leader that fell silent led until its last renewal, or a little longer.

    Exits with 0, and with 1 if nobody has led.
    """
    client = target.connect()
    try:
        roles = (role,) if role else target.roles
        # Without those that the user may not read, as in `status`.
        views = look_at(client, target, roles, read_server(client), wait=False)
        found = [_read(client, target, view.role) for view in views]
    finally:
        client.close()
    found = [_since(each, seconds) for each in found]
    found = [each for each in found if each.tenures]
    if svg is not None and found:
        # One picture: of the election that was named, or the first in which anybody led.
        _write(svg, draw(timeline_of(target, found[0])))
    if html_file is not None and found:
        rows = [HISTORY_HEAD, *_rows(found)]
        _write(html_file, page([timeline_of(target, each) for each in found], rows))
    if as_json:
        now_us = found[0].now_us if found else None
        elections = [_fields(each) for each in found]
        print_json("history", now_us, {"key": target.key, "elections": elections})
    elif not found:
        click.echo(f"Nobody has led {plain(target.key)}, as far as Redis remembers.")
    else:
        print_table(HISTORY_HEAD, _rows(found))
        for each in found:
            _print_pauses(each)
    return 0 if found else 1


def _read(client: redis.Redis, target: Target, role: str) -> RoleHistory:
    events = read_events(client, target.election(role))
    server = read_server(client)
    (view,) = look_at(client, target, (role,), server, wait=False)
    return RoleHistory(role, tenures(events, view), pauses(events), server.now_us)


def _since(history: RoleHistory, seconds: float | None) -> RoleHistory:
    if seconds is None or history.now_us is None:
        return history
    begin = history.now_us - round(seconds * 1e6)
    kept = [each for each in history.tenures if (_end(each) or history.now_us) >= begin]
    paused = [each for each in history.pauses if (each.to_us or history.now_us) >= begin]
    return RoleHistory(history.role, kept, paused, history.now_us)


def _end(tenure: PastTenure) -> int | None:
    return tenure.to_us if tenure.to_us is not None else tenure.next_us


def timeline_of(target: Target, history: RoleHistory) -> Timeline:
    """Return what is drawn of a history, until now if Redis's clock is known."""
    known = [
        at
        for tenure in history.tenures
        for at in (tenure.from_us, tenure.to_us, tenure.next_us)
        if at is not None
    ]
    last = max(known, default=0)
    # Where nobody can say what came after the last event, the picture ends with it.
    end = max(last, history.now_us or 0)
    title = f"Who led {target.key}: {candidates_of(history.role)}"
    return Timeline(title, history.tenures, history.pauses, min(known, default=0), end)


def _rows(found: Sequence[RoleHistory]) -> list[tuple[str, ...]]:
    return [history_row(history, each) for history in found for each in history.tenures]


def history_row(history: RoleHistory, tenure: PastTenure) -> tuple[str, ...]:
    """Return a tenure for people, in the columns of ``HISTORY_HEAD``."""
    end = history.now_us if tenure.ended is Ended.NOT else tenure.to_us
    known = end is not None and tenure.from_us is not None
    led = (end - tenure.from_us) / 1e6 if known else None  # type: ignore[operator]
    word = f" ({tenure.reason})" if tenure.reason else ""
    is_last = tenure.next_us is None
    return (
        history.role,
        _moment(tenure.from_us),
        "" if tenure.ended is Ended.NOT else _moment(tenure.to_us),
        duration(led),
        tenure.holder,
        str(tenure.token),
        f"{ENDINGS[tenure.ended]}{word}",
        "" if is_last and tenure.ended in (Ended.NOT, Ended.UNKNOWN) else duration(tenure.gap),
    )


def _moment(at_us: int | None) -> str:
    return moment(at_us).removesuffix(" UTC")


def _print_pauses(history: RoleHistory) -> None:
    for each in history.pauses:
        end = "now" if each.to_us is None else moment(each.to_us)
        why = f": {plain(each.reason)}" if each.reason else ""
        click.echo(f"paused from {moment(each.from_us)} to {end} by {plain(each.by)}{why}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise click.ClickException(f"{path} cannot be written: {exc.strerror}") from exc


def _fields(history: RoleHistory) -> dict[str, Any]:
    return {
        "role": history.role,
        "tenures": [
            {
                "holder": each.holder,
                "token": each.token,
                "from": utc(each.from_us),
                "to": utc(each.to_us),
                "ended": each.ended.value,
                "reason": each.reason or None,
                "gap": each.gap,
            }
            for each in history.tenures
        ],
        "pauses": [
            {
                "from": utc(each.from_us),
                "to": utc(each.to_us),
                "by": each.by or None,
                "reason": each.reason or None,
            }
            for each in history.pauses
        ],
    }
