"""Beats that are killed, stopped and told to end for two minutes, while each of them is scraped.

What they count is compared with what MONITOR shows, with the ledger and with what workers have
executed. And whoever says that it leads must have renewed within its ttl, by Redis's own record.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._ledger.codec import decode_run
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from tests.e2e.service.test_health import ask, scraped
from tests.soak.monitor import Monitor
from tests.soak.pushes import messages, read_push
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import Beat
from tests.support.celery.chaos import MICROSECONDS, Fleet, problems
from tests.support.processes import wait_until
from tests.support.servers import Server

TTL = 2.0
SECONDS = 120.0
STEPS = {f"e{n}": 1.0 for n in range(9)} | {"half": 0.5}
"""Together, so that there are moments at which all is counted."""
LAG = 3.0
"""Seconds within which a beat that runs has counted what Redis has of it."""
LEASE = ElectionKeys("shop", "beat").lease
RENEWAL = re.compile(
    rb'"HSET" "%b" "holder" "([^"]+)" "token" "(\d+)" "renewal" "[^"]*?-(\d+)"' % LEASE.encode()
)
ORIGIN = re.compile(r"gen(\d+)@")


class Record(Monitor):
    """What MONITOR shows of renewals, and of messages by the process that made them."""

    def __init__(self, server: Server) -> None:
        self.renewals: dict[int, list[float]] = {}
        """By token: when Redis took each, the election first."""
        self.holders: dict[int, int] = {}
        """Token -> process id."""
        self.pushed: dict[int, list[float]] = {}
        """Process id -> when each of its messages came."""
        super().__init__(server)

    def _take(self, line: bytes) -> None:
        super()._take(line)
        if found := RENEWAL.search(line):
            token = int(found[2])
            self.renewals.setdefault(token, []).append(int(found[3]) / MICROSECONDS)
            self.holders[token] = int(found[1].split(b":")[-2])
        elif (push := read_push(line)) is not None:
            for value in push.values:
                if [each for each in messages(replace(push, values=(value,))) if not each.restored]:
                    origin = ORIGIN.match(json.loads(value)["headers"]["origin"])
                    pid = int(origin[1]) if origin else 0
                    self.pushed.setdefault(pid, []).append(push.at)


@dataclass(frozen=True)
class Answer:
    sent: float
    came: float
    """Both by the wall clock, which is Redis's, too."""
    status: int
    body: dict[str, Any]


@dataclass
class Scraper:
    """Asks one beat, without a pause, until nobody answers any more."""

    beat: Beat
    path: str
    leader: list[Answer] = field(default_factory=list)
    metrics: list[Answer] = field(default_factory=list)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self.beat.child.running:
            self.ask_whether_it_leads()
            sent = time.time()
            try:
                _, found = scraped(self.path)
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)  # it starts, stands still or ends
                continue
            self.metrics.append(Answer(sent, time.time(), 200, found))
            time.sleep(0.02)

    def ask_whether_it_leads(self) -> Answer:
        sent = time.time()
        status, body = ask(self.path, "/leader")
        answer = Answer(sent, time.time(), status, body)
        if status:
            self.leader.append(answer)
        return answer

    def close(self) -> None:
        self._thread.join(30)

    def published(self, answer: Answer) -> int:
        return sum(
            round(value)
            for name, value in answer.body.items()
            if name.startswith("runs_published_total/")
        )


class Scene:
    """Three beats, one of which leads, each with a scraper; and a worker that runs everything."""

    def __init__(self, folder: Path, server: Server, way: str) -> None:
        self.folder, self.server = folder, server
        for role in ("beat", "worker"):
            leave_resigned(server.url, "shop", role)
        self.record = Record(server)
        other = server.url.removesuffix("/0") + "/1"
        self.fleet = Fleet(
            folder, server.url if way == "transactional" else other, server.url, STEPS,
            leader_ttl=TTL, leader_wait=0.3, leader_http=str(folder / "%r-%p.sock"),
        )  # fmt: skip
        self.scrapers: list[Scraper] = []
        self.late: list[Answer] = []
        """Of stopped leaders, to requests that were sent when another led."""
        self.worker = self.fleet.start_worker("-P", "solo", "--no-leader")
        for _ in range(3):
            self.start_beat()

    def start_beat(self) -> None:
        beat = self.fleet.start_beat()
        scraper = Scraper(beat, str(self.folder / f"beat-{beat.pid}.sock"))
        self.scrapers.append(scraper)
        scraper.start()

    @property
    def living(self) -> list[Scraper]:
        return [each for each in self.scrapers if not each.beat.ended]

    def strike(self, fault: str) -> None:
        """Do it to the leading beat, and wait until another leads."""
        leader = self.fleet.leader()
        if fault == "SIGSTOP":
            leader.pause()
            self.fleet.leader(other_than=leader)
            (scraper,) = (each for each in self.scrapers if each.beat is leader)
            asking = threading.Thread(
                target=lambda: self.late.append(scraper.ask_whether_it_leads())
            )
            asking.start()
            time.sleep(0.5)  # so that it finds the request when it wakes; it must not matter
            leader.resume()
            asking.join(30)
        elif fault == "SIGKILL":
            leader.kill()
        else:
            leader.terminate()
        if fault != "SIGSTOP":
            self.fleet.leader()
            self.start_beat()
        time.sleep(LAG)

    def close(self) -> None:
        self.fleet.close()
        self.record.close()


@pytest.fixture(params=["transactional", "write-ahead"])
def scene(tmp_path: Path, valkey_server: Server, request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = Scene(tmp_path, valkey_server, request.param)
    yield made
    made.close()


def led_too_long(record: Record, answers: list[Answer]) -> list[str]:
    """Return the answers of somebody who had no lease any more when it was asked."""
    found = []
    for answer in answers:
        if answer.status != 200:
            continue
        renewals = record.renewals.get(answer.body["token"], [])
        before = bisect_left(renewals, answer.came)
        if not before or renewals[before - 1] + TTL < answer.sent:
            late = answer.sent - renewals[before - 1] - TTL if before else float("nan")
            found.append(f"{answer.body} to a request {late:.3f} s after the lease")
    return found


def miscounted(record: Record, scraper: Scraper) -> list[str]:
    """Return what one beat said of its messages that is not so."""
    pushed, found, before = record.pushed.get(scraper.beat.pid, []), [], 0
    for answer in scraper.metrics:
        count = scraper.published(answer)
        # Redis's moment is that of its round of events, which may be a little old.
        most = bisect_left(pushed, answer.came + 0.001)
        if not before <= count <= most:
            found.append(f"{scraper.beat.name}: {count} after {before}, and Redis had {most}")
        before = count
    if scraper.metrics:
        last = scraper.metrics[-1]
        least = bisect_left(pushed, last.sent - LAG)
        if scraper.published(last) < least:
            found.append(f"{scraper.beat.name}: {scraper.published(last)} at last, of {least}")
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_they_count_is_so_and_nobody_says_that_it_leads_after_its_lease(
    scene: Scene, measured: Callable[[str], None]
) -> None:
    fleet, record = scene.fleet, scene.record
    fleet.wait_working()
    struck: Counter[str] = Counter()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for fault in ("SIGSTOP", "SIGKILL", "SIGTERM"):
            scene.strike(fault)
            struck[fault] += 1

    def counted() -> list[tuple[int, int]]:
        """Return for each living beat what it counted and what Redis has."""
        return [
            (
                s.published(s.metrics[-1]) if s.metrics else -1,
                len(record.pushed.get(s.beat.pid, [])),
            )
            for s in scene.living
        ]

    # Between two runs, and after the next scrape.
    wait_until(
        lambda: all(seen == had for seen, had in counted()),
        60,
        lambda: f"{counted()}; {record.void}",
    )
    elected = Counter(record.holders.values())
    for scraper in scene.living:
        shown = scraper.metrics[-1].body
        assert shown["tenures_total"] == elected[scraper.beat.pid]
        assert sum(v for k, v in shown.items() if k.startswith("runs_missed_total")) == 0
    last_served = time.time_ns() // 1000 - MICROSECONDS
    fleet.wait_served(last_served)
    fleet.stop_beats()
    for scraper in scene.scrapers:
        scraper.close()
    fleet.wait_idle()
    record.finish()
    assert record.void == ""

    client: Any = scene.server.client(decode_responses=False)
    rows = client.hgetall(LedgerKeys("shop").runs)
    ledger = {
        name.decode(): decode_run(row).count
        for name, row in rows.items()
        if name not in (SENTINEL, b"celery.backend_cleanup")
    }
    runs = fleet.executions()
    executed = Counter(run.entry for run in runs)
    sent = [each for each in record.messages() if not each.restored]
    assert problems(runs, fleet.grids, last_served) == []
    assert dict(executed) == ledger
    assert Counter(e.run.entry for e in {m.run.occurrence: m for m in sent}.values()) == executed
    _, worker = scraped(str(scene.folder / f"worker-{scene.worker.pid}.sock"))
    assert worker["duplicates_dropped_total"] == len(sent) - len(runs)
    assert sum(map(len, record.pushed.values())) == len(sent)

    answers = [answer for scraper in scene.scrapers for answer in scraper.leader]
    scrapes = sum(len(scraper.metrics) for scraper in scene.scrapers)
    assert led_too_long(record, answers) == []
    assert [each for s in scene.scrapers for each in miscounted(record, s)] == []
    led = sum(answer.status == 200 for answer in answers)
    assert led
    assert [answer.status for answer in scene.late] == [503] * struck["SIGSTOP"]
    assert fleet.complaints() == []
    measured(
        f"{dict(struck)}; {scrapes} scrapes and {len(answers)} answers of /leader by "
        f"{len(scene.scrapers)} beats, {led} of them 200; "
        f"{len(sent)} messages, {len(runs)} executed, {len(sent) - len(runs)} dropped, "
        f"{len(record.renewals)} tenures, {sum(map(len, record.renewals.values()))} renewals"
    )
