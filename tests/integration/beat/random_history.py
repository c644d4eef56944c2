"""One random history of leaders over a real server, and whether it ran each run once."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery, Task

from celery_safe_leader._dispatch.rounds import Rounds
from celery_safe_leader._ledger.acceptance import accept
from celery_safe_leader._ledger.codec import decode_run
from celery_safe_leader._schedules.moments import to_datetime
from celery_safe_leader.beat import LeaderScheduler
from tests.integration.beat.driven_leaders import DrivenLeaders, Leader, read_message
from tests.integration.beat.random_faults import StandingClock, Wire, WireFault
from tests.integration.beat.random_judge import Judge
from tests.support.servers import Server

__all__ = ["BEHIND", "History", "Quiet", "Tenants"]

TENANTS = ("", "~")

BEHIND = 8_000.0
"""Seconds by which the leaders' clock is behind Redis's at first."""

_LEDGER, _BROKER, _TEST = "localhost", "127.0.0.1", "127.1"
"""Names of one host: faults are by name."""
_KINDS = ("lost", "late", "no reply", "half", "one reply")
_LARGE = 140_000
_LONGEST = 60
"""Seconds between two runs of an entry."""
_MOST_ROUNDS = 200
"""More than any run needs; one that needs more waits in a loop."""


class _OwnWay(Task):
    """A task whose messages Celery has to send."""

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Do as the base class does."""
        return super().apply_async(*args, **kwargs)


class Tenants(LeaderScheduler):
    """Sends each run once for each tenant, as schedulers of tenants do."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        for tenant in TENANTS:
            entry.options["headers"]["tenant"] = tenant
            self.apply_async(entry, producer=producer, advance=False)


class Quiet(LeaderScheduler):
    """Has a method of its own, which does what Celery's does."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        super().apply_entry(entry, producer=producer)


class History:
    """A history of so many random steps.

    Args:
        seed: The same seed and way give the same history.
        way: As of ``DrivenLeaders``.
        server: Which all is on.
        clock: Installed.
        wire: Installed.
        scheduler: Class of the leaders' schedulers.
    """

    def __init__(
        self,
        seed: int,
        way: str,
        server: Server,
        clock: StandingClock,
        wire: Wire,
        scheduler: type[LeaderScheduler] = LeaderScheduler,
    ) -> None:
        self.random = random.Random(f"{seed} {way}")
        self.clock, self.wire = clock, wire
        key = f"history-{seed}-{way}-{time.monotonic_ns()}"
        self.stage = DrivenLeaders(server, key, way)
        self.stage.ledger = f"redis://{_LEDGER}:{server.port}/0"
        self.stage.scheduler_class = scheduler
        self.tenants = TENANTS if scheduler is Tenants else ("",)
        self.stage.client = redis.Redis(host=_TEST, port=server.port)
        db = int(self.stage.broker.rpartition("/")[2])
        self.broker: Any = redis.Redis(host=_TEST, port=server.port, db=db)
        self.judge = Judge()
        self.entries: dict[str, dict[str, Any]] = {}
        self.gone: dict[str, dict[str, Any]] = {}
        self.copy: dict[str, bytes | None] = {}
        self.zombies: list[Leader] = []
        self.done: list[str] = []
        self.pauses = 0
        self.is_paused = False
        for _ in range(self.random.randint(1, 9)):
            self.add()
        self.leader = self.elect()

    # Entries

    def add(self) -> None:
        name = f"e{len(self.entries) + len(self.gone)}"
        kind = self.random.choice(["plain"] * 6 + ["large", "large", "own", "broken", "middle"])
        every = self.random.randint(5, _LONGEST)
        leader: dict[str, Any] = self.random.choice(
            [{}, {}, {}, {"missed_runs": "all", "limit": 3}, {"missed_runs": "skip"}]
        )
        if self.random.random() < 0.2:
            leader = {**leader, "max_lateness": 20.0}
        last = self.clock.us - self.random.randint(0, every * 1_200_000)
        size = {"large": _LARGE, "middle": 90_000}.get(kind, 1)
        self.entries[name] = {
            "task": "shop.own" if kind == "own" else "shop.work",
            "schedule": float(every),
            "last_run_at": to_datetime(last),
            "args": (object(),) if kind == "broken" else (),
            "kwargs": {"entry": name, "size": "x" * size},
            "options": {"leader": leader},
        }
        misses = "max_lateness" in leader or leader.get("missed_runs") == "skip"
        for each in self._judged(name):
            self.judge.added(each, last, every, silent=kind == "broken", misses=misses)

    def _judged(self, name: str) -> list[str]:
        """Name what is judged of an entry: the runs of each tenant."""
        return [name + tenant for tenant in self.tenants]

    def change(self) -> None:
        name = self.random.choice(sorted(self.entries))
        entry = {**self.entries[name], "kwargs": dict(self.entries[name]["kwargs"])}
        entry["kwargs"]["n"] = self.random.random()
        if self.random.random() < 0.5:
            every = self.random.randint(5, _LONGEST)
            if every != entry["schedule"]:
                entry["schedule"] = float(every)
                for each in self._judged(name):
                    self.judge.changed(each, self.clock.us, every)
        self.entries[name] = entry
        self._show(name)

    def remove(self) -> None:
        if len(self.entries) > 1:
            name = self.random.choice(sorted(self.entries))
            self.gone[name] = self.entries.pop(name)
            self.judge.gone.update(self._judged(name))
            self._show(name)

    def bring(self) -> None:
        if self.gone and self.random.random() < 0.7:
            name = self.random.choice(sorted(self.gone))
            self.entries[name] = self.gone.pop(name)
            self.judge.gone.difference_update(self._judged(name))
        else:
            self.add()
            name = max(self.entries, key=lambda name: int(name[1:]))
        self._show(name)

    def _show(self, name: str) -> None:
        schedule = self.leader.app.conf.beat_schedule
        if name in self.entries:
            schedule[name] = self.entries[name]
        else:
            schedule.pop(name, None)

    # Leaders

    def elect(self) -> Leader:
        app = self._app()
        with self.wire.whole():
            return self.stage.leader(app)

    def _app(self) -> Celery:
        app = self.stage.app(**self.entries)

        @app.task(name="shop.own", base=_OwnWay, shared=False)
        def own(**_: Any) -> None:
            """Do nothing."""

        return app

    def replace(self) -> None:
        if self.random.random() < 0.3:
            self.leader.dispatcher.finish()
        self.elect_another()

    def elect_another(self) -> None:
        if self.judge.is_lost and not self.judge.excuse:
            self.judge.excuse = "nobody was left who remembered what was lost"
        self.zombies = [*self.zombies[-1:], self.leader]
        self.leader = self.elect()

    def run(self, leader: Leader | None = None) -> float:
        leader = leader or self.leader
        rounds = 0
        done = Rounds._round

        def counted(self: Rounds) -> bool:
            nonlocal rounds
            rounds += 1
            assert rounds < _MOST_ROUNDS, "it spins"
            return done(self)

        Rounds._round = counted  # type: ignore[method-assign]
        try:
            return leader.run()
        finally:
            Rounds._round = done  # type: ignore[method-assign]

    def wake(self) -> None:
        if self.zombies:
            self.run(self.random.choice(self.zombies))

    def sleep_in_the_gate(self) -> None:
        """Let the leader stop right before it writes, while another one is elected and works."""
        sleeper, left = self.leader, self.random.randint(1, 4)

        def still_leads() -> bool:
            nonlocal left
            left -= 1
            if left == 0:
                sleeper.still_leads = lambda: True
                with self.wire.whole():
                    self.elect_another()
                    self.pass_time()
                    for _ in range(self.random.randint(1, 4)):
                        self.run()
                        self.drain(self.random.random() < 0.5)
            return True

        sleeper.still_leads = still_leads
        self.pass_time()
        self.run(sleeper)
        sleeper.still_leads = lambda: True

    # Time and faults

    def pass_time(self) -> None:
        kind = self.random.random()
        rounds = self.leader.dispatcher._rounds
        if kind < 0.4 and rounds is not None:
            moments = [rounds._timetable.next_us(), rounds._waiting.next_us()]
            near = [each for each in moments if each and 0 < each - self.clock.us < 10**8]
            self.clock.us = min(near, default=self.clock.us) + self.random.randint(0, 300_000)
        elif kind < 0.9:
            self.clock.sleep(self.random.random() * 8)
        else:
            self.clock.sleep(self.random.random() * 200)

    def trouble(self) -> None:
        host = self.random.choice([_LEDGER, _LEDGER, _BROKER])
        match = self.random.choice([b"", b"EVALSHA", b"leader_publication"])
        kind = self.random.choice(_KINDS)
        times = self.random.choice([1, 1, 1, 2, 4])
        fault = WireFault(kind, match, self.random.randint(0, 2), times)
        self.wire.faults[host] = fault
        self.done.append(f"  {host}: {fault}")

    def deliver(self) -> None:
        if self.wire.late:
            self.wire.deliver_late(self.random.randrange(len(self.wire.late)))

    def spoil_queue(self) -> None:
        self.drain(True)
        if self.broker.exists(self.stage.key):
            self.broker.delete(self.stage.key)
        else:
            self.broker.set(self.stage.key, "no list")

    def pause(self) -> None:
        if self.is_paused:
            self.resume()
        elif self.stage.pause(self.pauses + 1):
            self.pauses += 1
            self.is_paused = True

    def resume(self) -> None:
        self.is_paused = not self.stage.pause(self.pauses, resumed=True)

    def keep_copy(self) -> None:
        names = (self.stage.names.runs, self.stage.names.pending)
        client: Any = self.stage.client
        self.copy = {name: client.dump(name) for name in names}

    def lose(self) -> None:
        """Lose the ledger, a part of it, or its latest state, while its leader lives."""
        if self.leader.dispatcher._rounds is None:
            return
        if self.random.random() < 0.6:
            self.leave_unanswered()
        names = [self.stage.names.runs, self.stage.names.pending]
        lost = self.random.choice([names[:1], names[1:], names, "back"])
        rounds = self.leader.dispatcher._rounds
        in_doubt = rounds._records.is_unanswered or bool(self.wire.late)
        # Of a batch without a reply nobody knows any more which of its messages the queue refused.
        is_refused = self.broker.type(self.stage.key) == b"string"
        if in_doubt and (is_refused or lost not in (names[:1], names[1:])):
            self.judge.excuse = "two faults at once"
        if lost == "back":
            for name, value in self.copy.items():
                self.stage.client.delete(name)
                if value is not None:
                    self.stage.client.restore(name, 0, value)
        else:
            self.stage.client.delete(*lost)
        self.done.append(f"  {lost}")
        self.judge.is_lost = True
        if self.random.random() < 0.9:
            self.recover()

    def leave_unanswered(self) -> None:
        """Let the reply to a request of the leader be lost, most likely one that publishes."""
        self.pass_time()
        match = self.random.choice([b"leader_publication", b"EVALSHA"])
        for _ in range(3):
            self.wire.faults[_LEDGER] = WireFault(self.random.choice(_KINDS), match)
            self.run()
            if self.leader.is_unanswered():
                break
            self.pass_time()
        self.wire.faults.pop(_LEDGER, None)

    def recover(self) -> None:
        """Let the leader find out what was lost, and restore it."""
        if self.random.random() < 0.7:
            self.wire.faults.clear()
        leader = self.leader
        for _ in range(12):
            if self.random.random() < 0.2:
                self.change()
            self.clock.sleep(1.1)
            self.run()
            assert leader is self.leader
        if not self.wire.faults and not leader.dispatcher._lost:
            self.judge.is_lost = False

    # The queue

    def drain(self, all_of_it: bool = True) -> None:
        """Take messages, as workers do."""
        if self.broker.type(self.stage.key) == b"string":
            return
        while raw := self.broker.rpop(self.stage.key):
            sent, headers = read_message(raw), json.loads(raw)["headers"]
            nonce = headers["leader_publication"]
            runs = nonce.startswith("once-")
            if not runs:
                runs = accept(
                    self.stage.client,
                    self.stage.key,
                    headers["leader_occurrence"],
                    nonce,
                    window=3600,
                ).may_run
            name = headers["kwargsrepr"].split("'")[3] + headers.get("tenant", "")
            self.judge.took(name, sent.covers, headers["leader_occurrence"], nonce, ran=runs)
            if not all_of_it and self.random.random() < 0.3:
                return

    # All of it

    def play(self, steps: int) -> Judge:
        """Play it to its end, and return what was seen."""
        try:
            for _ in range(steps):
                action = self.random.choice(_ACTIONS)
                self.done.append(action.__name__)
                action(self)
                if self.random.random() < 0.5:
                    self.pass_time()
                    self.run()
            self.done.append("settle down")
            self.settle_down()
        finally:
            for close in self.stage.closing:
                close()
        return self.judge

    def settle_down(self) -> None:
        self.wire.faults.clear()
        while self.wire.late:
            self.deliver()
        if self.broker.type(self.stage.key) == b"string":
            self.broker.delete(self.stage.key)
        if self.judge.is_lost:
            self.recover()
        for _ in range(20):
            if self.pauses:  # a leader may have restored one
                self.resume()
            self.clock.sleep(1.1)
            self.run()
        self._run_until_idle()
        end = self.clock.us + 2 * _LONGEST * 1_000_000
        while self.clock.us < end:
            self.clock.sleep(min(max(self.run(), 0.001), 10))
        self._run_until_idle()
        self.drain()
        left = self.stage.pending() & self.entries.keys()
        assert not left, f"pending is left: {left}"
        done = {
            each: decode_run(raw).moment
            for name, raw in self.stage.runs().items()
            for each in self._judged(name)
        }
        present = [each for name in self.entries for each in self._judged(name)]
        self.judge.ended(done, self.clock.us - 3 * _LONGEST // 2 * 1_000_000, present)

    def _run_until_idle(self) -> None:
        for _ in range(60):
            pause = self.run()
            if pause > 1.5 and not self.leader.dispatcher._lost:
                return
            self.clock.sleep(max(pause, 0.001))
        raise AssertionError("it does not come to rest")


_H = History
_ACTIONS: list[Callable[[History], Any]] = [
    *[_H.pass_time] * 3,
    *[_H.run] * 5,
    *[_H.trouble] * 6,
    *[_H.deliver] * 2,
    *[_H.change, _H.remove, _H.bring, _H.wake, _H.drain, _H.keep_copy],
    *[_H.replace] * 2,
    *[_H.sleep_in_the_gate] * 2,
    *[_H.spoil_queue, _H.pause],
    *[_H.lose] * 2,
]
