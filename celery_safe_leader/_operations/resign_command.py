"""``leader resign``: ask whoever leads to hand over, and say what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import click
import redis

from celery_safe_leader._core.leader_request import (
    RESIGN_WITHIN_US,
    ResignRequest,
    encode_request,
)
from celery_safe_leader._operations.election_view import ElectionView, Hold, look_at, read_server
from celery_safe_leader._operations.ledger_view import read_ledger
from celery_safe_leader._operations.output import duration, plain, print_json
from celery_safe_leader._operations.pause_commands import as_json_option, by_option
from celery_safe_leader._operations.presence_view import read_candidates
from celery_safe_leader._operations.target import (
    LIBRARY,
    CannotTellError,
    Target,
    as_operator,
    candidates_of,
    optional,
    pass_target,
    require_answer,
)
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import BEAT, WORKER
from celery_safe_leader._store.record_view import RecordView, read_record
from celery_safe_leader._store.server_now import read_time
from celery_safe_leader.errors import StoreUnavailableError

__all__ = ["ResignOutcome", "ask_to_resign", "resign"]

_POLL = 0.02
"""Seconds between two reads of the record."""
_COURTESY = 2.0
"""Ttls at most, and some time more, until one that is alone leads again."""
_MORE = 3.0
"""Seconds."""
_POLL_SEEN = 0.1
_LONGEST_WAIT = 30.0
"""Seconds until a candidate has to be seen again that was not seen within its ttl."""
_NAMED = 5


@dataclass
class ResignOutcome:
    """What became of a request."""

    role: str
    before: RecordView
    successor: str
    """Who was asked for; empty for anybody."""
    answered_after: float | None = None
    """Seconds until the leader had resigned; ``None`` if it did not."""
    after: RecordView | None = None
    """Of whoever was elected next."""
    elected_after: float | None = None
    now_us: int | None = None
    """Redis's clock after it."""

    @property
    def is_needless(self) -> bool:
        """Whether nothing was asked, since the one that is meant leads already."""
        return self.successor == self.before.holder

    @property
    def is_done(self) -> bool:
        """Whether somebody leads under a new token, and who was meant, if anybody was."""
        elected = self.after.holder if self.after is not None else ""
        return self.is_needless or (bool(elected) and self.successor in ("", elected))

    def text(self, target: Target) -> str:
        """Return it for people."""
        if self.is_needless:
            return f"{plain(self.successor)} holds the lease already. Nothing was asked."
        return _text(target, self)


@click.command()
@click.option("--role", type=click.Choice([BEAT, WORKER]), help="Whose leader is meant.")
@click.option(
    "--to", "to", metavar="CANDIDATE", help="Who is to lead then: an id, or its beginning."
)
@by_option
@as_json_option
@pass_target
def resign(target: Target, role: str | None, to: str | None, by: str, as_json: bool) -> int:
    """Ask the leader to hand over to another candidate, which takes milliseconds.

    It finishes the batch under way, resigns, and lets all others go first for a moment; if there is
    nobody else, it leads again. Without --role the leading beat is meant; if no beat leads, the
    leading worker that keeps one (`worker -B`), and no other. The lease is never written for
    somebody else: only the leader acts.

    With --to the others let that candidate go first, for one of their `wait`. It must have been
    seen within a ttl; `status` shows who stands by.

    Exits with 0 if somebody leads under a new token (with --to: that candidate), with 1 if nobody
    did who could resign, nobody does now, or another one does, and with 2 if the leader does not
    answer within 5 s.
    """
    outcome = ask_to_resign(target, role, to, by)
    if as_json:
        print_json("resign", outcome.now_us, {"key": target.key, **_fields(outcome)})
    else:
        click.echo(outcome.text(target))
    return 0 if outcome.is_done else 1


@as_operator()
def ask_to_resign(target: Target, role: str | None, to: str | None, by: str) -> ResignOutcome:
    """Ask a leader to hand over. Blocks until somebody leads again, or for seconds.

    Args:
        target: Which key.
        role: Whose leader; ``None`` as ``leader resign`` without ``--role``.
        to: Id, or its beginning, of the one that is to lead then; ``None`` for anybody.
        by: Who asks, in one line.

    Raises:
        ClickException: Nobody was asked; exit code 2 where the leader did not answer.
        StoreError: Redis does not answer, or refuses.
    """
    client = target.connect()
    try:
        require_answer(client, target)
        view = _leading(client, target, role)
        if view.record is None or view.hold is not Hold.HELD:
            raise click.ClickException(
                f"nobody leads {plain(target.key)}, so nobody can resign; see `{target.command} "
                "status`"
            )
        if view.role != role and view.role != BEAT:
            _check_meant(client, target, view)
        successor = "" if to is None else _successor(client, target, view, to)
        outcome = ResignOutcome(view.role, view.record, successor)
        if not outcome.is_needless:
            _ask(client, target, by, outcome)
            if outcome.answered_after is None:
                raise CannotTellError(
                    f"{view.role} {plain(view.record.holder)} (token {view.record.token}) did not "
                    "act on it within 5 s: it is stopped or cut off, its beat hangs, or it is of "
                    "an older release. Nothing was changed; if it stays silent, another takes over "
                    "by itself"
                )
        outcome.now_us = read_time(client)
    finally:
        client.close()
    return outcome


def _leading(client: redis.Redis, target: Target, role: str | None) -> ElectionView:
    roles = (role,) if role else target.roles
    views = look_at(client, target, roles, read_server(client), wait=True)
    held = [view for view in views if view.hold is Hold.HELD]
    return (held or views)[0]


def _check_meant(client: redis.Redis, target: Target, view: ElectionView) -> None:
    """Make sure that a leader other than a beat is asked only if it was meant.

    Raises:
        ClickException: It is a worker without a beat, or a candidate of the library.
    """
    holder = plain(view.record.holder) if view.record else ""
    if view.role == LIBRARY:
        raise click.ClickException(
            f"{holder} leads {plain(target.key)}, and is a candidate of the library, which takes "
            "no requests: call its stop(), or end its process with shutdown(). Nothing was asked"
        )
    ledger, _ = read_ledger(client, target.ledger)
    seen, _ = optional(lambda: read_candidates(client, target.election(view.role), None))
    has_beat = any(
        each.has_beat is not None
        for each in seen or ()
        if view.record is not None and each.id == view.record.holder
    )
    if not has_beat and (ledger is None or ledger.owner != WORKER):
        raise click.ClickException(
            f"no beat leads {plain(target.key)}. Worker {holder} leads the workers, and is not "
            f"known to keep a beat: if it is meant, `{target.command} resign --role worker`. "
            "Nothing was asked"
        )


def _successor(client: redis.Redis, target: Target, view: ElectionView, named: str) -> str:
    """Return the id of the candidate that is meant, which was seen within its ttl.

    Raises:
        ClickException: There is no such, or it was not.
        CannotTellError: The Redis user may not see who takes part.
    """
    keys = target.election(view.role)
    started = time.monotonic()
    while True:
        candidates, refused = optional(lambda: read_candidates(client, keys, read_time(client)))
        if candidates is None:
            raise CannotTellError(f"it cannot be seen who takes part: {refused}")
        found = [each for each in candidates if each.id == named]
        found = found or [each for each in candidates if each.id.startswith(named)]
        holder = view.record.holder if view.record is not None else ""
        if holder and (holder == named or holder in {each.id for each in found}):
            # The beginning of the leader's id may be that of a standby's, too, as on one host.
            others = [each for each in found if each.id != holder and each.is_present]
            if holder == named or not others:
                return holder
            found = others
        if not found:
            raise click.ClickException(
                f"no candidate {plain(named)} takes part in the election of "
                f"{candidates_of(view.role)}. Nothing was asked; `{target.command} status` shows "
                "who does"
            )
        if len(found) > 1:
            names = ", ".join(plain(each.id) for each in found[:_NAMED])
            raise click.ClickException(
                f"{plain(named)} is the beginning of several: {names}. Nothing was asked"
            )
        (meant,) = found
        ttl = meant.every or _LONGEST_WAIT
        if meant.silent_for is not None and meant.silent_for <= ttl:
            return meant.id
        # One that is well gives a sign of life once per ttl: it may be due in a moment.
        if time.monotonic() - started > min(ttl, _LONGEST_WAIT):
            raise click.ClickException(
                f"{plain(meant.id)} was not seen for {duration(meant.silent_for)}, which is more "
                f"than its ttl of {ttl:g} s: it has ended, stands still or is cut off. Nothing was "
                "asked"
            )
        time.sleep(_POLL_SEEN)


def _ask(client: redis.Redis, target: Target, by: str, outcome: ResignOutcome) -> None:
    keys = target.election(outcome.role)
    before, expires_us = outcome.before, read_time(client) + RESIGN_WITHIN_US
    request = ResignRequest(int(before.token), expires_us, by, outcome.successor)
    caller: Any = client
    started = time.monotonic()
    try:
        caller.execute_command("RPUSH", keys.ask, encode_request(request))
        # If nobody reads it, the list goes.
        caller.execute_command("PEXPIRE", keys.ask, RESIGN_WITHIN_US // 1000)
    except (redis.RedisError, OSError) as exc:
        error = translate(keys.ask, exc)
        if isinstance(error, StoreUnavailableError):
            raise CannotTellError(
                f"{target.told(error)}. The leader may have been asked: see `{target.command} "
                "status`"
            ) from exc
        raise error from exc
    limit = RESIGN_WITHIN_US / 1e6
    while (passed := time.monotonic() - started) < limit:
        record = read_record(client, keys)
        is_same = record is not None and record.token == before.token
        if not is_same or (record is not None and record.resigned):
            if outcome.answered_after is None:
                outcome.answered_after = passed
                limit = passed + _COURTESY * before.ttl + _MORE
            if record is not None and not is_same and record.holder and not record.resigned:
                outcome.after, outcome.elected_after = record, passed
                break
        time.sleep(_POLL)


def _text(target: Target, outcome: ResignOutcome) -> str:
    before, after = outcome.before, outcome.after
    answered = f"after {duration(outcome.answered_after)} (token {before.token})"
    said = f"{outcome.role} {plain(before.holder)} resigned {answered}."
    if after is None:
        return (
            f"{said} Nobody was elected since: no other candidate stands by, and it did not take "
            f"part again. Start one, or see `{target.command} status`."
        )
    when = f"after {duration(outcome.elected_after)} (token {after.token})"
    missed = ""
    if outcome.successor not in ("", after.holder):
        missed = (
            f" {plain(outcome.successor)} was asked for and did not take over within a `wait` of "
            "the others: it stands still, is slow or cut off, or others are of an older release."
        )
    if after.holder == before.holder:
        alone = "" if missed else " Nobody else stands by:"
        return f"{said}{alone or ' So'} it was elected again {when}.{missed}"
    return f"{said} {plain(after.holder)} was elected {when}.{missed}"


def _fields(outcome: ResignOutcome) -> dict[str, Any]:
    before, after = outcome.before, outcome.after
    return {
        "role": outcome.role,
        "resigned": before.holder,
        "asked_for": outcome.successor or None,
        "token": int(before.token),
        "answered_after": outcome.answered_after,
        "elected": after.holder if after else None,
        "new_token": int(after.token) if after and after.token.isdigit() else None,
        "elected_after": outcome.elected_after,
    }
