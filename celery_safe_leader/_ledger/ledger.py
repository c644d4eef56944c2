"""The ledger in Redis: which occurrence of each entry was published last, and which is about to be.

Write-ahead: an occurrence is claimed, then published, then committed. Every write is fenced by the
lease record, and by the generation and step of the ledger: a ledger that was lost or rolled back
refuses the next write. Knows neither schedules nor Celery nor the order of steps.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import redis

from celery_safe_leader._ledger import replies
from celery_safe_leader._ledger.acceptance import LONG_LIFE_MS
from celery_safe_leader._ledger.codec import (
    FORMAT,
    Claim,
    LastRun,
    Sentinel,
    encode_claim,
    encode_entry,
    encode_run,
    encode_sentinel,
)
from celery_safe_leader._ledger.load import load_hashes
from celery_safe_leader._ledger.owner import OwnerWatch
from celery_safe_leader._ledger.results import (
    Adoption,
    ClaimOutcome,
    Commit,
    CommitOutcome,
    Enrolment,
    EnrolmentOutcome,
    ForgetOutcome,
    Merged,
    Next,
    Settlement,
    SettlementOutcome,
    Snapshot,
    Written,
)
from celery_safe_leader._ledger.script_calls import call, ledger_script
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from celery_safe_leader.errors import LifecycleError

__all__ = ["BATCH", "Ledger"]

BATCH = 36
"""Half of the most commits and claims in one write, which keeps a script below 0.3 ms."""

_SMALL_BATCH = 25  # of what takes more commands or more time for each entry
_SHORTEST_SLACK = 5.0  # seconds

_T = TypeVar("_T")


class Ledger:
    """One candidate's access to the ledger of a key.

    A leader adopts it, loads it, settles what is pending, and then writes. All methods block for
    one round trip per batch and raise, besides what they name:

    - ``FencedError``: the lease record does not name this leader any more.
    - ``GenerationChangedError``: the ledger was lost or rolled back: ``adopt(restoring=True)``,
      ``merge()``, ``seal()``; or, without a memory worth it, ``adopt()`` and ``load()``.
    - ``StoreUnavailableError``: no answer; it may have been executed. Repeat the same request,
      with the same values: all of them may be repeated.
    - ``StoreRefusedError``: Redis answered with an error; nothing was changed.

    One thread at a time. The constructor does no IO.

    Args:
        client: Without ``decode_responses``, retries, and with time limits well below the ttl.
        key: The key, which the ledger belongs to.
        role: Which of the key's elections the leader leads: ``beat`` or ``worker``.
        ttl: Seconds; a claim may lie ahead of Redis's clock by this much, or by 5 s if that is
            more.
        early: Seconds by which it may lie further ahead, since claims are made before their moment.
        clock: Returns seconds that have passed; never goes back. It only times how long the record
            of another election stands still.
        prefix: Of all keys in Redis.
    """

    def __init__(
        self,
        client: redis.Redis,
        key: str,
        role: str,
        *,
        ttl: float,
        clock: Callable[[], float],
        early: float = 0.0,
        prefix: str = "",
    ) -> None:
        self.key = key
        self.role = role
        self.names = LedgerKeys(key, prefix)
        self._client = client
        self._election = ElectionKeys(key, role, prefix)
        self._slack_us = round((max(ttl, _SHORTEST_SLACK) + early) * 1_000_000)
        self._owner_watch = OwnerWatch(ttl, clock)
        self._owner_watch.follow(role)
        self._holder = ""
        self._token = 0
        self._generation = ""
        self._step = 0
        self._floor = 0
        self._partial = False

    def adopt(self, holder: str, token: int, *, restoring: bool = False) -> Adoption:
        """Make the ledger this leader's, under a new generation.

        Args:
            holder: Candidate id of this leader.
            token: Its fencing token.
            restoring: The leader is about to merge its memory in, and will ``seal()``. Until then
                the ledger is marked as one that entries may be missing from.

        Raises:
            LedgerOwnedError: It belongs to another election of the key that has a leader. Ask
                again every few seconds: it becomes this one's when that leader is gone.
            LedgerFormatError: A release that this one cannot read has written it.
        """
        generation = secrets.token_hex(8)
        reply = self._request_adoption(holder, token, generation, restoring)
        if reply[0] == b"OWNED" and not reply[2]:
            # The script can read only a lease that it was given the key of.
            self._owner_watch.follow(reply[1].decode("utf-8", "replace"))
            reply = self._request_adoption(holder, token, generation, restoring)
        if reply[0] == b"OWNED" and reply[2]:
            self._owner_watch.see(*reply[3:6])
        replies.refuse(reply, self._election, holder, token, self.role)
        self._holder, self._token = holder, token
        self._generation, self._step, self._floor = generation, 0, 0
        self._partial = restoring
        return replies.adoption(reply)

    def load(self) -> Snapshot:
        """Read all that the ledger knows, in pieces that do not block Redis.

        Raises:
            LedgerFormatError: There is a value that no release writes.
        """
        loaded = load_hashes(self._client, self.names)
        # Had the ledger been lost while it was read, the pieces would be taken for the whole.
        now = self.write((), ()).now
        return loaded.snapshot(now, self._slack_us)

    def write(self, commits: Sequence[Commit], claims: Sequence[Next]) -> Written:
        """Commit one batch and claim the next, in one round trip; either may be empty.

        A claim may be of an entry that is committed in the same write: its run is then the one
        that this commit records. Without both it only checks that the ledger is as this leader
        left it.

        Args:
            commits: At most one for each entry. One that records the run which the claim was
                computed from takes the claim back.
            claims: At most one for each entry; with the commits at most twice ``BATCH``.
        """
        if len(commits) + len(claims) > 2 * BATCH:
            raise LifecycleError(
                f"a write of {len(commits)} commits and {len(claims)} claims is too large; "
                f"at most {2 * BATCH} together"
            )
        later = [claim for claim in claims if claim.is_later]
        now, committed, claimed = self._call("write", self._write_args(commits, later))
        outcomes = iter(replies.letters(ClaimOutcome, claimed))
        return Written(
            replies.letters(CommitOutcome, committed),
            tuple(next(outcomes) if c.is_later else ClaimOutcome.NOT_LATER for c in claims),
            now,
        )

    def _write_args(
        self, commits: Sequence[Commit], claims: Sequence[Next]
    ) -> list[bytes | str | int]:
        latest = max((each.claim.moment for each in claims), default=0)
        return [
            *(self._slack_us, latest, len(commits), len(claims)),
            *(encode_entry(commit.claim.entry) for commit in commits),
            *(encode_claim(commit.claim) for commit in commits),
            *(encode_run(commit.run) for commit in commits),
            *(encode_entry(each.claim.entry) for each in claims),
            *(encode_claim(each.claim) for each in claims),
            *(encode_run(each.after) if each.after else b"" for each in claims),
        ]

    def settle(self, claims: Sequence[Claim]) -> list[Settlement]:
        """Return for claims that may be attempted again whether a worker has accepted them.

        From here on they are remembered for 30 days, so that a late copy meets a record.
        """
        settled: list[Settlement] = []
        for batch in _batches(claims, _SMALL_BATCH):
            keys: list[str] = []
            args: list[bytes | str | int] = [LONG_LIFE_MS]
            for claim in batch:
                keys += (self.names.accepted(claim.occurrence), self.names.again(claim.occurrence))
                args += (encode_entry(claim.entry), encode_claim(claim))
            letters, *nonces = self._call("settle", args, *keys)
            outcomes = replies.letters(SettlementOutcome, letters)
            for claim, outcome, nonce in zip(batch, outcomes, nonces, strict=True):
                settled.append(Settlement(claim, outcome, nonce.decode("utf-8", "replace")))
        return settled

    def enrol(self, enrolments: Sequence[Enrolment]) -> list[EnrolmentOutcome]:
        """Write last runs: of new entries, changed schedules, and moments to be brought back."""
        outcomes: list[EnrolmentOutcome] = []
        for batch in _batches(enrolments, BATCH):
            args: list[bytes | str | int] = []
            for each in batch:
                expected = b"" if each.expected is None else encode_run(each.expected)
                args += (encode_entry(each.entry), expected, encode_run(each.run))
            outcomes += replies.letters(EnrolmentOutcome, self._call("enrol", args)[0])
        return outcomes

    def merge(self, runs: Mapping[str, LastRun], pending: Mapping[str, Claim]) -> list[Merged]:
        """Write the memory back. For each entry the later run and the later claim are kept.

        Pass all entries that were loaded or enrolled, also those that no schedule has. It may be
        called for parts of the memory, as long as an entry's run and claim come together.

        Returns:
            The entries of which Redis knew a later run or claim, with what stands now: replace
            run and claim in the memory, also by ``None``.

        Raises:
            LedgerFormatError: Redis has a later value which cannot be read.
        """
        merged: list[Merged] = []
        for batch in _batches(dict.fromkeys((*runs, *pending)), _SMALL_BATCH):
            args: list[bytes | str | int] = []
            for entry in batch:
                run, claim = runs.get(entry), pending.get(entry)
                args += (encode_entry(entry), encode_run(run) if run else b"")
                args.append(encode_claim(claim) if claim else b"")
            merged += replies.merged(self.key, batch, runs, pending, self._call("merge", args))
        return merged

    def seal(self) -> None:
        """Declare the ledger whole, after everything was merged in."""
        self._partial = False
        self.write((), ())

    def forget(
        self, unknown: Collection[str], known: Collection[str] = (), *, grace: float
    ) -> dict[str, ForgetOutcome]:
        """Forget the entries that no leader has known for a grace period, by Redis's clock.

        Args:
            unknown: Entries of the ledger which this leader's schedule does not have.
            known: Entries of the schedule that are in ``Snapshot.unknown``: their time starts anew.
            grace: Seconds. 0 forgets at once, which also removes what cannot be read.

        Returns:
            An outcome for each of ``unknown``.
        """
        outcomes: dict[str, ForgetOutcome] = {}
        grace_us = round(grace * 1_000_000)
        for batch in _batches(known, _SMALL_BATCH):
            self._call("forget", [grace_us, 0, *map(encode_entry, batch)], self.names.unknown)
        for batch in _batches(unknown, _SMALL_BATCH):
            args: list[bytes | str | int] = [grace_us, len(batch), *map(encode_entry, batch)]
            (letters,) = self._call("forget", args, self.names.unknown)
            outcomes.update(zip(batch, replies.letters(ForgetOutcome, letters), strict=True))
        return outcomes

    def _request_adoption(self, holder: str, token: int, generation: str, restoring: bool) -> Any:
        sentinel = encode_sentinel(Sentinel(generation, 0, restoring, self.role))
        other = ElectionKeys(self.key, self._owner_watch.role, self.names.prefix)
        keys = (self._election.lease, self.names.runs, self.names.pending, other.lease)
        proof = self._owner_watch.proof()
        args = (holder, token, sentinel, FORMAT, self.role, self._owner_watch.role, *proof)
        return call(self._client, ledger_script("adopt", "guard"), keys, args)

    def _call(self, name: str, args: Sequence[bytes | str | int], *more_keys: str) -> list[Any]:
        """Call a guarded script. Raises what the docstring of the class names."""
        if not self._generation:
            raise LifecycleError("adopt() the ledger before reading or writing it")
        self._step += 1  # also by what fails: a late copy of it must not fit any more
        step = self._step
        sentinel = encode_sentinel(Sentinel(self._generation, step, self._partial, self.role))
        keys = (self._election.lease, self.names.runs, self.names.pending, *more_keys)
        head = (self._holder, self._token, self._generation, self._floor, step, sentinel)
        reply = call(self._client, ledger_script(name, "guard"), keys, (*head, *args))
        replies.refuse(reply, self._election, self._holder, self._token, self.role)
        self._floor = step
        return list(reply[1:])


def _batches(values: Iterable[_T], size: int) -> Iterable[tuple[_T, ...]]:
    iterator = iter(values)
    while batch := tuple(islice(iterator, size)):
        yield batch
