"""``leader probe``: whether this process is alive, takes part or leads, for exec probes."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import redis

from celery_safe_leader._core.presence import clipped
from celery_safe_leader._operations.election_view import Hold, judge, read_server
from celery_safe_leader._operations.output import duration, plain, print_json
from celery_safe_leader._operations.pause_commands import as_json_option
from celery_safe_leader._operations.presence_view import CandidateView, read_candidates
from celery_safe_leader._operations.target import ROLES, Target, optional, pass_target
from celery_safe_leader._runtime.clock import host_in_ids
from celery_safe_leader._store.record_view import read_record
from celery_safe_leader.errors import StoreError, StoreRefusedError

__all__ = ["probe"]

_LIMIT = 0.6
"""Seconds for all that is asked of Redis: with the start of Python it stays within one."""
_GLOB = re.compile(r"([\\*?\[\]])")
_STANDS = {"T": "is stopped", "t": "is stopped", "Z": "has ended", "X": "has ended"}
"""States of Linux in which a process does nothing."""


@dataclass(frozen=True)
class _Verdict:
    """What a probe found."""

    code: int
    why: str
    ids: Sequence[str] = ()
    """Candidates that were meant."""


@dataclass(frozen=True)
class _Seen:
    """What Redis knows of this host's candidates."""

    candidates: Sequence[CandidateView]
    leading: Sequence[str]
    """Those whose lease was seen to be held."""
    unclear: Sequence[str]
    """Those of whom one look does not tell whether they lead."""


@click.command()
@click.option("--live", "what", flag_value="live", help="The process runs, and its loop turns.")
@click.option("--ready", "what", flag_value="ready", help="It takes part in the election.")
@click.option("--leader", "what", flag_value="leader", help="It leads, as far as is known.")
@click.option("--pid", type=click.IntRange(1), help="Of the process; --live needs it.")
@click.option("--role", type=click.Choice(ROLES), help="Only its part in this election.")
@as_json_option
@pass_target
def probe(
    target: Target, what: str | None, pid: int | None, role: str | None, as_json: bool
) -> int:
    """Tell within a second whether the beat, worker or candidate of this host is well.

    For exec probes, in the container of the process. Without --pid every candidate of this host is
    meant, and one that is well is enough.

    Exits with 0 for yes, 1 for no, and 2 if Redis does not tell in time. --live does not fail for
    Redis, nor for an election that the process has left for a while: it would be ended for nothing.
    """
    if what is None:
        raise click.UsageError("say which: --live, --ready or --leader")
    if what == "live" and pid is None:
        raise click.UsageError("--live needs --pid: in a container the main process is 1")
    verdict = _process(pid) if what == "live" and pid is not None else None
    if verdict is None:
        seen, error = _ask(target, pid, (role,) if role else target.roles)
        verdict = _judge(what, seen, error)
    if as_json:
        ok = {0: True, 1: False}.get(verdict.code)
        fields = {"probe": what, "ok": ok, "why": verdict.why, "candidates": list(verdict.ids)}
        print_json("probe", None, {"key": target.key, **fields})
    else:
        click.echo(verdict.why)
    return verdict.code


def _process(pid: int) -> _Verdict | None:
    """Return why a process is not alive; ``None`` if it runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return _Verdict(1, f"there is no process {pid}")
    except PermissionError:
        pass  # another user's, and there
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None  # not Linux
    if state in _STANDS:
        return _Verdict(1, f"process {pid} {_STANDS[state]}")
    return None


def _ask(target: Target, pid: int | None, roles: Sequence[str]) -> tuple[_Seen | None, str]:
    """Return what Redis knows; ``None`` and why if it does not tell in time."""
    found: list[_Seen] = []
    errors: list[str] = []

    def read() -> None:
        try:
            client = target.connect(_LIMIT)
            try:
                found.append(_read(client, target, pid, roles))
            finally:
                client.close()
        except StoreError as exc:
            errors.append(target.told(exc))

    # Behind Sentinels several servers are asked, each with a time limit of its own.
    thread = threading.Thread(target=read, name="leader:probe", daemon=True)
    thread.start()
    thread.join(_LIMIT)
    if found:
        return found[0], ""
    where = f"{plain(target.key)} at {plain(target.server)}"
    return None, errors[0] if errors else f"{where}: no answer from Redis within {_LIMIT:g} s"


def _read(client: redis.Redis, target: Target, pid: int | None, roles: Sequence[str]) -> _Seen:
    server = read_server(client)
    host = host_in_ids()
    plain_host = _GLOB.sub(r"\\\1", host)
    pattern = f"{plain_host}:{'*' if pid is None else pid}:*"
    mine: list[CandidateView] = []
    leading: list[str] = []
    unclear: list[str] = []
    me = clipped(socket.gethostname())
    may_see = False
    refused: StoreRefusedError | None = None
    for role in roles:
        keys = target.election(role)
        try:
            found = read_candidates(client, keys, server.now_us, pattern)
        except StoreRefusedError as exc:
            if not exc.is_missing_right:
                raise
            refused, found = exc, []
        else:
            may_see = True
        mine += [each for each in found if each.host in (None, me)]
        record, _ = optional(lambda keys=keys: [read_record(client, keys)])  # type: ignore[misc]
        view = judge(role, record[0] if record else None, server)
        holder = view.record.holder if view.record else ""
        if view.hold is Hold.HELD and _is_mine(holder, host, pid):
            leading.append(holder)
        elif view.hold is Hold.UNCLEAR and _is_mine(holder, host, pid):
            unclear.append(holder)
    if refused is not None and not may_see:
        raise refused
    return _Seen(mine, leading, unclear)


def _is_mine(holder: str, host: str, pid: int | None) -> bool:
    name, number, _ = (*holder.rsplit(":", 2), "", "")[:3]
    return name == host and (pid is None or number == str(pid))


def _judge(what: str, seen: _Seen | None, error: str) -> _Verdict:
    if seen is None:
        if what == "live":
            return _Verdict(0, f"the process runs; of its election nothing is known: {error}")
        return _Verdict(2, error)
    ids = [each.id for each in seen.candidates]
    if what == "leader":
        if seen.leading:
            return _Verdict(0, f"{plain(seen.leading[0])} held the lease just now", seen.leading)
        if seen.unclear:
            name = plain(seen.unclear[0])
            return _Verdict(2, f"{name} has not renewed its lease for a while", seen.unclear)
        return _Verdict(1, "no candidate of this host leads", ids)
    working = [each for each in seen.candidates if each.is_present and not each.is_stuck]
    stuck = [each for each in seen.candidates if each.is_present and each.is_stuck]
    if working:
        first = working[0]
        said = f"{plain(first.id)} takes part, seen {duration(first.silent_for)} ago"
        return _Verdict(0, said, ids)
    if stuck:
        first = stuck[0]
        stood = duration(first.stands_for)
        return _Verdict(1, f"the loop of {plain(first.id)} has not turned for {stood}", ids)
    if what == "live":
        return _Verdict(0, "the process runs, and takes no part in the election now", ids)
    return _Verdict(1, "no candidate of this host takes part", ids)
