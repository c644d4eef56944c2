"""Random histories of a ledger: longer than what can be explored, and with data lost."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from celery_safe_leader._ledger.acceptance import LONG_LIFE_MS
from celery_safe_leader._ledger.codec import decode_claim, decode_entry
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._store.keys import LedgerKeys
from tests.model.ledger.both_ways import TransactionalLeader, WriteAheadLeader
from tests.model.ledger.clients import FAULTS
from tests.model.ledger.leader import Leader
from tests.model.ledger.world import Message, World

__all__ = ["LOSSES", "WAYS", "History"]

WAYS: dict[str, tuple[type[Leader], ...]] = {
    "transactional": (TransactionalLeader,),
    "write-ahead": (WriteAheadLeader,),
    "mixed": (TransactionalLeader, WriteAheadLeader),
    "mixed releases": (TransactionalLeader, TransactionalLeader, Leader),
}
"""Who leads in turns. ``Leader`` is the release before, which claims early."""

LOSSES = ("runs", "pending", "both", "runs back", "pending back", "both back", "all")
"""What of the ledger is lost or set back to an earlier copy; ``all``: acceptance records too."""

_ENTRIES = ("a", "{b} two\nlines", "ü" * 300)


@dataclass
class History:
    """One random history, made of its seed alone."""

    client: Any  # redis.Redis, whose commands have no usable annotations
    seed: int
    ways: tuple[type[Leader], ...] = WAYS["mixed"]
    losses: tuple[str, ...] = ()
    length: int = 40
    world: World = field(init=False)
    lost: int = 0
    """Losses that a leader had to make good."""

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        entries = _ENTRIES[: self.dice.randint(1, 3)]
        periods = {entry: self.dice.randint(1, 3) for entry in entries}
        self.world = World(self.client, periods, batch=self.dice.randint(1, 4))
        self.world.coalesce = self.dice.random() < 0.5
        self.world.all_ask = self.dice.random() < 0.3
        self.world.lead = self.dice.randint(0, 3)
        self.names = LedgerKeys(self.world.key)
        self.copies: list[dict[str, Any]] = []
        self.current: Leader | None = None
        self.sleepers: list[Leader] = []
        self.actions = [self.leader_steps] * 12 + [self.worker_takes] * 4 + [self.time_passes] * 3
        self.actions += [self.sleeper_wakes] * 2 + [self.somebody_else_leads, self.leader_dies]
        self.actions += [self.request_fails, self.publication_fails, self.window_passes]
        self.actions += [self.lease_lost, self.claims_taken_back, self.leader_leaves]
        self.actions += [self.late_arrives, self.list_refuses]
        if self.losses:
            self.actions += [self.copy, self.copy, self.data_lost, self.data_lost]
        else:
            self.actions += [self.schedule_changes]

    def run(self) -> list[str]:
        """Run it to its end and judge."""
        for _ in range(self.length):
            self.dice.choice(self.actions)()
        self.world.until = self.world.now + self.world.lead
        if self.current is not None:
            self.current.may_resign = True
            while self.current.at:
                self.current.step()
        self.world.workers = self.dice.choice(("fifo", "lifo"))
        self.world.finish(self.dice.choice(self.ways))
        return self.world.faults(doubles_allowed="all" in self.losses)

    def _note(self, text: str) -> None:
        self.world.trace.append(text)

    @property
    def _is_protected(self) -> bool:
        """Whether the leader is all that is left of the ledger: it may not go now."""
        return self.current is not None and bool(self.current.at) and self.current.must_restore

    def leader_steps(self) -> None:
        if self.current is None or not self.current.at:
            self.current = self.elect()
        self.current.step()

    def elect(self) -> Leader:
        """Let another one lead."""
        leader: Leader = self.world.elect(self.dice.choice(self.ways))
        leader.may_resign = self.dice.random() < 0.2
        if isinstance(leader, TransactionalLeader):
            leader.batch_size = self.dice.randint(1, 3)
            leader.commits_first = self.dice.random() < 0.5
            leader.not_plain = {e for e in self.world.periods if self.dice.random() < 0.2}
        return leader

    def worker_takes(self) -> None:
        if waiting := self.client.llen(self.world.queue):
            self.world.consume(self.dice.randrange(waiting))

    def time_passes(self) -> None:
        self.world.now += self.dice.choice((1, 1, 1, 2, 5))

    def sleeper_wakes(self) -> None:
        if self.sleepers:
            sleeper = self.dice.choice(self.sleepers)
            self._note(f"{sleeper.name} wakes")
            for _ in range(self.dice.randint(1, 4)):
                if sleeper.at:
                    sleeper.step()
            self.sleepers = [leader for leader in self.sleepers if leader.at]

    def somebody_else_leads(self) -> None:
        if self.current is not None and self.current.at and not self._is_protected:
            self._note(f"{self.current.name} sleeps before {self.current.at}")
            self.sleepers.append(self.current)
            self.current = None

    def leader_dies(self) -> None:
        if self.current is not None and self.current.at and not self._is_protected:
            self.current.kill()
            self.current = None

    def claims_taken_back(self) -> None:
        """As for entries that change between claim and moment."""
        if self.current is not None and self.current.at:
            self.current.takes_back = True

    def leader_leaves(self) -> None:
        if self.current is not None and self.current.at and not self._is_protected:
            self.current.leaves = True

    def request_fails(self) -> None:
        if self.current is not None and self.current.at:
            self.current.client.fault = self.dice.choice(FAULTS)
            self._note(f"next request: {self.current.client.fault}")

    def late_arrives(self) -> None:
        if self.world.late:
            self.world.arrive_late(self.dice.randrange(len(self.world.late)))

    def list_refuses(self) -> None:
        """Let the list of some entries refuse what scripts push."""
        if isinstance(self.current, TransactionalLeader):
            self.current.unwilling = {e for e in self.world.periods if self.dice.random() < 0.5}

    def schedule_changes(self) -> None:
        """Let the leader repeat nothing of what had no reply."""
        if isinstance(self.current, TransactionalLeader):
            self.current.withdraws = True

    def publication_fails(self) -> None:
        if self.current is not None and self.current.at:
            self.current.publish_fault = self.dice.choice(("request", "reply", "late"))
            self._note(f"next publication: {self.current.publish_fault}")

    def window_passes(self) -> None:
        """Let acceptance records expire, except of runs that are not done yet."""
        raw: Any = self.client.hgetall(self.names.pending)
        raw.pop(SENTINEL, None)
        pending = {
            decode_claim(decode_entry(name), value).occurrence for name, value in raw.items()
        }
        under_way = [
            *self.world.messages(),
            *(args[2] for args in self.world.late if args[0] == "LPUSH"),
        ]
        pending |= {Message(**json.loads(raw)).occurrence for raw in under_way}
        if self._is_protected:
            return
        for occurrence in self.world.executed.keys() - pending:
            record = self.names.accepted(occurrence)
            if 0 < self.client.pttl(record) < LONG_LIFE_MS // 2:
                self.client.delete(record)

    def lease_lost(self) -> None:
        if self.current is not None and self.current.at:
            self._note("lease lost")
            self.client.delete(self.world.lease)

    def copy(self) -> None:
        names = (self.names.runs, self.names.pending)
        self.copies.append({name: self.client.dump(name) for name in names})

    def data_lost(self) -> None:
        leader = self.current
        if leader is None or not leader.loaded or leader.at in ("", "resign"):
            return
        kind = self.dice.choice(self.losses)
        if kind.endswith("back") and not self.copies:
            return
        if isinstance(leader, TransactionalLeader) and leader.unanswered:
            # If nothing is left that shows what was executed, it runs twice, as the docs say.
            if leader.must_restore or kind.startswith(("both", "all")):
                return
            # What such a batch refused is then taken for published.
            if kind.startswith("runs") and leader.unwilling:
                return
        self._note(f"lost: {kind}")
        self.lost += 1
        leader.must_restore = True
        copy = self.dice.choice(self.copies) if kind.endswith("back") else {}
        for name in (self.names.runs, self.names.pending):
            if kind.split()[0] in (name.rsplit(":", 1)[1], "both", "all"):
                self.client.delete(name)
                if copy.get(name) is not None:
                    self.client.restore(name, 0, copy[name])
        if kind == "all":
            for occurrence in self.world.taken:
                self.client.delete(self.names.accepted(occurrence), self.names.again(occurrence))
