"""The ledger in Redis: which occurrence of each entry was published last, and which is about to be.

Write-ahead: an occurrence is claimed, then published, then committed. Every write is fenced by the
lease record, and all but adopt() by the generation and step of the ledger: one that was lost or
rolled back refuses the next write. Knows neither schedules nor Celery nor the order of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import redis

from celery_safe_leader._core.messages import LedgerLook
from celery_safe_leader._core.steps import Steps, complete
from celery_safe_leader._ledger import replies
from celery_safe_leader._ledger.acceptance import LONG_LIFE_MS
from celery_safe_leader._ledger.codec import (
    Claim,
    LastRun,
    encode_claim,
    encode_entry,
    encode_run,
)
from celery_safe_leader._ledger.hash_sentinel import Pause
from celery_safe_leader._ledger.ledger_session import LedgerSession
from celery_safe_leader._ledger.notes.next_moments import (
    NextMoment,
    drop_next_moments,
    read_next_moments,
    write_next_moments,
)
from celery_safe_leader._ledger.owner import OwnerWatch
from celery_safe_leader._ledger.packed_commands import count_connections
from celery_safe_leader._ledger.probe import read_probe
from celery_safe_leader._ledger.publications import (
    BATCH,
    Batch,
    OverlapRule,
    Published,
    encode_batch,
    published,
)
from celery_safe_leader._ledger.reading.copying import copy_entries, copy_next
from celery_safe_leader._ledger.reading.load import (
    PIECE,
    Glance,
    glance,
    load_entries,
    load_hashes,
    load_unknown,
    read_entries,
    read_unknown,
)
from celery_safe_leader._ledger.results import (
    Adoption,
    ClaimOutcome,
    Commit,
    CommitOutcome,
    CopiedPiece,
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
from celery_safe_leader._ledger.way import Way, note_way
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from celery_safe_leader.errors import LifecycleError, SafeLeaderError

__all__ = ["BATCH", "PIECE", "Ledger"]

_ENROLLED_TOGETHER = 7 * BATCH  # in one write: the next ones are encoded while Redis works
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
        self._election = election = ElectionKeys(key, role, prefix)
        self.ttl = ttl
        self._slack_us = round(max(ttl, _SHORTEST_SLACK) * 1_000_000)
        self._early_us = round(early * 1_000_000)
        self._connections = count_connections(client)
        self._session = LedgerSession(client, election, self.names, OwnerWatch(ttl, clock))

    @property
    def probe_key(self) -> str:
        """Key under which the broker's connection leaves a value for :meth:`read_probe`."""
        return self._election.probe

    @property
    def connection_number(self) -> int:
        """Number of the client's latest connection to Redis; 0 before the first."""
        return self._connections.number

    @property
    def pause(self) -> Pause | None:
        """The pause that was in force at the last answer of Redis, if there was one."""
        return self._session.pause

    def adopt(self, holder: str, token: int, *, restoring: bool = False) -> Adoption:
        """Make the ledger this leader's, under a new generation. A pause is kept.

        Args:
            holder: Candidate id of this leader.
            token: Its fencing token.
            restoring: The leader is about to merge its memory in, and will ``seal()``. Until then
                the ledger is marked as one that entries may be missing from. Of the last pause
                or resumption in Redis and in the memory the later one is kept.

        Raises:
            LedgerOwnedError: It belongs to another election of the key that has a leader. Ask
                again every few seconds: it becomes this one's when that leader is gone.
            LedgerFormatError: A release that this one cannot read has written it.
        """
        return self._session.adopt(holder, token, restoring=restoring)

    def publish(
        self, batches: Sequence[Batch], may_write: Callable[[], bool], *, ahead: float = 0.0
    ) -> list[Published | SafeLeaderError] | None:
        """As ``publishing``, without a pause."""
        return complete(self.publishing(batches, may_write, ahead=ahead))

    def publishing(
        self, batches: Sequence[Batch], may_write: Callable[[], bool], *, ahead: float = 0.0
    ) -> Steps[list[Published | SafeLeaderError] | None]:
        """Put the messages of batches into their queues and record their runs, in one round trip.

        Each batch is one script: a message is in its queue exactly when its run is recorded as
        published. Errors come in the list instead of being raised.

        Args:
            batches: No entry may be in two of them.
            may_write: Called when all is encoded, right before the bytes go out; it may wait for
                the moment. It is asked once more if the server does not know the script yet.
            ahead: Seconds by which this machine's clock is known to be ahead of Redis's.

        Returns:
            ``None`` if ``may_write`` returned false: nothing was sent. Else for each batch its
            outcomes, or its error. ``StoreUnavailableError``: it may have been executed; publish
            the same batch again. Any other error, ``LedgerPausedError`` among them: it changed
            nothing.

        Raises:
            LifecycleError: The ledger was not adopted, or a batch is too large.
        """
        slack_us = self._slack_us + round(ahead * 1_000_000)
        for batch in batches:
            batch.check()
        encoded = [
            encode_batch(batch, slack_us, self.names.running, self.names.versions)
            for batch in batches
        ]
        sent = yield from self._session.send(encoded, may_write)
        if sent is None:
            return None
        return [
            answer if isinstance(answer, SafeLeaderError) else published(batch, answer)
            for batch, answer in zip(batches, sent, strict=True)
        ]

    def was_executed(self, batch: Batch) -> bool:
        """Return whether a batch that got no reply was executed, and what it recorded was lost.

        Then all its runs have to be taken for published, which loses those that it refused. If what
        it recorded is still there, ``merge()`` returns it, and here the answer is no.

        Ask after ``adopt(restoring=True)``: then no late copy of it can be executed any more. What
        shows it are the steps of its attempts. The ledger keeps those since the last request that
        was answered, so repeat such a batch before anything else is written.
        """
        return self._session.lost_step(batch.generation, batch.steps)

    def is_as_left(self, look: LedgerLook) -> bool:
        """Return whether a look at the ledger shows what this leader may have left. Does no IO.

        If not, the ledger was lost or rolled back, paused or resumed, or written to since the
        look: only a write tells.
        """
        return self._session.is_as_left(look.runs, look.pending)

    def read(self, entries: Collection[str]) -> dict[str, tuple[LastRun | None, Claim | None]]:
        """Return what Redis holds of entries now; without those whose values cannot be read.

        No earlier request of this leader can change it any more.
        """
        self.write((), ())
        found = read_entries(self._session.client, self.names, entries)
        # A ledger that was lost meanwhile knows nothing, which says nothing of the entries.
        self.write((), ())
        return found

    def glance(self, entries: Collection[str]) -> Glance:
        """Return what Redis holds of a few entries now, and whether it is paused. Not fenced.

        Raises:
            StoreUnavailableError: No answer.
            StoreRefusedError: Redis answered with an error.
        """
        return glance(self._session.client, self.names, entries)

    def read_probe(self) -> tuple[str, str]:
        """Return the value of the probe and the server's ``run_id``; empty if there is none.

        The ``run_id`` is empty too where INFO is denied. Needs no adoption.

        Raises:
            StoreUnavailableError: No answer.
            StoreRefusedError: Redis answered with an error.
        """
        return read_probe(self._session.client, self.probe_key)

    def note_next(self, moments: Mapping[str, NextMoment]) -> None:
        """Note when entries are due next, for a successor with other schedules. Not fenced.

        Raises:
            StoreUnavailableError: No answer.
            StoreRefusedError: Redis answered with an error.
        """
        write_next_moments(self._session.client, self.key, self._election.next, moments)

    def drop_next(self, entries: Collection[str]) -> None:
        """Remove the notes of entries that are gone. Raises what ``note_next`` raises."""
        drop_next_moments(self._session.client, self.key, self._election.next, entries)

    def read_next(self, entries: Collection[str]) -> dict[str, NextMoment]:
        """Return the notes of entries that have one. Raises what ``note_next`` raises."""
        return read_next_moments(self._session.client, self.key, self._election.next, entries)

    def note_way(self, way: Way, reason: str) -> None:
        """Note for people which way the runs of this tenure take to the broker. Not fenced.

        Raises:
            StoreUnavailableError: No answer.
            StoreRefusedError: Redis answered with an error.
        """
        note_way(self._session.client, self._election, self._session.token, way, reason)

    @property
    def clocks_apart(self) -> float:
        """Seconds by which the clocks of two leaders may differ: each of Redis's by half of it."""
        return 2 * self._slack_us / 1_000_000

    def copy_next(self, cursor: int = 0) -> CopiedPiece:
        """Read the next entries for a copy, from a cursor on. Needs no adoption.

        An entry that is there from the first piece to the last is in one of them at least. The
        pieces belong to one ledger if the state in each is the same.

        Raises:
            StoreUnavailableError: No answer.
            StoreRefusedError: Redis answered with an error.
        """
        return copy_next(self._session.client, self.names, cursor)

    def copy_entries(self, entries: Collection[str]) -> CopiedPiece:
        """Read these entries for a copy, ``PIECE`` at most. Needs no adoption.

        Raises:
            StoreUnavailableError: No answer.
            StoreRefusedError: Redis answered with an error.
        """
        return copy_entries(self._session.client, self.names, entries)

    def load(self, entries: Collection[str] | None = None, *, ahead: float = 0.0) -> Snapshot:
        """Read what the ledger knows, in pieces that do not block Redis.

        Args:
            entries: Read all claims, but of the runs only those of these entries and of entries
                with a claim. ``None`` reads all.
            ahead: Seconds by which this machine's clock is known to be ahead of Redis's.
        """
        client = self._session.client
        if entries is None:
            loaded = load_hashes(client, self.names)
        else:
            loaded = load_entries(client, self.names, entries)
        # Had the ledger been lost while it was read, the pieces would be taken for the whole.
        now = self.write((), ()).now
        return loaded.snapshot(now, self._slack(ahead))

    def unknown(self, cursor: int = 0) -> tuple[int, dict[str, int]]:
        """Return some entries that a leader did not know, from a cursor on, and since when.

        Returns:
            Where to go on, 0 at the end; and entry -> microseconds since 1970 by Redis's clock.
        """
        return load_unknown(self._session.client, self.names, cursor)

    def unknown_since(self, entries: Collection[str]) -> dict[str, int]:
        """Return since when a leader did not know entries, as ``unknown`` does; only of those."""
        return read_unknown(self._session.client, self.names, entries)

    def write(
        self, commits: Sequence[Commit], claims: Sequence[Next], *, ahead: float = 0.0
    ) -> Written:
        """Commit one batch and claim the next, in one round trip; either may be empty.

        A claim may be of an entry that is committed in the same write: its run is then the one
        that this commit records. Without both it only checks that the ledger is as this leader
        left it.

        Args:
            commits: At most one for each entry. One that records the run which the claim was
                computed from takes the claim back.
            claims: At most one for each entry; with the commits at most twice ``BATCH``.
            ahead: Seconds by which this machine's clock is known to be ahead of Redis's.
        """
        if len(commits) + len(claims) > 2 * BATCH:
            raise LifecycleError(
                f"a write of {len(commits)} commits and {len(claims)} claims is too large; "
                f"at most {2 * BATCH} together"
            )
        later = [claim for claim in claims if claim.is_later]
        keys, args = self._write_call(commits, later, self._slack(ahead))
        now, committed, claimed = self._session.call("write", args, *keys)
        outcomes = iter(replies.letters(ClaimOutcome, claimed))
        return Written(
            replies.letters(CommitOutcome, committed),
            tuple(next(outcomes) if c.is_later else ClaimOutcome.NOT_LATER for c in claims),
            now,
        )

    def _write_call(
        self, commits: Sequence[Commit], claims: Sequence[Next], slack_us: int = 0
    ) -> tuple[list[str], list[bytes | str | int]]:
        """Return the keys and arguments of a write."""
        latest = max((each.claim.moment for each in claims), default=0)
        marks = any(each.overlap for each in claims) or any(each.unmark for each in commits)
        stored = any(each.version for each in claims)
        keys = [self.names.running] * marks + [self.names.versions] * stored
        args: list[bytes | str | int] = [
            *(slack_us, latest, len(commits), len(claims)),
            *(4 if marks else 0, 3 + len(keys) if stored else 0),
            *(encode_entry(commit.claim.entry) for commit in commits),
            *(encode_claim(commit.claim) for commit in commits),
            *(encode_run(commit.run) for commit in commits),
            *(encode_entry(each.claim.entry) for each in claims),
            *(encode_claim(each.claim) for each in claims),
            *(encode_run(each.after) if each.after else b"" for each in claims),
        ]
        if marks:
            rules = [each.overlap for each in claims]
            args += [each.claim.occurrence if each.unmark else "" for each in commits]
            args += [rule.policy.value if rule else "" for rule in rules]
            args += [rule.wait_ms * 1000 if rule else 0 for rule in rules]
            args += [each.claim.occurrence for each in claims]
            args += [encode_run(each.skipped) for each in claims]
        if stored:
            args += [each.version for each in claims]
        return keys, args

    def _slack(self, ahead: float) -> int:
        """Return the microseconds by which a claim may lie ahead of Redis's clock."""
        return self._slack_us + self._early_us + round(ahead * 1_000_000)

    def settle(
        self, claims: Sequence[Claim], overlaps: Mapping[str, OverlapRule] | None = None
    ) -> list[Settlement]:
        """Return for claims that may be attempted again whether a worker has accepted them.

        From here on they are remembered for 30 days, so that a late copy meets a record. A run of
        several messages is never settled by a record, which would be of one of them.

        Args:
            claims: The claims.
            overlaps: Entry -> its rule: a run that nobody accepted waits anew from now on.
        """
        rules = overlaps or {}
        settled: list[Settlement] = []
        for batch in _batches(claims, _SMALL_BATCH):
            keys: list[str] = []
            marks = any(claim.entry in rules for claim in batch)
            args: list[bytes | str | int] = [LONG_LIFE_MS, 4 + 2 * len(batch) if marks else 0]
            for claim in batch:
                keys += (self.names.accepted(claim.occurrence), self.names.again(claim.occurrence))
                args += (encode_entry(claim.entry), encode_claim(claim), claim.occurrence)
                rule = rules.get(claim.entry)
                args.append(rule.wait_ms * 1000 if rule else 0)
            keys += [self.names.running] * marks
            letters, *nonces = self._session.call("settle", args, *keys)
            outcomes = replies.letters(SettlementOutcome, letters)
            for claim, outcome, nonce in zip(batch, outcomes, nonces, strict=True):
                if claim.messages > 1 and outcome is SettlementOutcome.ACCEPTED:
                    settled.append(Settlement(claim, SettlementOutcome.OPEN, ""))
                else:
                    settled.append(Settlement(claim, outcome, nonce.decode("utf-8", "replace")))
        return settled

    def enrol(
        self, enrolments: Sequence[Enrolment], *, anew: bool = False
    ) -> list[EnrolmentOutcome]:
        """Write last runs: of new entries, changed schedules, and moments to be brought back.

        Args:
            enrolments: What to write.
            anew: An entry is among them that the ledger knew and knows no longer.
        """
        outcomes: list[EnrolmentOutcome] = []
        before: Steps[list[list[Any]]] | None = None
        for group in _batches(enrolments, _ENROLLED_TOGETHER):
            calls = [self._enrolling(batch, anew) for batch in _batches(group, BATCH)]
            if before is not None:  # Redis has worked on them meanwhile
                outcomes += _enrolled(complete(before))
            before = self._session.calling("enrol", calls)
            next(before)
        if before is not None:
            outcomes += _enrolled(complete(before))
        return outcomes

    def _enrolling(
        self, batch: Sequence[Enrolment], anew: bool
    ) -> tuple[list[bytes | str | int], str]:
        """Return the arguments of one script, and its renewal."""
        args: list[bytes | str | int] = []
        for each in batch:
            expected = b"" if each.expected is None else encode_run(each.expected)
            args += (encode_entry(each.entry), expected, encode_run(each.run))
        # Whoever copied the runs earlier must not believe the later moment any more.
        sets_back = anew or any(each.sets_back for each in batch)
        return args, self._session.renewal() if sets_back else ""

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
            merged += replies.merged(
                self.key, batch, runs, pending, self._session.call("merge", args)
            )
        return merged

    def seal(self) -> None:
        """Declare the ledger whole, after everything was merged in."""
        _, args = self._write_call((), ())
        self._session.call("write", args, renewal=self._session.renewal(seals=True))

    def forget(
        self, unknown: Collection[str], known: Collection[str] = (), *, grace: float
    ) -> dict[str, ForgetOutcome]:
        """Forget the entries that no leader has known for a grace period, by Redis's clock.

        Args:
            unknown: Entries of the ledger which this leader's schedule does not have.
            known: Entries of the schedule that ``unknown()`` returned: their time starts anew.
            grace: Seconds. 0 forgets at once, which also removes what cannot be read.

        Returns:
            An outcome for each of ``unknown``.
        """
        outcomes: dict[str, ForgetOutcome] = {}
        grace_us = round(grace * 1_000_000)
        for batch in _batches(known, _SMALL_BATCH):
            self._session.call(
                "forget", [grace_us, 0, "", *map(encode_entry, batch)], self.names.unknown
            )
        for batch in _batches(unknown, _SMALL_BATCH):
            renewal = self._session.renewal()
            args: list[bytes | str | int] = [grace_us, len(batch), renewal]
            args += map(encode_entry, batch)
            (letters,) = self._session.call("forget", args, self.names.unknown)
            outcomes.update(zip(batch, replies.letters(ForgetOutcome, letters), strict=True))
        return outcomes


def _enrolled(replied: Iterable[Sequence[Any]]) -> list[EnrolmentOutcome]:
    return [each for reply in replied for each in replies.letters(EnrolmentOutcome, reply[0])]


def _batches(values: Iterable[_T], size: int) -> Iterable[tuple[_T, ...]]:
    iterator = iter(values)
    while batch := tuple(islice(iterator, size)):
        yield batch
