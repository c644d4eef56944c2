"""Random histories of a ledger: longer than what can be explored, and with data lost."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import redis

from celery_safe_leader._ledger.acceptance import LONG_LIFE_MS
from celery_safe_leader._ledger.codec import SENTINEL, decode_claim, decode_entry
from celery_safe_leader._store.keys import LedgerKeys
from tests.model.ledger.world import Leader, World

__all__ = ["LOSSES", "History"]

LOSSES = ("runs", "pending", "both", "runs back", "pending back", "both back", "all")
"""What of the ledger is lost or set back to an earlier copy; ``all``: acceptance records too."""

_ENTRIES = ("a", "{b} two\nlines", "ü" * 300)


@dataclass
class History:
    """One random history, made of its seed alone."""

    client: redis.Redis
    seed: int
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
        self.world.lead = self.dice.randint(0, 3)
        self.names = LedgerKeys(self.world.key)
        self.copies: list[dict[str, Any]] = []
        self.current: Leader | None = None
        self.sleepers: list[Leader] = []
        self.actions = [self.leader_steps] * 12 + [self.worker_takes] * 4 + [self.time_passes] * 3
        self.actions += [self.sleeper_wakes] * 2 + [self.somebody_else_leads, self.leader_dies]
        self.actions += [self.request_fails, self.publication_fails, self.window_passes]
        self.actions += [self.lease_lost, self.claims_taken_back, self.leader_leaves]
        if self.losses:
            self.actions += [self.copy, self.copy, self.data_lost, self.data_lost]

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
        self.world.finish()
        return self.world.faults(doubles_of=2 if "all" in self.losses else 0)

    def _note(self, text: str) -> None:
        self.world.trace.append(text)

    @property
    def _is_protected(self) -> bool:
        """Whether the leader is all that is left of the ledger: it may not go now."""
        return self.current is not None and bool(self.current.at) and self.current.must_restore

    def leader_steps(self) -> None:
        if self.current is None or not self.current.at:
            self.current = self.world.elect()
            self.current.may_resign = self.dice.random() < 0.2
        self.current.step()

    def worker_takes(self) -> None:
        if self.world.queue:
            self.world.consume(self.dice.randrange(len(self.world.queue)))

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
            self.current.client.fault = self.dice.choice(("request", "reply"))
            self._note(f"{self.current.client.fault} will be lost")

    def publication_fails(self) -> None:
        if self.current is not None and self.current.at:
            self.current.publish_fault = self.dice.choice(("request", "reply"))
            self._note(f"{self.current.publish_fault} of a publication will be lost")

    def window_passes(self) -> None:
        """Let acceptance records expire, except of runs that are not done yet."""
        raw: Any = self.client.hgetall(self.names.pending)
        raw.pop(SENTINEL, None)
        pending = {
            decode_claim(decode_entry(name), value).occurrence for name, value in raw.items()
        }
        pending |= {message.claim.occurrence for message in self.world.queue}
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
            for occurrence in self.world.published:
                self.client.delete(self.names.accepted(occurrence), self.names.again(occurrence))
