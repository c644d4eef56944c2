"""What beats send while nothing is due, and what they notice all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._store.keys import BEAT, ElectionKeys, LedgerKeys
from tests.integration.operations.commands import invoke
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.celery.embedded import Crew
from tests.support.processes import Children, wait_until
from tests.support.servers import Server
from tests.support.servers.monitor import Monitor

SCHEDULE = '{"yearly": {"task": "shop.work", "schedule": 365 * 86400.0}}'
TTL, WAIT = 1.5, 0.3
KEYS, LEDGER = ElectionKeys("shop", BEAT), LedgerKeys("shop")
RENEWAL = ("EVALSHA", 3)
READ = ("BLPOP", 2)


GREETINGS = ("AUTH", "CLIENT", "HELLO", "SELECT")


class Sent:
    """What clients send to a server from now on: names, and how many keys."""

    def __init__(self, server: Server) -> None:
        self._monitor = Monitor(server)

    @property
    def seen(self) -> list[tuple[str, int]]:
        # A connection that is opened late, such as a standby's second one, greets the server once.
        commands = [words for words in list(self._monitor.commands) if words[0] not in GREETINGS]
        return [_name_and_keys(words) for words in commands]

    @property
    def announcements(self) -> int:
        """How often a candidate said something of itself."""
        commands = list(self._monitor.commands)
        return sum(any(word.endswith(":candidates") for word in words[:8]) for words in commands)

    def wait_for(self, count: int, command: tuple[str, int]) -> Counter[tuple[str, int]]:
        """Wait for so many of a command; return how many there were of each."""
        wait_until(lambda: self.seen.count(command) >= count, 60, lambda: str(self.seen))
        return Counter(self.seen)

    def wait_for_rest(self, count: int) -> None:
        """Wait until so many renewals, and the reads between them, are all that was sent last."""
        wait_until(lambda: self._renewals_of_late() >= count, 60, lambda: str(self.seen))

    def _renewals_of_late(self) -> int:
        last = list(takewhile(lambda each: each in (RENEWAL, READ), reversed(self.seen)))
        return last.count(RENEWAL)


def _name_and_keys(words: list[str]) -> tuple[str, int]:
    name = words[0]
    if name == "EVALSHA":
        keys = words[3 : 3 + int(words[2])]
        return name, sum(not key.endswith(":candidates") for key in keys)
    return name, len(words) - 2 if name == "BLPOP" else 0


class Rest:
    """A beat with nothing due, whose election and ledger have a server of their own."""

    def __init__(self, children: Children, folder: Path, broker: Server, election: Server) -> None:
        self._children, self._folder, self._broker = children, folder, broker
        self.election = election
        self.client: Any = election.client()

    def start(self, name: str = "beat", **settings: Any) -> Beat:
        common = {"leader_ttl": TTL, "leader_wait": WAIT, "leader_url": self.election.url}
        write_app(self._folder, self._broker.url, SCHEDULE, **{**common, **settings})
        return Beat(self._children, self._folder, name=name)

    def lead(self, **settings: Any) -> Beat:
        """Start a beat, and wait until what belongs to the start of its tenure is over."""
        beat = self.start(**settings)
        leader_of(lambda: [beat], 30)
        beat.child.wait_for_line("Loaded the ledger")
        # Also until the next moments are noted, for a successor with another schedule.
        wait_until(lambda: self.client.hlen(KEYS.next) == 2, 30, "the notes of both entries")
        Sent(self.election).wait_for_rest(2)
        return beat

    def sentinels(self) -> list[bytes | None]:
        """Return what both hashes of the ledger say of themselves."""
        names = (LEDGER.runs, LEDGER.pending)
        return [self.client.execute_command("HGET", name, SENTINEL) for name in names]

    def wait_restored(self, beat: Beat, times: int = 1) -> None:
        """Wait until the beat has written the ledger back, whole."""
        wait_until(
            lambda: beat.child.output.count("this leader restored 2 entries") == times,
            30,
            lambda: beat.child.output,
        )
        assert None not in self.sentinels()
        assert self.client.hexists(LEDGER.runs, "yearly")


@pytest.fixture
def rest(
    children: Children, tmp_path: Path, valkey_server: Server, start_server: Callable[..., Server]
) -> Rest:
    return Rest(children, tmp_path, start_server(), valkey_server)


def test_a_leading_beat_sends_one_renewal_and_one_blocking_read_in_each_third_of_the_ttl(
    rest: Rest,
) -> None:
    rest.lead()
    monitor = Sent(rest.election)
    sent = monitor.wait_for(6, RENEWAL)
    assert set(sent) == {RENEWAL, READ}
    assert abs(sent[RENEWAL] - sent[READ]) <= 1
    # Along with one renewal of three.
    assert 1 <= monitor.announcements <= monitor.seen.count(RENEWAL) / 3 + 1


def test_a_standby_sends_one_look_and_one_blocking_read_in_each_wait(rest: Rest) -> None:
    rest.lead()
    standby = rest.start("standby")
    standby.wait_standing_by()
    standby.child.wait_for_line("Copied the ledger")
    monitor = Sent(rest.election)
    look, pause = ("EVALSHA", 1), ("BLPOP", 1)
    sent = monitor.wait_for(6, look)
    assert set(sent) == {RENEWAL, READ, look, pause}
    assert abs(sent[look] - sent[pause]) <= 1


@pytest.mark.parametrize("lost", [(LEDGER.runs,), (LEDGER.pending,), (LEDGER.runs, LEDGER.pending)])
def test_a_loss_is_noticed_and_written_back_though_nothing_is_due(
    rest: Rest, lost: tuple[str, ...]
) -> None:
    beat = rest.lead()
    before = len(beat.tenures)
    rest.client.delete(*lost)
    rest.wait_restored(beat)
    assert len(beat.tenures) == before
    Sent(rest.election).wait_for_rest(3)


def test_a_server_that_lost_everything_is_given_lease_and_ledger_back(rest: Rest) -> None:
    beat = rest.lead()
    tenure = beat.tenures[-1].token
    rest.client.flushall()
    rest.wait_restored(beat)
    assert beat.tenures[-1].token == tenure
    assert rest.client.hget(KEYS.lease, "token") == str(tenure)


def test_an_older_copy_of_the_ledger_is_noticed(rest: Rest) -> None:
    beat = rest.lead()
    copies = {name: rest.client.dump(name) for name in (LEDGER.runs, LEDGER.pending)}
    rest.client.delete(LEDGER.pending)
    rest.wait_restored(beat)
    for name, copy in copies.items():
        rest.client.restore(name, 0, copy, replace=True)
    rest.wait_restored(beat, 2)


def test_a_ledger_that_is_no_hash_costs_no_lease_and_is_told(rest: Rest) -> None:
    beat = rest.lead()
    rest.client.set(LEDGER.runs, "x")
    beat.child.wait_for_line("The ledger failed")
    monitor = Sent(rest.election)
    monitor.wait_for(4, RENEWAL)
    assert len(beat.tenures) == 1
    assert rest.client.hget(KEYS.lease, "token") == str(beat.tenures[0].token)
    rest.client.delete(LEDGER.runs)
    rest.wait_restored(beat)


def test_an_embedded_beat_looks_itself_and_reads_changes_alone(
    tmp_path: Path, valkey_server: Server, start_server: Callable[..., Server]
) -> None:
    """Its worker renews, and is asked."""
    settings: dict[str, Any] = {"leader_ttl": TTL, "leader_wait": WAIT}
    broker = start_server().url
    with Crew(tmp_path, valkey_server.url, {"yearly": 3e7}, broker=broker, **settings) as crew:
        crew.start_crew(1)
        crew.dispatching()

        def named() -> list[str]:
            found = invoke(valkey_server.url, "shop", "status", "--role", "worker", "--json")
            work = found.json["elections"][0]["work"] or {}
            return [each["entry"] for each in work.get("next", ())]

        wait_until(lambda: "yearly" in named(), 30, "what the beat has to do, said by its worker")
        Sent(valkey_server).wait_for(3, ("EVALSHA", 1))
        monitor = Sent(valkey_server)
        sent = monitor.wait_for(6, ("EVALSHA", 1))
        # With SET the worker says that it keeps a beat.
        assert set(sent) == {("EVALSHA", 1), ("EVALSHA", 3), ("BLPOP", 1), ("SET", 0)}
        # The worker waits for requests, and the beat for changes.
        reads = sent.pop(("BLPOP", 1))
        assert 7 < reads <= 14
        assert all(count <= 7 for count in sent.values())
        valkey_server.client().delete(LEDGER.runs)
        crew.crew[0].child.wait_for_line("this leader restored 2 entries")
