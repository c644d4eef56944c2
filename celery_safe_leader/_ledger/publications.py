"""Runs to publish in the script that records them, and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import groupby
from typing import Any

import redis

from celery_safe_leader._ledger.codec import Claim, LastRun, encode_entry, encode_run
from celery_safe_leader._store.errors import translate
from celery_safe_leader.errors import LifecycleError, StoreRefusedError

__all__ = [
    "BATCH",
    "FULL_BATCH",
    "LARGEST_BATCH",
    "Batch",
    "EncodedBatch",
    "OverlapPolicy",
    "OverlapRule",
    "Publication",
    "PublicationOutcome",
    "Published",
    "Push",
    "encode_batch",
    "published",
]

BATCH = 36
"""Most publications in one script."""

FULL_BATCH = 16 * 1024
"""Bytes of messages that are enough for one script. Lua hashes each argument from its first byte to
its last, so a script takes as long as its messages are; the scripts of a burst go out in one write,
and more of them cost next to nothing. With ``BATCH`` it keeps a script below 0.3 ms."""

LARGEST_BATCH = 256 * 1024
"""Bytes of messages in one script: Redis serves nobody else while it copies them."""


@dataclass(frozen=True, slots=True)
class Push:
    """One message, as the broker's client writes it."""

    queue: bytes
    """Key of the list, with its prefix."""
    message: bytes
    expiries: tuple[tuple[bytes, int], ...] = ()
    """Keys, and the milliseconds after which they expire if the list accepts the message."""


class OverlapPolicy(Enum):
    """What becomes of a run whose entry's last run waits or runs still."""

    SKIP = "S"
    """It is recorded without a message, and not counted."""
    QUEUE_ONE = "Q"
    """It is neither published nor recorded."""


@dataclass(frozen=True, slots=True)
class OverlapRule:
    """The policy of an entry that does not allow runs to overlap."""

    policy: OverlapPolicy
    wait_ms: int
    """How long the message counts as waiting, unless a worker reports."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A run to publish, if its entry's last run is still the one that it was computed from."""

    claim: Claim
    """The run."""
    after: LastRun | None
    """``None``: the ledger does not know the entry."""
    run: LastRun
    """What to record."""
    push: Push | None
    """``None``: it is recorded without a message."""
    overlap: OverlapRule | None = None
    version: str = ""
    """Of a stored entry. If it has another one by now, nothing is published."""

    @property
    def skipped(self) -> LastRun:
        """What is recorded instead if it is skipped: no run was published, so none is counted."""
        return replace(self.run, count=self.after.count if self.after else 0)

    @property
    def is_later(self) -> bool:
        """Whether time goes forward from the last run to this one."""
        return self.after is None or self.run.moment > self.after.moment


class PublicationOutcome(Enum):
    """What became of a publication."""

    # Each run is looked up by its outcome; the hash of an Enum is Python code.
    __hash__ = object.__hash__

    PUBLISHED = "C"
    """Its message is in the queue, and it is recorded; perhaps by an earlier attempt."""
    CLAIMED = "P"
    """The entry has a claim pending: settle it."""
    DIFFERS = "D"
    """The entry's run is not the expected one: read it again."""
    AHEAD = "A"
    """It lies ahead of Redis's clock by more than the slack: one of the two clocks is wrong."""
    CHANGED = "V"
    """The stored entry is not the one that it was built from."""
    OVERLAPS = "O"
    """The last run is not over. If the policy is to skip, ``Publication.skipped`` is recorded;
    perhaps by an earlier attempt."""
    REFUSED = "R"
    """The list refused the message. Nothing was recorded."""
    NOT_LATER = "L"
    """It is not later than the run that it was computed from. It was not sent."""


_BY_LETTER = {outcome.value: outcome for outcome in PublicationOutcome}


@dataclass(slots=True)
class Batch:
    """Publications for one script: at most ``BATCH``, one for each entry, 256 KB of messages.

    A batch is repeated by publishing the same object again.
    """

    publications: tuple[Publication, ...]
    generation: str = ""
    """Of the ledger at the last attempt."""
    steps: list[int] = field(default_factory=list)
    """Of the attempts that may have been executed. Each has a step of its own."""

    def attempted(self, generation: str, step: int) -> None:
        """Note an attempt that is about to be sent."""
        # Those under another generation can be executed no more.
        if self.generation != generation:
            self.generation, self.steps = generation, []
        self.steps.append(step)

    def refused(self, step: int) -> None:
        """Note that an attempt changed nothing."""
        if step in self.steps:
            self.steps.remove(step)

    def check(self) -> None:
        """Check the limits.

        Raises:
            LifecycleError: The batch is too large, or has two runs of one entry.
        """
        entries = {each.claim.entry for each in self.publications}
        size = sum(len(each.push.message) for each in self.publications if each.push)
        count = len(self.publications)
        if count > BATCH or size > LARGEST_BATCH or len(entries) < count:
            raise LifecycleError(
                f"a batch of {count} publications of {len(entries)} entries with {size} bytes of "
                f"messages is not allowed: at most {BATCH}, one for each entry, and "
                f"{LARGEST_BATCH} bytes"
            )


@dataclass(frozen=True, slots=True)
class Published:
    """Outcomes of a batch, in its order."""

    outcomes: tuple[PublicationOutcome, ...]
    refusals: Mapping[str, str]
    """Entry whose message was refused -> the server's error."""
    now: int
    """Redis's clock at the write, in microseconds since 1970."""

    def missing_right(self, key: str) -> StoreRefusedError | None:
        """Return the error for a message that was refused since the user may not push it.

        Args:
            key: The key whose ledger it is.
        """
        for text in self.refusals.values():
            error = translate(key, redis.ResponseError(text))
            if isinstance(error, StoreRefusedError) and error.is_missing_right:
                return error
        return None


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """Keys and arguments of the script, without those that guard it."""

    batch: Batch
    keys: tuple[str | bytes, ...]
    args: tuple[bytes | str | int, ...]


class _Keys:
    """Keys of a call beyond the three of every script, each once."""

    def __init__(self) -> None:
        self._index: dict[str | bytes, int] = {}

    def index(self, key: str | bytes) -> int:
        """Return where a key stands in Lua's KEYS."""
        return self._index.setdefault(key, len(self._index) + 4)

    def all(self) -> tuple[str | bytes, ...]:
        """Return the keys in their order."""
        return tuple(self._index)


def encode_batch(batch: Batch, slack_us: int, running: str, versions: str) -> EncodedBatch:
    """Return a batch as the script takes it; of its publications those that may be sent.

    Args:
        batch: The batch.
        slack_us: How far a run may lie ahead of Redis's clock, in microseconds.
        running: Key of the marks, which is declared only if an entry has a policy of overlap.
        versions: Key of the versions of stored entries, likewise.

    Raises:
        ValueError: A moment cannot be compared in Lua.
    """
    sent = [each for each in batch.publications if each.is_later]
    keys = _Keys()
    overlaps = any(each.overlap for each in sent)
    stored = any(each.version for each in sent)
    body: list[bytes | str | int] = [
        *(encode_entry(each.claim.entry) for each in sent),
        *(encode_run(each.after) if each.after else b"" for each in sent),
        *(part for each in sent for part in (encode_entry(each.claim.entry), encode_run(each.run))),
        *(each.push.message if each.push else b"" for each in sent),
    ]
    if overlaps:
        body += [each.overlap.policy.value if each.overlap else "" for each in sent]
        body += [each.overlap.wait_ms * 1000 if each.overlap else 0 for each in sent]
        body += [each.claim.occurrence for each in sent]
        body += [encode_run(each.skipped) for each in sent]
    if stored:
        body += [each.version for each in sent]
    head = (
        *(slack_us, max((each.run.moment for each in sent), default=0), len(sent)),
        *(keys.index(running) if overlaps else 0, keys.index(versions) if stored else 0),
    )
    groups = [tuple(group) for _, group in groupby(sent, _destination)]
    for group in groups:
        body += _encode_group(group, keys)
    args = (*head[:3], len(groups), *head[3:], *body)
    return EncodedBatch(batch, keys.all(), args)


def _destination(publication: Publication) -> tuple[Any, ...]:
    push = publication.push
    return (push.queue, push.expiries) if push else ()


def _encode_group(group: Sequence[Publication], keys: _Keys) -> list[int]:
    push = group[0].push
    if push is None:
        return [0, len(group), 0]
    expiries = [part for key, ms in push.expiries for part in (keys.index(key), ms)]
    return [keys.index(push.queue), len(group), len(push.expiries), *expiries]


def published(batch: Batch, reply: Sequence[Any]) -> Published:
    """Return the outcomes of a batch from what follows the status in the script's reply."""
    now, letters = reply[0], reply[1].decode()
    sent = [each for each in batch.publications if each.is_later]
    outcomes = iter([_BY_LETTER[letter] for letter in letters])
    refusals = {
        sent[number - 1].claim.entry: " ".join(error.decode("utf-8", "replace").split())
        for number, error in zip(reply[2::2], reply[3::2], strict=True)
    }
    return Published(
        tuple(
            next(outcomes) if each.is_later else PublicationOutcome.NOT_LATER
            for each in batch.publications
        ),
        refusals,
        now,
    )
