"""Reading pieces for a standby's copy, and what an adoption compares them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._ledger.ledger import PIECE, Ledger
from celery_safe_leader._ledger.results import Enrolment, LedgerState
from celery_safe_leader.errors import StoreRefusedError
from tests.contract.ledger_helpers import SECOND, Bench
from tests.support.processes.waiting import wait_until
from tests.support.servers import ExternalServer, Server


@pytest.fixture
def bench(shared_server: ExternalServer, key: str) -> Bench:
    return Bench(shared_server.client(decode_responses=False), key)


def reader(bench: Bench) -> Ledger:
    """A standby, which has adopted nothing."""
    return bench.ledger(adopted=False)


def copied(ledger: Ledger) -> tuple[dict[str, Any], list[LedgerState]]:
    """Copy all; return the runs, and the state that each piece says."""
    runs, states, cursor = {}, [], 0
    while True:
        piece = ledger.copy_next(cursor)
        assert piece.unreadable == {}
        runs.update(piece.runs)
        states.append(piece.state)
        cursor = piece.cursor
        if cursor == 0:
            return runs, states


def test_pieces_make_up_all_runs_and_say_of_which_ledger_they_are(bench: Bench) -> None:
    names = [f"entry {n} ü\ud800" for n in range(5 * PIECE)]
    ledger = bench.ledger()
    for start in range(0, len(names), 30):
        bench.enrol(ledger, *names[start : start + 30])
    runs, states = copied(reader(bench))
    assert runs == {name: bench.run() for name in names}
    assert len(states) > 3
    assert len(set(states)) == 1
    # And what they say is what the next leader is told.
    bench.lease(holder="b", token=8)
    assert reader(bench).adopt("b", 8).state == states[0]
    assert states[0].can_be_copied
    assert states[0].entries == len(names)


def test_a_piece_has_the_time_of_redis_and_no_sentinel(bench: Bench) -> None:
    bench.enrol(bench.ledger(), "e")
    copier = reader(bench)
    before = bench.client.time()
    piece = copier.copy_next()
    after = bench.client.time()
    assert before[0] * SECOND + before[1] <= piece.now <= after[0] * SECOND + after[1]
    assert (set(piece.runs), piece.cursor, piece.state.entries) == ({"e"}, 0, 1)


def test_named_entries_are_read_with_the_state_as_well(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e", "f", "g")
    bench.client.hset(bench.names.runs, "bad", "x")
    piece = reader(bench).copy_entries(["e", "g", "bad", "nobody"])
    assert piece.runs == {"e": bench.run(), "g": bench.run()}
    assert piece.unreadable == {"bad": b"x"}
    assert piece.state == reader(bench).copy_entries([]).state
    assert reader(bench).copy_entries([]).runs == {}


def test_what_cannot_be_read_is_named(bench: Bench) -> None:
    bench.enrol(bench.ledger(), "e")
    bad: Any = {"bad": "x", b"\xfe": "y"}
    bench.client.hset(bench.names.runs, mapping=bad)
    piece = reader(bench).copy_next()
    assert piece.unreadable == {"bad": b"x", "\\xfe": b"y"}
    assert piece.runs.keys() == {"e"}


def test_reading_changes_nothing(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    before = bench.state()
    reader(bench).copy_next()
    reader(bench).copy_entries(["e"])
    assert bench.state() == before
    ledger.write([], [bench.next()])


def no_ledger(bench: Bench) -> None:
    bench.client.delete(bench.names.runs, bench.names.pending)


def torn(bench: Bench) -> None:
    bench.client.delete(bench.names.pending)


def by_an_older_release(bench: Bench) -> None:
    _, generation, step, _, owner = bench.sentinel().decode().split(" ", 4)
    for name in (bench.names.runs, bench.names.pending):
        bench.client.hset(name, SENTINEL, f"1 {generation} {step} whole {owner}")


def being_restored(bench: Bench) -> None:
    bench.ledger(adopted=False).adopt("a", 7, restoring=True)


NOT_TO_COPY = [no_ledger, torn, by_an_older_release, being_restored]


@pytest.mark.parametrize("how", NOT_TO_COPY)
def test_a_ledger_that_may_be_set_back_unnoticed_is_not_copied(
    bench: Bench, how: Callable[[Bench], None]
) -> None:
    bench.enrol(bench.ledger(), "e")
    assert reader(bench).copy_next().state.can_be_copied
    how(bench)
    state = reader(bench).copy_next().state
    assert (state.mark, state.can_be_copied) == ("", False)


def set_back(bench: Bench) -> None:
    bench.ledger().enrol([Enrolment("e", bench.run(), bench.run(-1))])


def schedule_seen_earlier(bench: Bench) -> None:
    """As by the clock of another leader, after the schedule was changed there and back."""
    ledger, first = bench.ledger(), bench.run()
    later = replace(first, seen=first.seen + 10 * SECOND, fingerprint="g")
    earlier = replace(first, seen=first.seen + 5 * SECOND)
    ledger.enrol([Enrolment("e", first, later)])
    ledger.enrol([Enrolment("e", later, earlier)])


def removed_by_hand_and_entered_anew(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.client.hdel(bench.names.runs, "e")
    ledger.enrol([Enrolment("e", None, bench.run(-5))], anew=True)


def forgotten(bench: Bench) -> None:
    bench.ledger().forget(["e"], grace=0)


def restored(bench: Bench) -> None:
    ledger = bench.ledger()
    ledger.adopt("a", 7, restoring=True)
    ledger.merge({"e": bench.run(1)}, {})
    ledger.seal()


CHANGES = [set_back, schedule_seen_earlier, removed_by_hand_and_entered_anew, forgotten, restored]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_may_put_a_copy_ahead_changes_the_mark(
    bench: Bench, change: Callable[[Bench], None]
) -> None:
    bench.enrol(bench.ledger(), "e", "f")
    before = reader(bench).copy_next().state
    change(bench)
    after = reader(bench).copy_next().state
    assert after.mark not in ("", before.mark)


def test_what_only_goes_on_keeps_mark_and_epoch_and_enrolling_counts(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    before = reader(bench).copy_next().state
    ledger.write([], [bench.next()])
    ledger.write([bench.commit()], [])
    ledger.forget(["e"], grace=100)
    bench.enrol(ledger, "f")
    assert reader(bench).copy_next().state == before._replace(entries=2)


def restart(server: Server) -> None:
    server.kill()
    server.start()


def promote(server: Server) -> None:
    client = server.client()
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("event", [restart, promote])
def test_a_restart_or_a_promotion_changes_the_epoch(
    server: Server, key: str, event: Callable[[Server], None]
) -> None:
    bench = Bench(server.client(decode_responses=False), key)
    bench.enrol(bench.ledger(), "e")
    before = reader(bench).copy_next().state
    event(server)
    bench = Bench(server.client(decode_responses=False), key)
    after = wait_until(lambda: reader(bench).copy_next().state, 10)
    assert after.epoch not in ("", before.epoch)
    assert bench.ledger(adopted=False).copy_next().state == after


def test_a_replica_says_no_epoch(server: Server, key: str) -> None:
    bench = Bench(server.client(decode_responses=False), key)
    bench.enrol(bench.ledger(), "e")
    server.client().execute_command("REPLICAOF", "127.0.0.1", "1")
    assert reader(bench).copy_next().state.epoch == ""


def test_without_the_right_to_info_there_is_no_epoch_and_adopting_goes_on(
    server: Server, key: str
) -> None:
    admin = Bench(server.client(decode_responses=False), key)
    admin.enrol(admin.ledger(), "e")
    server.client().execute_command(
        "ACL", "SETUSER", "beat", "on", ">secret", "~*", "+@all", "-info"
    )
    bench = Bench(server.client(decode_responses=False, username="beat", password="secret"), key)
    assert reader(bench).copy_next().state.epoch == ""
    adoption = reader(bench).adopt("a", 7)
    assert (adoption.epoch, adoption.entries) == ("", 1)
    assert not adoption.state.can_be_copied


def test_a_hash_of_another_type_is_refused_as_an_error(bench: Bench) -> None:
    bench.client.set(bench.names.runs, "x")
    with pytest.raises(StoreRefusedError, match="WRONGTYPE"):
        reader(bench).copy_next()
