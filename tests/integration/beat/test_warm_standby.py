"""A standby that copied the ledger is elected: what it reads, believes and remembers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from celery_safe_leader._ledger.codec import LastRun, decode_run, encode_run
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._ledger.results import Enrolment
from celery_safe_leader._schedules.moments import SECOND_US
from tests.integration.beat.driven_leaders import HOUR, WRITE_AHEAD, DrivenLeaders, Leader
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

DAY = 86_400.0
IDLE = 700
"""More than one step of a copy takes, so that there is something to interrupt."""
LOADED = re.compile(r"Loaded the ledger of .*: (\d+) entries, (.*), (\d+) runs to settle")


@pytest.fixture(params=["transactional", WRITE_AHEAD])
def stage(request: pytest.FixtureRequest, server: Server, key: str) -> Iterator[DrivenLeaders]:
    stage = DrivenLeaders(server, key, request.param)
    yield stage
    for close in stage.closing:
        close()


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "celery_safe_leader.beat")


def idle(stage: DrivenLeaders, count: int = IDLE) -> dict[str, Any]:
    """Entries that are due in half a day."""
    return {f"idle-{n}": stage.entry(f"idle-{n}", DAY / 2, DAY) for n in range(count)}


def lead(stage: DrivenLeaders, **entries: Any) -> Leader:
    leader = stage.leader(stage.app(**entries))
    leader.run()
    return leader


def loaded(caplog: pytest.LogCaptureFixture) -> str:
    """Return what the last election says it read."""
    found = [LOADED.search(record.getMessage()) for record in caplog.records]
    return [match for match in found if match][-1][2]


def copied_by(stage: DrivenLeaders, **entries: Any) -> Leader:
    """A standby whose copy is complete; it takes part under the next token once it is run."""
    standby = stage.standby(stage.app(**entries))
    copy(standby)
    return standby


def copy(standby: Leader) -> None:
    wait_until(lambda: standby.stand_by() > 1, 30)


def test_it_reads_only_what_fell_due(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    entries = {**idle(stage), **{f"due-{n}": stage.entry(f"due-{n}", -1) for n in range(3)}}
    lead(stage, **entries)
    standby = copied_by(stage, **entries)
    standby.elect()
    standby.run()
    assert loaded(caplog) == "warm (3 of them read)" or loaded(caplog) == "warm (0 of them read)"


def test_of_what_was_run_after_it_was_copied_nothing_is_lost_or_done_twice(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    entries = {**idle(stage), "often": stage.entry("often", 0, 0.1)}
    leader = lead(stage, **entries)
    standby = copied_by(stage, **entries)
    for _ in range(3):
        leader.run_for(0.3)
        standby.elect()
        standby.run_for(0.3)
        assert loaded(caplog).startswith("warm (")
        leader, standby = standby, leader
        copy(standby)
    ranges = [sent.covers for sent in stage.messages()]
    assert {later[0] - sooner[1] for sooner, later in pairwise(ranges)} == {SECOND_US // 10}
    ids = [sent.headers["id"] for sent in stage.messages()]
    assert len(set(ids)) == len(ids)


def test_an_entry_that_ran_after_it_was_copied_does_not_run_again(stage: DrivenLeaders) -> None:
    entries = {**idle(stage), "daily": stage.entry("daily", 0.5, DAY)}
    leader = lead(stage, **entries)
    standby = copied_by(stage, **entries)
    leader.run_for(0.7)
    assert len(stage.messages()) == 1
    standby.elect()
    standby.run_for(0.3)
    assert len(stage.messages()) == 1


# What must not be believed


def last_run(stage: DrivenLeaders, name: str) -> LastRun:
    return decode_run(stage.runs()[name])


def flushed_and_restored(stage: DrivenLeaders, leader: Leader) -> None:
    record: Any = stage.client.hgetall(stage.lease)
    stage.client.flushall()
    stage.client.hset(stage.lease, mapping=record)
    wait_until(lambda: (leader.run(), leader.dispatcher._lost)[1])
    leader.run()


def promoted(stage: DrivenLeaders, leader: Leader) -> None:
    stage.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    stage.client.execute_command("REPLICAOF", "NO", "ONE")


def led_by_an_older_release(stage: DrivenLeaders, leader: Leader) -> None:
    raw: Any = stage.client.hget(stage.names.runs, SENTINEL)
    _, generation, step, _, owner = raw.split(b" ", 4)
    for name in (stage.names.runs, stage.names.pending):
        stage.client.hset(name, SENTINEL, b" ".join((b"1", generation, step, b"whole", owner)))


def a_moment_set_back(stage: DrivenLeaders, leader: Leader) -> None:
    before = last_run(stage, "idle-1")
    future = before.moment + 100 * int(DAY) * SECOND_US
    stage.client.hset(stage.names.runs, "idle-1", f"{future} 0 {before.seen} {before.fingerprint}")
    leader.dispatcher.start_over()
    wait_until(lambda: (leader.run(), last_run(stage, "idle-1").moment < future)[1], 30)


def an_entry_forgotten(stage: DrivenLeaders, leader: Leader) -> None:
    leader.dispatcher._ledger.forget(["idle-1"], grace=0)


def an_entry_added(stage: DrivenLeaders, leader: Leader) -> None:
    leader.app.conf.beat_schedule["new"] = stage.entry("new", HOUR)
    leader.run()


MISTRUSTED: dict[Callable[[DrivenLeaders, Leader], None], str] = {
    flushed_and_restored: "set back or removed",
    promoted: "restarted or failed over",
    led_by_an_older_release: "an older release led",
    a_moment_set_back: "set back or removed",
    an_entry_forgotten: "set back or removed",
    an_entry_added: "other entries",
}


@pytest.mark.parametrize("what", MISTRUSTED, ids=lambda what: what.__name__)
def test_a_copy_of_another_ledger_is_not_believed(
    stage: DrivenLeaders,
    caplog: pytest.LogCaptureFixture,
    what: Callable[[DrivenLeaders, Leader], None],
) -> None:
    entries = idle(stage)
    leader = lead(stage, **entries)
    standby = copied_by(stage, **entries)
    what(stage, leader)
    standby.elect()
    standby.run()
    assert loaded(caplog).startswith("all read (")
    assert MISTRUSTED[what] in loaded(caplog)


@pytest.mark.parametrize("what", MISTRUSTED, ids=lambda what: what.__name__)
def test_a_look_drops_such_a_copy_and_the_next_one_is_good(
    stage: DrivenLeaders,
    caplog: pytest.LogCaptureFixture,
    what: Callable[[DrivenLeaders, Leader], None],
) -> None:
    entries = idle(stage)
    leader = lead(stage, **entries)
    standby = copied_by(stage, **entries)
    what(stage, leader)
    leader.elect()  # this release leads, whoever did before
    leader.run()
    assert standby.stand_by() <= 1, "the copy is dropped"
    copy(standby)
    standby.elect()
    standby.run()
    assert loaded(caplog).startswith("warm (")


def assert_dispatched(stage: DrivenLeaders, leader: Leader) -> None:
    """Check that a message comes, before the leader says that nothing is due for long."""
    wait_until(lambda: leader.run() > 5 or stage.messages(), 30)
    assert stage.messages(), "the entry sleeps"


def test_a_copy_that_is_ahead_of_a_promoted_replica_lets_no_entry_sleep(
    stage: DrivenLeaders,
) -> None:
    """The replica lags: it has the ledger, and the queue, from before the last daily run."""
    entries = {**idle(stage), "daily": stage.entry("daily", HOUR, DAY)}
    leader = lead(stage, **entries)
    standby = copied_by(stage, **entries)
    run = last_run(stage, "daily")
    behind = replace(run, moment=run.moment - int(DAY) * SECOND_US, seen=0)
    stage.client.hset(stage.names.runs, "daily", encode_run(behind))
    promoted(stage, leader)
    standby.elect()
    assert_dispatched(stage, standby)


def test_a_copy_that_is_ahead_of_a_moment_that_was_set_back_lets_no_entry_sleep(
    stage: DrivenLeaders,
) -> None:
    entries = {**idle(stage), "daily": stage.entry("daily", HOUR, DAY)}
    leader = lead(stage, **entries)
    standby = copied_by(stage, **entries)
    run = last_run(stage, "daily")
    behind = replace(run, moment=run.moment - int(DAY) * SECOND_US, seen=0)
    leader.dispatcher._ledger.enrol([Enrolment("daily", run, behind)])
    standby.elect()
    assert_dispatched(stage, standby)


def test_a_copy_that_was_not_complete_is_not_believed(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    entries = idle(stage)
    lead(stage, **entries)
    standby = stage.standby(stage.app(**entries))
    standby.stand_by()
    standby.elect()
    standby.run()
    assert loaded(caplog) == "all read (the copy was not complete)"


def test_an_election_ends_a_step(stage: DrivenLeaders, caplog: pytest.LogCaptureFixture) -> None:
    entries = idle(stage, 5)
    lead(stage, **entries)
    standby = stage.standby(stage.app(**entries))
    standby.dispatcher.stand_by(lambda: False)
    standby.elect()
    standby.run()
    assert loaded(caplog) == "all read (there is no copy)"


def test_without_the_right_to_info_all_is_read(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    rights = ("on", ">secret", "~*", "+@all", "-info")
    stage.client.execute_command("ACL", "SETUSER", "beat", *rights)
    entries = idle(stage)
    lead(stage, **entries)
    url = stage.server.url.replace("redis://", "redis://beat:secret@")
    stage.ledger = url
    standby = stage.standby(stage.app(**entries))
    for _ in range(10):
        standby.stand_by()
    standby.elect()
    standby.run()
    assert loaded(caplog) == "all read (there is no copy)"


# What is always read


def test_a_changed_schedule_an_unknown_class_and_a_moment_in_the_future_are_read(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    entries = idle(stage)
    leader = lead(stage, **entries)
    run = last_run(stage, "idle-1")
    future = run.moment + int(DAY) * SECOND_US
    stage.client.hset(stage.names.runs, "idle-1", f"{future} 0 {run.seen} {run.fingerprint}")
    assert leader.still_leads()
    entries["idle-2"] = stage.entry("idle-2", DAY / 2, 2 * DAY)
    standby = copied_by(stage, **entries)
    standby.elect()
    standby.run()
    assert loaded(caplog) == "warm (2 of them read)"
    assert last_run(stage, "idle-1").moment < future
    assert last_run(stage, "idle-2").fingerprint != run.fingerprint


def test_what_is_pending_is_settled(stage: DrivenLeaders, caplog: pytest.LogCaptureFixture) -> None:
    entries = idle(stage)
    lead(stage, **entries)
    standby = copied_by(stage, **entries)
    stage.claim("idle-3", -0.1)
    standby.elect()
    standby.run()
    assert loaded(caplog) == "warm (1 of them read)"
    wait_until(lambda: (standby.run(), stage.messages())[1], 30)
    assert stage.pending() == set()
    assert stage.runs()["idle-3"].split()[1] == b"1"


def test_entries_that_changed_on_standby_are_followed(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    entries = idle(stage)
    lead(stage, **entries)
    standby = copied_by(stage, **entries)
    del standby.app.conf.beat_schedule["idle-1"]
    standby.stand_by()
    standby.app.conf.beat_schedule["idle-1"] = entries["idle-1"]
    standby.app.conf.beat_schedule["idle-2"] = {**entries["idle-2"], "kwargs": {"entry": "new"}}
    standby.stand_by()
    del standby.app.conf.beat_schedule["idle-4"]
    standby.app.conf.beat_schedule["new"] = stage.entry("new", -1.0)
    standby.elect()
    standby.run()
    assert loaded(caplog) == "warm (1 of them read)"
    wait_until(lambda: (standby.run(), stage.messages())[1], 30)
    assert stage.runs().keys() >= {*entries, "new"}


# What is remembered


def test_a_ledger_that_is_lost_afterwards_is_written_back_with_all_entries(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    entries = {**idle(stage), "soon": stage.entry("soon", 1.0, DAY)}
    others = {f"foreign-{n}": stage.entry(f"foreign-{n}", -1, DAY) for n in range(200)}
    leader = lead(stage, **{**entries, **others})
    standby = copied_by(stage, **entries)
    wait_until(lambda: (leader.run(), len(stage.messages()) == 201)[1], 30)
    runs = stage.runs()
    standby.elect()
    wait_until(lambda: (standby.run(), standby.dispatcher._memory.lagging)[1] == set(), 30)
    assert loaded(caplog).startswith("warm (")
    stage.client.delete(stage.names.runs, stage.names.pending)
    standby.app.conf.beat_schedule["another"] = stage.entry("another", HOUR)
    wait_until(lambda: (standby.run(), stage.runs().keys() >= runs.keys())[1], 30)
    assert {name: value for name, value in stage.runs().items() if name != "another"} == runs
    assert len(stage.messages()) == 201


def test_an_entry_that_is_not_readable_is_named(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    entries = idle(stage)
    lead(stage, **entries)
    good = stage.runs()["idle-1"]
    bad: Any = {"idle-1": "x", "idle-2": "x", "stranger": "y", b"\xfe": "z"}
    stage.client.hset(stage.names.runs, mapping=bad)
    standby = copied_by(stage, **entries)
    stage.client.hset(stage.names.runs, "idle-1", good)
    caplog.clear()
    standby.elect()
    standby.run()
    assert loaded(caplog) == "warm (2 of them read)"
    told = [r.getMessage() for r in caplog.records if "cannot be read" in r.getMessage()]
    assert [text.split("'")[2] for text in told] == ["\\\\xfe", "idle-2", "stranger"]
