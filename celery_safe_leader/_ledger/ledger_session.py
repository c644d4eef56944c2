"""One leader's guarded calls: under which generation and step they go, and what they show.

Every call has a step of its own, also one that repeats another. A script accepts any step between
the last one that was answered and its own, so a reply that is lost does no harm and a request that
arrives late changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any

import redis

from celery_safe_leader._core.steps import Steps, complete
from celery_safe_leader._ledger import replies
from celery_safe_leader._ledger.hash_sentinel import (
    FORMAT,
    SENTINEL,
    ExecutedSteps,
    Pause,
    PauseRecord,
    Ranges,
    decode_pause,
    decode_sentinel,
    decode_status,
)
from celery_safe_leader._ledger.owner import OwnerWatch
from celery_safe_leader._ledger.packed_commands import count_connections, send_packed
from celery_safe_leader._ledger.publications import Batch, EncodedBatch
from celery_safe_leader._ledger.results import Adoption
from celery_safe_leader._ledger.script_calls import call, identifying_script, ledger_script
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from celery_safe_leader._store.lua import Script
from celery_safe_leader.errors import LifecycleError, SafeLeaderError, StoreUnavailableError

__all__ = ["LedgerSession"]


class LedgerSession:
    """The calls of one candidate to the ledger of a key. One thread at a time.

    Args:
        client: As the ledger's.
        election: The election that the candidate takes part in.
        names: Of the ledger's keys.
        owner_watch: Of the election that the ledger belongs to.
    """

    def __init__(
        self,
        client: redis.Redis,
        election: ElectionKeys,
        names: LedgerKeys,
        owner_watch: OwnerWatch,
    ) -> None:
        self.client = client
        self._election = election
        self._names = names
        self._owner_watch = owner_watch
        self._owner_watch.follow(election.role)
        self._holder = ""
        self.token = 0
        self.generation = ""
        self._step = 0
        self._floor = 0
        self._partial = False
        self._pause: PauseRecord | None = None
        self._connections = count_connections(client)
        self._known_on = 0  # number of the connection over which the server knew the script
        self._executed: dict[str, ExecutedSteps] = {}
        self._recorded: dict[str, ExecutedSteps] = {}

    @property
    def pause(self) -> Pause | None:
        """The pause that was in force at the last answer."""
        return self._pause.pause if self._pause else None

    def adopt(self, holder: str, token: int, *, restoring: bool) -> Adoption:
        """Make the ledger this leader's; as the ledger's method."""
        generation = secrets.token_hex(8)
        if restoring:
            # The adoption writes over what shows them, and its reply may be lost.
            self._note_sentinels(*self._read_sentinels())
        else:
            self._executed.clear()
            self._recorded.clear()
        reply = self._request_adoption(holder, token, generation, restoring)
        if reply[0] == b"OWNED" and not reply[2]:
            # The script can read only a lease that it was given the key of.
            self._owner_watch.follow(reply[1].decode("utf-8", "replace"))
            reply = self._request_adoption(holder, token, generation, restoring)
        if reply[0] == b"OWNED" and reply[2]:
            self._owner_watch.see(*reply[3:6])
        replies.refuse(reply, self._election, holder, token)
        self._holder, self.token = holder, token
        self.generation, self._step, self._floor = generation, 0, 0
        self._partial = restoring
        self._pause = decode_status(reply[0]).pause
        self._note_sentinels(reply[1], reply[2])
        return replies.adoption(reply, self.pause)

    def call(
        self, name: str, args: Sequence[bytes | str | int], *more_keys: str, renewal: str = ""
    ) -> list[Any]:
        """Call a guarded script, and return what follows the status in its reply.

        Args:
            name: Of the script.
            args: What follows the arguments that guard it.
            more_keys: Keys beyond those of every script.
            renewal: As :meth:`renewal` returned it, if this call changes the mark.

        Raises:
            SafeLeaderError: As the docstring of the ledger says.
        """
        step, head = self._head(renewal)
        keys = (*self._keys(), *more_keys)
        reply = call(self.client, _guarded(name), keys, (*head, *args))
        self._accept(reply, step)
        return list(reply[1:])

    def calling(
        self, name: str, calls: Sequence[tuple[Sequence[bytes | str | int], str]]
    ) -> Steps[list[list[Any]]]:
        """Call a guarded script several times in one write, with a pause when it is sent.

        Args:
            name: Of the script.
            calls: For each call the arguments and the renewal, as ``call`` takes them.

        Returns:
            For each what follows the status in its reply.

        Raises:
            SafeLeaderError: Of the first call that was refused or has no reply. The others may
                have been executed.
        """
        script = _guarded(name)
        heads = [self._head(renewal) for _, renewal in calls]
        commands = [
            ("EVALSHA", script.sha, len(self._keys()), *self._keys(), *head, *args)
            for (args, _), (_, head) in zip(calls, heads, strict=True)
        ]
        try:
            answers = yield from send_packed(self.client, commands, lambda: True)
        except (redis.RedisError, OSError) as exc:
            raise translate(self._names.runs, exc) from exc
        replies = []
        for (args, renewal), (step, _), answer in zip(calls, heads, answers or (), strict=True):
            if isinstance(answer, redis.exceptions.NoScriptError):
                # The server reports that it ran nothing, so nothing is executed twice.
                replies.append(self.call(name, args, renewal=renewal))
                continue
            if isinstance(answer, Exception):
                raise translate(self._names.runs, answer) from answer
            self._accept(answer, step)
            replies.append(list(answer[1:]))
        return replies

    def renewal(self, *, seals: bool = False) -> str:
        """Return a new mark; empty while the ledger is partial.

        Args:
            seals: The ledger is whole from this call on.
        """
        if seals:
            self._partial = False
        return "" if self._partial else secrets.token_hex(8)

    def send(
        self, batches: Sequence[EncodedBatch], may_write: Callable[[], bool]
    ) -> Steps[list[list[Any] | SafeLeaderError] | None]:
        """Publish batches in one write.

        Returns:
            For each batch what follows the status in the reply, or the error. ``None`` if
            ``may_write`` returned false and nothing was sent.
        """
        script = _guarded("publish")
        exchange = self._exchange(batches, ("EVALSHA", script.sha), may_write)
        if self._known_on == self._connections.number:
            answers = yield from exchange
        else:
            # It may be a server that does not know the script: then nothing is under way yet.
            answers = complete(exchange)
        if answers is None:
            return None
        # The server says that it ran nothing of these, so they are executed once at most.
        forgotten = [i for i, each in enumerate(answers) if _is_unknown_script(each)]
        if forgotten:
            again = [batches[i] for i in forgotten]
            repeated = yield from self._exchange(again, ("EVAL", script.text), may_write)
            if repeated is None and len(forgotten) == len(batches):
                return None
            for i, answer in zip(forgotten, repeated or (), strict=repeated is not None):
                answers[i] = answer
        if not all(isinstance(each, SafeLeaderError) for each in answers):
            self._known_on = self._connections.number
        return answers

    def is_as_left(self, runs: bytes, pending: bytes) -> bool:
        """Return whether these sentinels are what the calls so far may have left.

        Of a request without a reply it is not known whether it was executed.
        """
        sentinel = decode_sentinel(runs) if runs == pending else None
        if sentinel is None or sentinel.generation != self.generation:
            return False
        # Whoever pauses or resumes leaves the step as it is.
        is_as_paused = decode_pause(runs) == self.pause
        return is_as_paused and self._floor <= sentinel.step <= self._step

    def lost_step(self, generation: str, steps: Collection[int]) -> bool:
        """Return whether one of these steps was executed, and runs is from before it.

        Replies show it, and the sentinels that are seen when a call is refused for the generation,
        and when the ledger is adopted again in order to merge the memory in.
        """
        executed = self._executed.get(generation, ())
        recorded = self._recorded.get(generation, ())
        return any(step in executed and step not in recorded for step in steps)

    def _exchange(
        self,
        batches: Sequence[EncodedBatch],
        command: tuple[str, str],
        may_write: Callable[[], bool],
    ) -> Steps[list[Any] | None]:
        """Send each batch under a step of its own; return what came, or an error, for each."""
        heads = [self._head("") for _ in batches]
        commands = [
            (*command, 3 + len(each.keys), *self._keys(), *each.keys, *head, *each.args)
            for each, (_, head) in zip(batches, heads, strict=True)
        ]

        def note_attempts() -> bool:
            if not may_write():
                return False
            for each, (step, _) in zip(batches, heads, strict=True):
                each.batch.attempted(self.generation, step)
            return True

        try:
            answers = yield from send_packed(self.client, commands, note_attempts)
        except (redis.RedisError, OSError) as exc:
            return [translate(self._names.runs, exc)] * len(batches)
        if answers is None:
            return None
        return [
            self._answer(each.batch, step, answer)
            for each, (step, _), answer in zip(batches, heads, answers, strict=True)
        ]

    def _answer(self, batch: Batch, step: int, reply: Any) -> Any:
        """Return an accepted reply, or the error of a refused one."""
        try:
            if isinstance(reply, Exception):
                raise translate(self._names.runs, reply) from reply
            self._accept(reply, step)
        except StoreUnavailableError as exc:
            return exc
        except SafeLeaderError as exc:
            batch.refused(step)
            return exc
        return reply[1:]

    def _accept(self, reply: Sequence[Any], step: int) -> None:
        """Take in a reply. Raises what it says if the call was refused."""
        if reply[0] == b"GENERATION":
            self._note_sentinels(reply[1], reply[2])
        elif reply[0] == b"PAUSED":
            self._pause = PauseRecord(int(reply[1][:16]), int(reply[2][:16]), True)
        replies.refuse(reply, self._election, self._holder, self.token)
        self._floor = max(self._floor, step)
        self._pause, executed = decode_status(reply[0])
        self._note_executed(self.generation, executed or ((step, step),))

    def _note_sentinels(self, raw_runs: bytes, raw_pending: bytes) -> None:
        runs, pending = decode_sentinel(raw_runs), decode_sentinel(raw_pending)
        for sentinel in (runs, pending):
            if sentinel is not None:
                self._note_executed(sentinel.generation, sentinel.executed)
        if runs is None:
            self._recorded.clear()
        else:
            recorded = self._recorded[runs.generation] = ExecutedSteps()
            recorded.add(runs.executed)

    def _note_executed(self, generation: str, executed: Ranges) -> None:
        self._executed.setdefault(generation, ExecutedSteps()).add(executed)

    def _read_sentinels(self) -> tuple[bytes, bytes]:
        client: Any = self.client  # its commands have no usable annotations
        try:
            runs = client.hget(self._names.runs, SENTINEL)
            return runs or b"", client.hget(self._names.pending, SENTINEL) or b""
        except (redis.RedisError, OSError) as exc:
            raise translate(self._names.runs, exc) from exc

    def _head(self, renewal: str) -> tuple[int, tuple[str | int, ...]]:
        """Return a new step, and the arguments that guard a call."""
        if not self.generation:
            raise LifecycleError("adopt() the ledger before reading or writing it")
        self._step += 1  # also by what fails: a late copy of it must not fit any more
        head = (self._holder, self.token, self.generation, self._floor, self._step, renewal)
        return self._step, head

    def _keys(self) -> tuple[str, str, str]:
        return self._election.lease, self._names.runs, self._names.pending

    def _request_adoption(self, holder: str, token: int, generation: str, restoring: bool) -> Any:
        role = self._owner_watch.role
        other = ElectionKeys(self._election.key, role, self._names.prefix)
        proof = self._owner_watch.proof()
        mark = "" if restoring else secrets.token_hex(8)
        memory = self._pause.encode() if restoring and self._pause else ("", "", "")
        args = (holder, token, generation, FORMAT, self._election.role, role, *proof, mark, *memory)
        keys = (*self._keys(), other.lease)
        return call(self.client, identifying_script("adopt"), keys, args)


def _guarded(name: str) -> Script:
    marks = ("marks",) if name in _MARKING else ()
    return ledger_script(name, "sentinel", "guard", *marks)


_MARKING = ("publish", "settle", "write")


def _is_unknown_script(answer: Any) -> bool:
    return isinstance(answer, SafeLeaderError) and isinstance(
        answer.__cause__, redis.exceptions.NoScriptError
    )
