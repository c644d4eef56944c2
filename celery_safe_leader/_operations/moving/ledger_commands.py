"""``leader ledger export``, ``import`` and ``rename``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import redis

from celery_safe_leader._ledger.errors import (
    LedgerBusyError,
    LedgerFormatError,
    LedgerUnmovableError,
)
from celery_safe_leader._ledger.moving.contents import (
    LedgerContents,
    read_accepted,
    read_contents,
)
from celery_safe_leader._ledger.moving.replacement import (
    note_accepted,
    rename_entry,
    replace_contents,
)
from celery_safe_leader._operations.election_view import Hold, look_at, read_server
from celery_safe_leader._operations.ledger_view import pause_in_force, read_ledger
from celery_safe_leader._operations.moving.ledger_file import (
    LedgerFile,
    UnusableFileError,
    ledger_lines,
    parse_ledger,
)
from celery_safe_leader._operations.moving.merging import MergedLedger, done, merge
from celery_safe_leader._operations.output import (
    clause,
    moment,
    no_collector,
    plain,
    print_json,
    utc,
)
from celery_safe_leader._operations.pause_commands import (
    as_json_option,
    by_option,
    note_action,
    warn,
)
from celery_safe_leader._operations.target import (
    CannotTellError,
    Target,
    as_operator,
    optional,
    pass_target,
    require_answer,
)
from celery_safe_leader._store.keys import BEAT, WORKER
from celery_safe_leader._store.server_now import read_time
from celery_safe_leader.errors import StoreUnavailableError

__all__ = ["ledger"]

_ATTEMPTS = 5
"""A paused leader writes once a second at most, and most ledgers are read in far less."""


@click.group()
def ledger() -> None:
    """Move the ledger to another Redis or key, or rename an entry in it."""


@ledger.command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@click.option("--force", is_flag=True, help="Replace FILE if it is there already.")
@pass_target
@no_collector()
def export(target: Target, file: str, force: bool) -> int:
    """Write the ledger to FILE, or to standard output, as JSON.

    Pause first: what runs after it was exported would run again where it is imported.

    Exits with 0, with 1 if there is no ledger, or the file is there or cannot be written, and with
    2 if Redis does not answer.
    """
    if file != "-" and not force and Path(file).exists():
        # It may be the only copy of a ledger that is gone.
        raise click.ClickException(
            f"{plain(file)} is there already: choose another name, or replace it with --force"
        )
    client = target.connect()
    try:
        contents, is_paused = _read(client, target)
        if contents.sentinels == (b"", b"") and not contents.runs:
            raise click.ClickException(
                f"there is no ledger: no LeaderScheduler has led {plain(target.key)}"
            )
        accepted = read_accepted(
            client, target.ledger, [claim.occurrence for claim in contents.claims.values()]
        )
        now_us, _ = optional(lambda: read_time(client))
    finally:
        client.close()
    head = {
        "at": utc(now_us),
        "key": target.key,
        "server": target.server,
        "election": contents.sentinel.owner if contents.sentinel else BEAT,
        "paused": is_paused,
    }
    _write(file, ledger_lines(head, contents, accepted))
    _warn(target, contents, is_paused, set(accepted))
    if file != "-":
        click.echo(f"Exported {_amount(contents.runs, contents.claims)} to {plain(file)}.")
    return 0


def _read(client: redis.Redis, target: Target) -> tuple[LedgerContents, bool]:
    """Return what a ledger holds, and whether it was paused all the time while it was read."""
    contents = read_contents(client, target.ledger)
    now_us, _ = optional(lambda: read_time(client))
    pause = pause_in_force(contents.pause, now_us)
    is_paused = contents.is_whole and pause is not None
    if is_paused:
        # Somebody may have ended it in between.
        after, _ = read_ledger(client, target.ledger)
        is_paused = after is not None and after.pause == contents.pause
    return contents, is_paused


def _warn(target: Target, contents: LedgerContents, is_paused: bool, accepted: set[str]) -> None:
    def warn(text: str) -> None:
        click.echo(f"Warning: {text}", err=True)

    if not is_paused:
        warn(
            f"{plain(target.key)} is not paused. What runs from now on would run again where this "
            f"is imported. For a move: `{target.command} pause`, and export again"
        )
    elif contents.pause is not None and contents.pause.until_us:
        warn(
            f"the pause ends at {moment(contents.pause.until_us)}. Beats that still use this "
            "server publish from then on what the other one publishes too: stop them before, or "
            "pause again without --for"
        )
    unknown = [c for c in contents.claims.values() if c.occurrence not in accepted]
    if unknown:
        warn(
            f"{clause(len(unknown), 'run')} claimed, and it is not known whether published: a "
            "leader finds out or publishes again. Better: wait until `status` counts no run on the "
            "way, and export again"
        )
    if contents.unreadable:
        names = ", ".join(f"{plain(name, 60)!r}" for name in sorted(contents.unreadable)[:5])
        warn(
            f"{clause(len(contents.unreadable), 'value')} cannot be read and will not be imported: "
            f"{names}"
        )


@ledger.command("import")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--older", is_flag=True, help="Import a copy that was made while runs were published."
)
@click.option(
    "--unsettled",
    type=click.Choice(["repeat", "skip"]),
    help="For another key: publish runs again that may be published, or count them as done.",
)
@by_option
@as_json_option
@pass_target
@no_collector()
@as_operator()
def import_(
    target: Target, file: str, older: bool, unsettled: str | None, by: str, as_json: bool
) -> int:
    """Put the ledger of FILE (-: standard input) into this key, all of it or nothing.

    The ledger has to be empty, or paused; it is paused afterwards. Of an entry that is in both, the
    later last run counts.

    Exits with 0, with 1 if it is refused, which changes nothing, and with 2 if Redis does not
    answer: then it may be done, and may be repeated.
    """
    given = _load(file)
    if not given.is_paused and not older:
        raise click.ClickException(
            f"{plain(file)} was made while {plain(given.key)} was not paused: what ran since would "
            "run again. Export it while it is paused; or take it as an older copy, with --older"
        )
    _settle_elsewhere(target, given, unsettled)
    client = target.connect()
    try:
        require_answer(client, target)
        number, merged = _import(client, target, given)
        warn(note_action(client, target, "imported", by, f"from {plain(given.key)}"))
        now_us, _ = optional(lambda: read_time(client))
    finally:
        client.close()
    if as_json:
        fields = {"from": given.key, "entries": len(merged.runs), "claims": len(merged.claims)}
        print_json("ledger-import", now_us, {"key": target.key, **fields, "pause": number})
    else:
        click.echo(
            f"Imported {_amount(given.runs, given.claims)} of {plain(given.key)}: "
            f"{plain(target.key)} holds {_amount(merged.runs, merged.claims)}, and is PAUSED "
            f"(pause #{number}). When no other beat publishes them any more: "
            f"`{target.command} resume`."
        )
    return 0


def _settle_elsewhere(target: Target, given: LedgerFile, unsettled: str | None) -> None:
    """Decide about runs of which only workers of the other key could say whether they ran."""
    unknown = [c for c in given.claims.values() if c.occurrence not in given.accepted]
    if given.key == target.key or not unknown or unsettled == "repeat":
        return
    if unsettled is None:
        names = ", ".join(f"{plain(claim.entry, 60)!r}" for claim in unknown[:5])
        raise click.ClickException(
            f"{clause(len(unknown), 'run')} claimed under {plain(given.key)}, and it is not known "
            f"whether published: {names}. Workers tell two messages of a run apart within one key "
            "only. Export again when none is left; or choose: --unsettled repeat (they may run "
            "twice) or --unsettled skip (they may not run)"
        )
    for claim in unknown:
        given.runs[claim.entry] = done(claim, given.runs.get(claim.entry))
        del given.claims[claim.entry]


def _import(client: redis.Redis, target: Target, given: LedgerFile) -> tuple[int, MergedLedger]:
    for attempt in range(1, _ATTEMPTS + 1):
        there = read_contents(client, target.ledger)
        if there.sentinels == (b"", b""):
            _require_nobody(client, target)
        merged = merge(given, there)

        occurrences = {claim.occurrence for claim in merged.claims.values()}
        accepted = {each: given.accepted[each] for each in occurrences & given.accepted.keys()}
        try:
            # Before the claims: a leader may settle them at once.
            note_accepted(client, target.ledger, accepted)
            number = replace_contents(
                client, target.ledger, there, merged.runs, merged.claims, given.election
            )
        except LedgerBusyError as exc:
            if attempt == _ATTEMPTS:
                raise click.ClickException(str(exc)) from exc
        except LedgerUnmovableError as exc:
            raise click.ClickException(str(exc)) from exc
        except LedgerFormatError as exc:
            raise CannotTellError(str(exc)) from exc
        except StoreUnavailableError as exc:
            raise CannotTellError(
                f"{target.told(exc)}. It may be imported: import it again"
            ) from exc
        else:
            return number, merged
    raise AssertionError("the last attempt raises")


def _require_nobody(client: redis.Redis, target: Target) -> None:
    """Refuse where a leader lives whose ledger was lost: it is about to write its memory back."""
    views = look_at(client, target, (BEAT, WORKER), read_server(client), wait=True)
    for view in views:
        # Workers have a leader without any ledger.
        if view.hold is Hold.HELD and view.role == BEAT and view.record is not None:
            raise click.ClickException(
                f"{plain(target.key)} has no ledger, and {plain(view.record.holder)} leads its "
                "beats: it makes one within seconds. Then pause it, and import again"
            )


@ledger.command()
@click.argument("old")
@click.argument("new")
@by_option
@as_json_option
@pass_target
@as_operator()
def rename(target: Target, old: str, new: str, by: str, as_json: bool) -> int:
    """Let the entry OLD go on as NEW, from its last run on. The ledger has to be paused.

    Pause, rename, install the schedule with the new name, resume. An entry NEW that is in the
    ledger already must not have run.

    Exits with 0, with 1 if it is refused, which changes nothing, and with 2 if Redis does not
    answer: then it may be done.
    """
    if not old or not new or old == new:
        raise click.ClickException(
            f"OLD is {plain(old)!r} and NEW is {plain(new)!r}: they must be two names"
        )
    client = target.connect()
    try:
        require_answer(client, target)
        rename_entry(client, target.ledger, old, new)
        warn(note_action(client, target, "renamed", by, f"{plain(old, 80)} to {plain(new, 80)}"))
        now_us, _ = optional(lambda: read_time(client))
    except LedgerUnmovableError as exc:
        raise click.ClickException(str(exc)) from exc
    except LedgerFormatError as exc:
        raise CannotTellError(str(exc)) from exc
    except StoreUnavailableError as exc:
        raise CannotTellError(
            f"{target.told(exc)}. It may have been done: see `{target.command} runs`"
        ) from exc
    finally:
        client.close()
    if as_json:
        print_json("ledger-rename", now_us, {"key": target.key, "old": old, "new": new})
    else:
        click.echo(
            f"{plain(old)} goes on as {plain(new)}. Install the schedule with the new name before "
            f"`{target.command} resume`."
        )
    return 0


def _amount(runs: Iterable[Any], claims: Iterable[Any]) -> str:
    return f"{clause(len(list(runs)), 'entry', 'entries')} and {clause(len(list(claims)), 'claim')}"


def _load(file: str) -> LedgerFile:
    try:
        with click.open_file(file, encoding="utf-8") as opened:
            return parse_ledger(opened.read())
    except OSError as exc:
        raise click.ClickException(f"{plain(file)} cannot be read: {exc.strerror}") from exc
    except (UnusableFileError, UnicodeDecodeError) as exc:
        raise click.ClickException(f"{plain(file)}: {plain(str(exc), 400)}") from exc


def _write(file: str, lines: Iterator[str]) -> None:
    """Write a file in one go: an older one of the name stays until the new one is whole."""
    if file == "-":
        # All at once: a terminal, a pipe and a file cost much for each write.
        click.echo("\n".join(lines))
        return
    path = Path(file)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("w", encoding="ascii") as opened:
            opened.writelines(f"{line}\n" for line in lines)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(path)
    except OSError as exc:
        with suppress(OSError):
            beside.unlink()
        raise click.ClickException(f"{plain(file)} cannot be written: {exc.strerror}") from exc
