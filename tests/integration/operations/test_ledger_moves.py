"""``leader ledger …``: nothing lost, nothing twice; or nothing done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._ledger import pausing, script_calls
from celery_safe_leader._ledger.codec import (
    Claim,
    LastRun,
    encode_claim,
    encode_entry,
    encode_run,
)
from celery_safe_leader._ledger.hash_sentinel import SENTINEL, decode_pause
from celery_safe_leader._ledger.moving import replacement
from celery_safe_leader._operations.moving.ledger_file import UnusableFileError, parse_ledger
from celery_safe_leader._operations.moving.merging import merge
from celery_safe_leader._schedules.moments import SECOND_US
from celery_safe_leader._store.keys import LedgerKeys
from celery_safe_leader.errors import StoreUnavailableError
from tests.integration.beat.driven_leaders import (
    TRANSACTIONAL,
    WRITE_AHEAD,
    DrivenLeaders,
    Leader,
    Sent,
    ticked,
)
from tests.integration.operations.commands import HOSTILE, Found, Keeper, invoke
from tests.support.network.ports import free_port
from tests.support.processes import wait_until
from tests.support.servers import ExternalServer, Server

MOMENT = 1_790_000_000 * SECOND_US
ODD_NAMES = (*HOSTILE, "\udcff", "läden", " ", "'quoted'")


class Place:
    """The ledger of one key on one server, as people leave it."""

    def __init__(self, server: ExternalServer, key: str) -> None:
        self.url, self.key = server.url, key
        self.client: Any = server.client(decode_responses=False)
        self.names = LedgerKeys(key)
        self.keeper = Keeper(server, key)

    def run(self, *words: str) -> Found:
        return invoke(self.url, self.key, *words)

    def write(self, *entries: str, second: int = 0, count: int = 1, enrolled: bool = False) -> None:
        moment = MOMENT + second * SECOND_US
        run = encode_run(LastRun(moment, count, moment if enrolled else MOMENT - SECOND_US, "f"))
        fields = {encode_entry(entry): run for entry in entries}
        mark = b"1 g 1 whole/m beat"
        self.client.hset(self.names.runs, mapping={SENTINEL: mark, **fields})
        self.client.hset(self.names.pending, SENTINEL, mark)

    def claim(self, entry: str, *, second: int = 60, occurrence: str = "o-1") -> None:
        moment = MOMENT + second * SECOND_US
        claim = Claim(entry, occurrence, moment, moment, "f", 7)
        self.client.hset(self.names.pending, encode_entry(entry), encode_claim(claim))

    def pause(self) -> None:
        pausing.pause(self.client, self.names)

    def export(self, folder: Path) -> Path:
        file = folder / f"{self.key}.json"
        found = self.run("ledger", "export", "--force", str(file))
        assert found.code == 0, found.output
        return file

    @property
    def all(self) -> tuple[dict[bytes, bytes], ...]:
        return tuple(self.client.hgetall(name) for name in (self.names.runs, self.names.pending))

    @property
    def entries(self) -> tuple[dict[bytes, bytes], ...]:
        whole = self.all
        return tuple({n: v for n, v in each.items() if n != SENTINEL} for each in whole)

    @property
    def staged(self) -> list[bytes]:
        return list(self.client.keys(f"*{self.key}*import*"))


@pytest.fixture
def here(shared_server: ExternalServer, key: str) -> Place:
    return Place(shared_server, key)


@pytest.fixture
def there(shared_server: ExternalServer, key: str) -> Place:
    """Another key stands for another server."""
    return Place(shared_server, f"{key}-there")


def test_an_empty_ledger_gets_all_of_it_and_is_paused(
    here: Place, there: Place, tmp_path: Path
) -> None:
    here.write("a", "b", *ODD_NAMES)
    here.write("enrolled", count=0)
    here.claim("a")
    here.client.set(here.names.accepted("o-1"), "nonce-7")
    here.pause()
    file = here.export(tmp_path)
    found = there.run("ledger", "import", str(file), "--json")
    assert found.code == 0, found.output
    assert (found.json["entries"], found.json["claims"], found.json["pause"]) == (11, 1, 1)
    assert there.entries == here.entries
    assert there.client.get(there.names.accepted("o-1")) == b"nonce-7"
    runs, pending = there.all
    assert runs[SENTINEL] == pending[SENTINEL]
    assert decode_pause(runs[SENTINEL]) is not None
    assert {there.client.pttl(name) for name in (there.names.runs, there.names.pending)} == {-1}
    assert there.staged == []
    status = there.run("status", "--json").json["ledger"]
    assert (status["entries"], status["paused"], status["election"]) == (11, True, "beat")
    # Once more changes nothing.
    assert there.run("ledger", "import", str(file)).code == 0
    assert there.entries == here.entries


def test_the_file_says_what_people_ask(here: Place, tmp_path: Path) -> None:
    here.write("a")
    here.write("new", count=0)
    here.claim("a")
    here.client.hset(here.names.runs, mapping={b"\xff": b"x", b"odd": b"\x1b[2J"})
    found = here.run("ledger", "export")
    assert found.code == 0
    assert "\x1b" not in found.output
    assert f"{here.key} is not paused" in found.output
    assert "1 run claimed, and it is not known whether published" in found.output
    assert "2 values cannot be read" in found.output
    here.pause()
    whole = json.loads(here.export(tmp_path).read_text())
    assert (whole["schema"], whole["version"], whole["paused"]) == ("ledger", 1, True)
    first, new = whole["entries"]
    assert (first["last"], first["count"]) == ("2026-09-21T14:13:20.000Z", 1)
    assert (new["last"], new["count"]) == (None, 0)
    (claim,) = whole["claims"]
    assert (claim["occurrence"], claim["accepted"]) == ("o-1", None)
    assert [each["entry"] for each in whole["unreadable"]] == ["\\xff", "odd"]


def test_what_would_run_twice_or_get_lost_is_refused(
    here: Place, there: Place, tmp_path: Path
) -> None:
    here.write("a")
    running = here.export(tmp_path)
    found = there.run("ledger", "import", str(running))
    assert (found.code, "was not paused" in found.output) == (1, True)
    assert there.run("ledger", "import", str(running), "--older").code == 0

    here.claim("a")
    here.pause()
    file = here.export(tmp_path)
    found = there.run("ledger", "import", str(file))
    assert (found.code, "1 run claimed under" in found.output) == (1, True)
    # Within one key workers tell two messages of a run apart.
    assert here.run("ledger", "import", str(file)).code == 0
    assert there.run("ledger", "import", str(file), "--unsettled", "repeat").code == 0
    assert there.entries == here.entries
    assert there.run("ledger", "import", str(file), "--unsettled", "skip").code == 0

    there.client.delete(there.names.runs, there.names.pending)
    there.write("b")
    before = there.all
    found = there.run("ledger", "import", str(file), "--unsettled", "skip")
    assert (found.code, "it is not paused" in found.output) == (1, True)
    assert there.all == before
    there.pause()
    assert there.run("ledger", "import", str(file), "--unsettled", "skip").code == 0
    runs, pending = there.entries
    assert runs[b"a"].startswith(b"%d 2 " % (MOMENT + 60 * SECOND_US))
    assert (set(runs), pending) == ({b"a", b"b"}, {})
    assert there.staged == []


@pytest.mark.parametrize(
    ("sentinels", "words"),
    [
        (("1 g 1 whole/m beat", "1 h 1 whole/m beat"), "part of it was lost"),
        (("1 g 1 partial beat",) * 2, "a leader is restoring it"),
        (("1 g 1 whole beat",) * 2, "is of a release that would take this for a loss"),
        (("9 g 1 whole/m beat",) * 2, "it has format 9"),
    ],
)
def test_a_ledger_that_is_not_as_it_should_be_is_left_alone(
    here: Place, there: Place, tmp_path: Path, sentinels: tuple[str, str], words: str
) -> None:
    here.write("a")
    here.pause()
    file = here.export(tmp_path)
    for name, sentinel in zip((there.names.runs, there.names.pending), sentinels, strict=True):
        there.client.hset(name, SENTINEL, sentinel)
    before = there.all
    for command in (("import", str(file)), ("rename", "a", "b")):
        found = there.run("ledger", *command)
        assert found.code == (2 if "format" in words else 1)
        assert words in found.output
    assert there.all == before


def test_a_leader_whose_ledger_is_lost_is_waited_for(
    here: Place, there: Place, tmp_path: Path
) -> None:
    here.write("a")
    here.pause()
    file = here.export(tmp_path)
    there.keeper.write()
    found = there.run("ledger", "import", str(file))
    assert (found.code, "leads its beats: it makes one" in found.output) == (1, True)
    assert there.all == ({}, {})


def test_wherever_it_is_interrupted_all_of_it_is_there_or_nothing(
    here: Place, there: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write(*(f"entry {number}" for number in range(150)))
    here.claim("entry 7")
    here.client.set(here.names.accepted("o-1"), "n")
    here.pause()
    file = here.export(tmp_path)
    there.write("before")
    there.pause()
    before, outcomes = there.all, []
    call = script_calls.call
    monkeypatch.setattr(there.client.__class__, "unlink", lambda *_: 0)  # nor does it tidy up
    for stop, executes in [(n, executes) for n in range(1, 5) for executes in (False, True)]:
        calls = iter(range(1, 100))

        def interrupted(*args: Any, at: int = stop, executes: bool = executes) -> Any:
            number = next(calls)  # noqa: B023
            if number == at and executes:
                call(*args)
            if number == at:
                raise StoreUnavailableError("shop", "cut off")
            return call(*args)

        monkeypatch.setattr(replacement, "call", interrupted)
        found = there.run("ledger", "import", str(file))
        assert found.code == 2
        assert "import it again" in found.output
        assert len(there.all[0]) in (2, 152)
        outcomes.append(there.all != before)
        assert {0 < there.client.pttl(name) <= 3_600_000 for name in there.staged} <= {True}
    # Two pieces of runs and one of claims are staged; then one script.
    assert outcomes == [False] * 7 + [True]
    monkeypatch.undo()
    assert there.run("ledger", "import", str(file)).code == 0
    assert there.entries[0] == {**here.entries[0], b"before": before[0][b"before"]}


def test_of_two_last_runs_the_later_one_counts_and_one_that_ran_before_one_that_did_not(
    here: Place, there: Place, tmp_path: Path
) -> None:
    here.write("early", "late", "ran", second=10)
    here.write("new", "neither", second=20, count=0)
    here.pause()
    file = here.export(tmp_path)
    there.write("early", second=5)
    there.write("late", second=15)
    there.write("ran", second=90, count=0)
    # A count that was given to the entry says nothing.
    there.write("neither", second=90, count=9, enrolled=True)
    there.write("new", second=1)
    there.write("only", second=1)
    there.pause()
    assert there.run("ledger", "import", str(file)).code == 0
    (runs, _), seconds = there.entries, {}
    for name, value in runs.items():
        moment, count, *_rest = value.decode().split()
        seconds[name.decode()] = ((int(moment) - MOMENT) // SECOND_US, int(count))
    assert seconds == {
        "early": (10, 1),
        "late": (15, 1),
        "ran": (10, 1),
        "new": (1, 1),
        "neither": (20, 0),
        "only": (1, 1),
    }


def test_a_leader_that_writes_meanwhile_is_read_again(
    here: Place, there: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("a")
    here.pause()
    file = here.export(tmp_path)
    there.write("b")
    there.pause()
    writes = [there.client.hget(there.names.runs, SENTINEL).replace(b" 1 ", b" 2 ", 1)] * 2
    from celery_safe_leader._operations.moving import ledger_commands

    def written(*args: Any) -> Any:
        if writes:
            for name in (there.names.runs, there.names.pending):
                there.client.hset(name, SENTINEL, writes[-1].replace(b" 2 ", b" %d " % len(writes)))
            writes.pop()
        return merge(*args)

    monkeypatch.setattr(ledger_commands, "merge", written)
    assert there.run("ledger", "import", str(file)).code == 0
    assert set(there.entries[0]) == {b"a", b"b"}
    assert writes == []


@pytest.mark.parametrize("text", ODD_NAMES)
def test_an_entry_of_any_name_is_renamed(here: Place, text: str) -> None:
    here.write(text)
    here.write("other", second=5)
    here.claim(text)
    here.client.hset(here.names.unknown, mapping={encode_entry(text): 1, encode_entry("x"): 1})
    run, claim = (each[encode_entry(text)] for each in here.entries)
    found = here.run("ledger", "rename", text, "new\x07")
    assert (found.code, "pause it first" in found.output) == (1, True)
    here.pause()
    found = here.run("ledger", "rename", text, "new\x07")
    assert found.code == 0
    assert not set(found.output) & {"\x1b", "\x07"}
    runs, pending = here.entries
    assert (runs[b"new\x07"], pending) == (run, {b"new\x07": claim})
    assert set(runs) == {b"new\x07", b"other"}
    assert set(here.client.hgetall(here.names.unknown)) == {b"x"}
    assert here.run("ledger", "rename", "new\x07", text, "--json").json["new"] == text


def test_a_name_with_runs_of_its_own_is_not_replaced(here: Place) -> None:
    assert here.run("ledger", "rename", "a", "b").code == 1
    here.write("a", "b")
    here.write("enrolled", count=9, enrolled=True)
    here.pause()
    before = here.all
    for old, new, words in (
        ("a", "b", "has runs of its own"),
        ("none", "c", "no entry of the old name"),
        ("a", "a", "two names"),
        ("a", "", "two names"),
    ):
        found = here.run("ledger", "rename", old, new)
        assert (found.code, words in found.output) == (1, True)
    assert here.all == before
    assert here.run("ledger", "rename", "a", "enrolled").code == 0
    assert set(here.entries[0]) == {b"b", b"enrolled"}


def test_redis_is_away_or_has_no_ledger_or_the_file_is_none(
    here: Place, key: str, tmp_path: Path
) -> None:
    assert here.run("ledger", "export").code == 1
    here.write("a")
    here.pause()
    file = here.export(tmp_path)
    away = f"redis://127.0.0.1:{free_port()}/0"
    for words in (("export",), ("import", str(file)), ("rename", "a", "b")):
        assert invoke(away, key, "ledger", *words).code == 2
    found = here.run("ledger", "import", str(tmp_path / "none"))
    assert (found.code, "cannot be read: No such file" in found.output) == (1, True)
    found = here.run("ledger", "export", str(tmp_path / "none" / "x"))
    assert (found.code, "cannot be written" in found.output) == (1, True)


def test_a_file_that_is_there_is_replaced_only_if_that_is_meant(
    here: Place, tmp_path: Path
) -> None:
    here.write("a")
    file = here.export(tmp_path)
    before = file.read_text()
    here.write("b")
    found = here.run("ledger", "export", str(file))
    assert (found.code, "is there already" in found.output) == (1, True)
    assert file.read_text() == before
    assert here.run("ledger", "export", "--force", str(file)).code == 0
    assert '"entry": "b"' in file.read_text()
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


def _broken(**changes: Any) -> str:
    entry = {"entry": "a", "value": f"{MOMENT} 1 {MOMENT} f"}
    whole = {"schema": "ledger", "version": 1, "key": "k", "election": "beat", "paused": True}
    return json.dumps({**whole, "entries": [entry], "claims": [], **changes})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "was not made by"),
        (_broken(schema="status"), "was not made by"),
        (_broken(version=2), "version 2"),
        (_broken(key=None), "is missing"),
        (_broken(election="beat 1"), "its election"),
        (_broken(entries=None), "its entries are missing"),
        (_broken(entries=[{"entry": 5}]), "has no name"),
        (_broken(entries=[{"entry": "a", "value": "x"}]), "the value of number 1"),
        (_broken(entries=[{"entry": "a", "value": "01 1 1 f"}]), "the value of number 1"),
        (_broken(entries=[{"entry": "a", "value": "1 1 1 f"}] * 2), "is there twice"),
        (_broken(claims=[{"entry": "a", "value": "1 1 1 f"}]), "the value of number 1"),
    ],
)
def test_a_file_that_is_none_is_refused_in_clear_words(text: str, words: str) -> None:
    with pytest.raises(UnusableFileError, match=words):
        parse_ledger(text)


# Leaders that live


@pytest.fixture(params=[TRANSACTIONAL, WRITE_AHEAD])
def leaders(request: pytest.FixtureRequest, valkey_server: Server, key: str) -> Iterator[Any]:
    stage = DrivenLeaders(valkey_server, key, request.param)
    yield stage
    for close in reversed(stage.closing):
        close()


def chain(sent: list[Sent], every: float) -> list[tuple[int, int]]:
    """Return what messages stand for; each must begin where the one before ended."""
    covers = [each.covers for each in sent]
    step = round(every * 1_000_000)
    for before, after in pairwise(covers):
        assert after[0] == before[1] + step, covers
    return covers


def run(leaders: DrivenLeaders, *words: str) -> Found:
    found = invoke(leaders.ledger, leaders.key, *words)
    assert found.code == 0, found.output
    return found


def moved(
    leaders: DrivenLeaders, leader: Leader, start_server: Callable[..., Server], tmp_path: Path
) -> DrivenLeaders:
    """Take the ledger to another server, whose leader has enrolled the entries already."""
    other = DrivenLeaders(leaders.server, leaders.key, WRITE_AHEAD)
    other.broker = leaders.broker
    server = start_server()
    other.ledger, other.client = server.url, server.client(decode_responses=False)
    file = str(tmp_path / "ledger.json")
    run(leaders, "pause", "--wait", "5")
    leader.run_for(0.5)
    run(leaders, "ledger", "export", file)
    early = other.leader(other.app(tick={"task": "shop.work", "schedule": 3600.0}))
    early.run_for(0.1)
    run(other, "pause")
    early.run_for(0.1)
    run(other, "ledger", "import", file)
    return other


def test_a_leader_elsewhere_goes_on_where_the_first_one_ended(
    leaders: DrivenLeaders, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    entry = {"task": "shop.work", "schedule": 0.1}
    first = leaders.leader(leaders.app(tick=entry))
    first.run_for(1.0)
    other = moved(leaders, first, start_server, tmp_path)
    second = other.leader(other.app(tick=entry))
    second.run_for(0.3)
    before = len(leaders.messages())
    run(other, "resume")
    wait_until(lambda: ticked(second) and len(leaders.messages()) > before + 5, 30)
    first.run_for(0.3)
    chain(leaders.messages(), 0.1)
    for close in reversed(other.closing):
        close()


def test_a_leader_that_leads_on_reads_what_was_imported(
    leaders: DrivenLeaders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has enrolled the entry just now, and would sleep for an hour."""
    leader = leaders.leader(leaders.app(daily=leaders.entry("daily", 1800.0)))
    leader.run_for(0.1)
    assert leaders.messages() == []
    value = leaders.runs()["daily"].decode().split(" ", 3)
    hour_ago = int(value[0]) - 3_600 * SECOND_US
    run(leaders, "pause")
    whole = json.loads(_broken(key=leaders.key))
    old = f"{hour_ago} 5 {hour_ago} {value[3]}"
    whole["entries"] = [{"entry": "daily", "value": old}]
    file = tmp_path / "ledger.json"
    file.write_text(json.dumps(whole))
    run(leaders, "ledger", "import", str(file))
    run(leaders, "resume")
    leader.dispatcher._ledger.ttl = 0.01  # its next look is now
    wait_until(lambda: ticked(leader) and leaders.messages(), 30)
    (sent,) = leaders.messages()
    assert sent.covers[0] == hour_ago + 3_600 * SECOND_US
    assert "it was replaced, or an entry was renamed: it is loaded again" in caplog.text
    assert "restored" not in caplog.text


def test_an_entry_goes_on_under_its_new_name(leaders: DrivenLeaders) -> None:
    schedule = {"task": "shop.work", "schedule": 0.1}
    first = leaders.leader(leaders.app(old=schedule))
    first.run_for(0.5)
    run(leaders, "pause", "--wait", "5")
    first.run_for(0.2)
    run(leaders, "ledger", "rename", "old", "new")
    first.run_for(0.2)
    second = leaders.leader(leaders.app(new=schedule))
    second.run_for(0.2)
    before = len(leaders.messages())
    run(leaders, "resume")
    wait_until(lambda: ticked(second) and len(leaders.messages()) > before + 2, 30)
    chain(leaders.messages(), 0.1)
