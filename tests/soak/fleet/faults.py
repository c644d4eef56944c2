"""Random faults of all kinds, one every few seconds; some last, and others happen meanwhile."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM

from tests.soak.fleet.app import LEADER_QUEUE, QUEUE, TTL
from tests.soak.fleet.posts import Harbour, Post

__all__ = ["Weather"]

SHORTEST, LONGEST = 2.0, 8.0
"""Seconds between two faults."""
_AT_THE_LEADER = 0.6
"""How often a fault of a process is one of the leader's."""
_DOUBLE = {
    "worker": ((SIGINT, SIGTERM, 0.001), (SIGTERM, SIGTERM, 0.004), (SIGTERM, SIGQUIT, 0.5)),
    "beat": ((SIGINT, SIGTERM, 0.001), (SIGTERM, SIGTERM, 0.004)),
}
_WEIGHTS = {
    "kill": 3, "stop": 3, "term": 3, "double signals": 2, "cut link": 4, "black hole": 2,
    "refused link": 2, "broker restart": 1, "Redis restart": 2, "channel error": 2,
    "cancelled leader queue": 2, "cancelled queue": 1, "cleaned files": 2,
}  # fmt: skip


class Weather:
    """Makes the faults of one harbour.

    Args:
        harbour: Where.
        seed: Of the choices. When a fault meets what, depends on the machine as well.
    """

    def __init__(self, harbour: Harbour, seed: int) -> None:
        self.faults: Counter[str] = Counter()
        self.restarts: list[float] = []
        """When the broker was restarted, by the monotonic clock: its end and its start."""
        self.problems: list[str] = []
        self._harbour = harbour
        self._choice = random.Random(seed)
        self._repairs: list[tuple[float, Callable[[], bool]]] = []
        self._restarting: threading.Thread | None = None
        self._next = time.monotonic()

    def turn(self, *, calm: bool = False) -> None:
        """Do what is due: repairs, and a fault unless it is calm."""
        now = time.monotonic()
        due = [repair for when, repair in self._repairs if when <= now]
        self._repairs = [each for each in self._repairs if each[0] > now]
        for repair in due:
            if not repair():
                self._repairs.append((now + 1.0, repair))
        self.problems += self._harbour.attend()
        if not calm and now >= self._next:
            self._strike()
            self._next = time.monotonic() + self._choice.uniform(SHORTEST, LONGEST)

    @property
    def is_over(self) -> bool:
        """Whether all is repaired."""
        return not self._repairs and (self._restarting is None or not self._restarting.is_alive())

    def _strike(self) -> None:
        kind = self._choice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        action = getattr(self, "_" + kind.replace(" ", "_").lower())
        done = action()
        self.faults[kind if done else f"{kind} (not possible then)"] += 1

    def _later(self, seconds: float, repair: Callable[[], bool]) -> bool:
        self._repairs.append((time.monotonic() + seconds, repair))
        return True

    def _seconds(self, least: float, most: float) -> float:
        return self._choice.uniform(least, most) * TTL

    def _post(self, kind: str = "", *, may_end: bool = False) -> Post | None:
        """Choose a process, often the leader."""
        kind = kind or self._choice.choice(("worker", "beat"))
        leader = self._harbour.leader(kind)
        at_leader = self._choice.random() < _AT_THE_LEADER
        posts = [p for p in self._harbour.of(kind) if not p.stopped and p.child.running]
        if may_end:
            posts = [post for post in posts if not post.is_elder]
        chosen = self._choice.choice(posts) if posts else None
        return leader if at_leader and leader in posts else chosen

    # The faults

    def _kill(self) -> bool:
        post = self._post(may_end=True)
        if post is not None:
            self._harbour.replace(post, (SIGKILL, 0.0))
        return post is not None

    def _stop(self) -> bool:
        post = self._post()
        if post is None:
            return False
        post.stop_still()
        child = post.child

        def go_on() -> bool:
            if post.child is child:
                post.go_on()
            return True

        return self._later(self._seconds(0.3, 4.0), go_on)

    def _term(self) -> bool:
        post = self._post(may_end=True)
        if post is not None:
            self._harbour.replace(post, (SIGTERM, 0.0))
        return post is not None

    def _double_signals(self) -> bool:
        post = self._post(may_end=True)
        if post is None:
            return False
        first, second, pause = self._choice.choice(_DOUBLE[post.kind])
        self._harbour.replace(post, (first, 0.0), (second, pause))
        return True

    def _cut_link(self) -> bool:
        self._choice.choice([*self._harbour.to_redis, *self._harbour.to_broker]).cut()
        return True

    def _black_hole(self) -> bool:
        proxy = self._choice.choice([*self._harbour.to_redis, *self._harbour.to_broker])
        proxy.black_hole()

        def heal() -> bool:
            proxy.heal()
            proxy.cut()
            return True

        return self._later(self._seconds(0.3, 3.0), heal)

    def _refused_link(self) -> bool:
        proxy = self._choice.choice([*self._harbour.to_redis, *self._harbour.to_broker])
        proxy.refuse()
        proxy.cut()

        def accept() -> bool:
            proxy.accept()
            return True

        return self._later(self._seconds(0.3, 3.0), accept)

    def _broker_restart(self) -> bool:
        if not self.is_over:
            return False
        broker, kill = self._harbour.rabbitmq, self._choice.random() < 0.5

        def restart() -> None:
            self.restarts.append(time.monotonic())
            broker.kill() if kill else broker.stop()
            broker.start()
            self.restarts.append(time.monotonic())

        self._restarting = threading.Thread(target=restart, name="broker restart", daemon=True)
        self._restarting.start()
        return True

    def _redis_restart(self) -> bool:
        server = self._harbour.redis
        if not server.running:
            return False
        server.kill() if self._choice.random() < 0.5 else server.stop()

        def start() -> bool:
            server.start()
            return True

        return self._later(self._seconds(0.0, 2.0), start)

    def _channel_error(self) -> bool:
        post = self._post("worker")
        return post is not None and self._harbour.control("break_channel", {}, post, reply=False)

    def _cancelled_leader_queue(self) -> bool:
        return self._cancelled(LEADER_QUEUE)

    def _cancelled_queue(self) -> bool:
        return self._cancelled(QUEUE)

    def _cancelled(self, queue: str) -> bool:
        post = self._post("worker")
        if post is None:
            return False
        child, harbour = post.child, self._harbour
        done = harbour.control("cancel_consumer", {"queue": queue}, post, reply=False)

        def add() -> bool:
            # Until it is confirmed: the command may get lost in another fault.
            return post.child is not child or harbour.control(
                "add_consumer", {"queue": queue}, post, reply=True
            )

        return done and self._later(self._seconds(0.3, 3.0), add)

    def _cleaned_files(self) -> bool:
        for path in self._harbour.temporary.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return True
