"""The ledger is lost, in part or whole, or set back, while a leader lives: no run is."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from celery_safe_leader._store.keys import LedgerKeys
from tests.support.celery.chaos import Fleet, doubles, problems
from tests.support.servers import Server, installed_kinds

STEPS = {f"entry-{index:02}": 0.25 + index * 0.05 for index in range(16)}
NAMES = LedgerKeys("shop")
LOSSES = ("all", "runs", "pending", "both", "set back")


class Ledger:
    """Loses itself."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._dumps: dict[str, bytes | None] = {}

    def note(self) -> None:
        """Keep a copy to be set back to."""
        pipe = self._client.pipeline()
        names = (NAMES.runs, NAMES.pending)
        for name in names:
            pipe.dump(name)
        self._dumps = dict(zip(names, pipe.execute(), strict=True))

    def lose(self, loss: str) -> None:
        """Lose it in one of the ways."""
        if loss == "all":
            self._client.flushall()
        elif loss == "set back":
            pipe = self._client.pipeline()
            for name, dump in self._dumps.items():
                pipe.delete(name)
                if dump is not None:
                    pipe.restore(name, 0, dump)
            pipe.execute()
        else:
            lost = {"runs": [NAMES.runs], "pending": [NAMES.pending]}
            self._client.delete(*lost.get(loss, [NAMES.runs, NAMES.pending]))


@pytest.mark.timeout(100)
def test_a_ledger_that_is_lost_beneath_a_living_leader(
    tmp_path: Path, measured: Callable[[str], None]
) -> None:
    seed = random.randrange(10**6)
    print(f"seed={seed}")
    choice, losses = random.Random(seed), Counter[str]()
    kind = installed_kinds()[0]
    with (
        Server(kind) as broker,
        Server(kind) as election,
        Fleet(tmp_path, broker.url, election.url, STEPS, leader_ttl=1.0, leader_wait=0.2) as fleet,
    ):
        for _ in range(2):
            fleet.start_worker("-c", "1")
            fleet.start_beat()
        fleet.wait_working()
        fleet.leader()
        fleet.wait_served(time.time_ns() // 1000)
        ledger = Ledger(election.client(decode_responses=False))
        ends = time.monotonic() + 12
        while time.monotonic() < ends:
            ledger.note()
            time.sleep(choice.uniform(0.1, 0.8))
            loss = choice.choice(LOSSES)
            losses[loss] += 1
            ledger.lose(loss)
        until = time.time_ns() // 1000
        fleet.wait_served(until)
        fleet.stop_beats()
        fleet.wait_idle()
        executions = fleet.executions()
        twice = len(doubles(executions))
        found = problems(executions, fleet.grids, until)
        measured(
            f"ledger lost {losses.total()} times (seed {seed}; {dict(losses)}): {len(executions)} "
            f"runs, {len(found)} lost or doubled, {twice} executed twice, {fleet.dropped} second "
            f"publications dropped"
        )
        assert found == []
        assert fleet.complaints() == []
        restored = sum(len(beat.lines("Redis had lost the ledger")) for beat in fleet.beats)
        assert restored >= losses.total() // 3
