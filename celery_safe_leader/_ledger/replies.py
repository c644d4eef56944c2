"""From raw replies of the ledger's scripts to results and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NoReturn, TypeVar

from celery_safe_leader._ledger.codec import (
    Claim,
    LastRun,
    UnreadableValueError,
    decode_claim,
    decode_run,
)
from celery_safe_leader._ledger.errors import (
    FencedError,
    FenceReason,
    GenerationChangedError,
    LedgerFormatError,
    LedgerOwnedError,
    LedgerPausedError,
    LedgerReplacedError,
)
from celery_safe_leader._ledger.hash_sentinel import (
    FORMAT,
    REPLACED,
    Pause,
    decode_sentinel,
)
from celery_safe_leader._ledger.results import Adoption, Condition, Merged
from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["adoption", "letters", "merged", "refuse", "refuse_format"]

_MOST_DIGITS = 16  # of a number that Lua can count to

_Outcome = TypeVar("_Outcome", bound=Enum)


def letters(kind: type[_Outcome], raw: bytes) -> tuple[_Outcome, ...]:
    """Return one outcome per letter."""
    return tuple(kind(letter) for letter in raw.decode())


def adoption(reply: Sequence[Any], pause: Pause | None) -> Adoption:
    """Return the result of an accepted adoption."""
    runs, pending = decode_sentinel(reply[1]), decode_sentinel(reply[2])
    entries, claims = reply[3], reply[4]
    if runs is None and pending is None and entries == claims == 0:
        condition = Condition.NEW
    elif runs is None or pending is None or reply[1] != reply[2]:
        condition = Condition.TORN
    else:
        condition = Condition.PARTIAL if runs.partial else Condition.WHOLE
    epoch = reply[6].decode("utf-8", "replace")
    return Adoption(condition, entries, claims, reply[5].decode(), pause, epoch)


def merged(
    key: str,
    batch: Sequence[str],
    runs: Mapping[str, LastRun],
    pending: Mapping[str, Claim],
    values: Sequence[bytes],
) -> list[Merged]:
    """Return what Redis knew later: two values for each entry of the batch, empty if nothing."""
    later: list[Merged] = []
    for entry, raw_run, raw_claim in zip(batch, values[::2], values[1::2], strict=True):
        if not raw_run and not raw_claim:
            continue
        try:
            run = decode_run(raw_run) if raw_run else runs.get(entry)
            claim = decode_claim(entry, raw_claim) if raw_claim else pending.get(entry)
        except UnreadableValueError as exc:
            raise LedgerFormatError(key, f"entry {entry!r}: {exc}") from exc
        if claim and run and claim.moment <= run.moment:
            claim = None
        later.append(Merged(entry, run, claim))
    return later


def refuse(reply: Sequence[Any], election: ElectionKeys, holder: str, token: int) -> None:
    """Raise the error for a script's refusal; nothing if the call was accepted."""
    status = reply[0]
    if status == b"FENCED":
        raise _fenced(reply, election, holder, token)
    if status == b"GENERATION":
        if _is_replaced(reply[1], reply[2]):
            raise LedgerReplacedError(election.key, "it was replaced, or an entry was renamed")
        raise GenerationChangedError(election.key, _torn(reply[1], reply[2]))
    if status == b"PAUSED":
        number, until = int(reply[1][:_MOST_DIGITS]), int(reply[2][:_MOST_DIGITS])
        raise LedgerPausedError(election.key, number, until, reply[3])
    if status == b"OWNED":
        raise _owned(reply, election)
    if status == b"FORMAT":
        refuse_format(reply[1], election.key)


def _fenced(reply: Sequence[bytes], election: ElectionKeys, holder: str, token: int) -> FencedError:
    named = reply[1].decode(errors="replace")
    if not named:
        reason = FenceReason.VACANT
    elif (named, reply[2]) != (holder, str(token).encode()):
        reason = FenceReason.SUPERSEDED
    else:
        reason = FenceReason.RESIGNED if reply[3] == b"1" else FenceReason.VACANT
    return FencedError(election.election, named, reason.name)


def _is_replaced(runs: bytes, pending: bytes) -> bool:
    sentinel = decode_sentinel(runs) if runs == pending else None
    return sentinel is not None and sentinel.generation.startswith(REPLACED)


def _torn(runs: bytes, pending: bytes) -> str:
    lost = [name for name, raw in (("runs", runs), ("pending", pending)) if not raw]
    if lost:
        return f"{' and '.join(lost)} was lost, or is no longer a ledger"
    return (
        "runs or pending is not as this leader left it: "
        f"runs is {runs[:100]!r}, pending is {pending[:100]!r}"
    )


def _owned(reply: Sequence[Any], election: ElectionKeys) -> LedgerOwnedError:
    owner = ElectionKeys(election.key, reply[1].decode("utf-8", "replace")).election
    holder = (reply[2] or b"").decode(errors="replace")
    detail = (
        f"it belongs to the election {owner!r}, whose leader is {holder or 'unknown'}, and this "
        f"candidate leads {election.election!r}. Stand-alone beats and `worker -B` are mixed under "
        "one leader_key: stop one kind, or give it another leader_key"
    )
    return LedgerOwnedError(election.key, detail, owner, holder)


def refuse_format(raw: bytes, key: str) -> NoReturn:
    """Raise the error for a sentinel that this release cannot read."""
    number = raw.split(b" ", 1)[0]
    if number.isdigit() and len(number) < 10 and int(number) > FORMAT:
        detail = (
            f"it has format {number.decode()}, but this release reads formats up to {FORMAT}: a "
            "newer release of celery-safe-leader has led. Install that release here as well"
        )
    else:
        detail = f"its sentinel is {raw[:100]!r}, which no release of celery-safe-leader writes"
    raise LedgerFormatError(key, detail)
