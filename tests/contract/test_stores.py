"""Every request of the election, on both stores and on each kind of server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import (
    Answer,
    Await,
    Campaign,
    Observe,
    Record,
    Renew,
    Request,
    Resign,
    Woken,
)
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreRefusedError, StoreUnavailableError
from tests.contract.conftest import LIMIT, StoreUnderTest
from tests.support.servers import ExternalServer, Server
from tests.support.waiting import wait_until

MakeStore = Callable[..., StoreUnderTest]
NOW = Instant(0.0, 0.0, 0.0)
WEEK = 7 * 24 * 3600


@pytest.fixture
def keys(key: str) -> ElectionKeys:
    return ElectionKeys(key)


@pytest.fixture
def store(make_store: MakeStore, shared_server: ExternalServer) -> StoreUnderTest:
    """A store on a server that is there for the whole run."""
    return make_store(shared_server.url)


@pytest.fixture
def client(shared_server: ExternalServer) -> Any:
    """A client that looks at what the store did."""
    return shared_server.client()


def observe(ttl: float = 10.0, token: int = 0, *, confirm: bool = False) -> Observe:
    return Observe(NOW, "n-observe", ttl, token, confirm)


def campaign(version: str, who: str = "a", *, token: int = 0, keep: bool = False) -> Campaign:
    return Campaign(NOW, version, who, f"n-{who}", 10.0, 20.0, token, keep)


def renew(token: int, who: str = "a") -> Renew:
    return Renew(NOW, who, token, f"n-{who}", 10.0, 20.0)


def resign(token: int, who: str = "a") -> Resign:
    return Resign(NOW, who, token, f"n-{who}", "resigned")


def ask(store: StoreUnderTest, request: Request) -> Answer:
    reply = store.execute(request)
    assert isinstance(reply, Answer)
    return reply


def win(store: StoreUnderTest, who: str = "a") -> Record:
    """Take whatever record there is."""
    answer = ask(store, campaign(ask(store, observe()).record.version, who))
    assert answer.status == "accepted"
    return answer.record


# Observe


def test_the_first_look_writes_a_vacancy(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    first = ask(store, observe(ttl=12.5, token=41))
    assert first.status == "seen"
    assert (first.record.holder, first.record.token, first.record.ttl) == ("", 41, 12.5)
    assert not first.record.resigned
    assert client.hget(keys.lease, "ttl") == "12500"
    assert client.ttl(keys.lease) in range(WEEK - 10, WEEK + 1)


def test_a_look_changes_nothing(store: StoreUnderTest, client: Any, keys: ElectionKeys) -> None:
    first = ask(store, observe())
    before = client.hgetall(keys.lease)
    assert ask(store, observe(ttl=99.0, token=7)) == first
    assert client.hgetall(keys.lease) == before


def test_each_vacancy_has_a_version_of_its_own(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    versions = set()
    for _ in range(3):
        versions.add(ask(store, observe()).record.version)
        client.delete(keys.lease)
    assert len(versions) == 3


def test_a_witness_is_written_on_demand(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    ask(store, observe())
    assert not client.exists(keys.witness)
    ask(store, observe(confirm=True))
    assert 0 < client.pttl(keys.witness) <= 60_000


def test_the_election_goes_away_only_long_after_a_long_lease(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    ask(store, observe(ttl=86_400.0))
    assert client.ttl(keys.lease) in range(864_000 - 10, 864_001)


# Campaign


def test_a_campaign_for_the_version_that_was_seen_wins(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    before_ms = time.time() * 1000
    record = win(store)
    assert record.holder == "a"
    assert before_ms - 1000 < record.token < time.time() * 1000 + 1000
    assert record == ask(store, observe()).record
    fields = client.hgetall(keys.lease)
    assert fields["holder"] == "a"
    assert int(fields["token"]) == record.token
    assert (fields["ttl"], fields["resigned"]) == ("10000", "0")
    assert fields["epoch"] == record.epoch


def test_a_campaign_for_another_version_changes_nothing(store: StoreUnderTest) -> None:
    seen = ask(store, observe()).record
    record = win(store)
    answer = ask(store, campaign(seen.version, "b"))
    assert (answer.status, answer.record) == ("rejected", record)


def test_a_campaign_that_finds_nothing_leaves_a_vacancy_and_loses(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    version = ask(store, observe()).record.version
    client.delete(keys.lease)
    answer = ask(store, campaign(version, token=5))
    assert answer.status == "rejected"
    assert (answer.record.holder, answer.record.token, answer.record.ttl) == ("", 5, 20.0)


def test_a_new_token_is_above_every_token_that_is_known(store: StoreUnderTest) -> None:
    ahead = int(time.time() * 1000) + 10**9
    version = ask(store, observe()).record.version
    record = ask(store, campaign(version, token=ahead)).record
    assert record.token == ahead + 1
    assert ask(store, campaign(record.version, "b")).record.token == ahead + 2


def test_a_vacancy_that_was_taken_gets_another_name(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    ask(store, observe())
    vacant = client.hget(keys.lease, "renewal")
    win(store)
    assert client.hget(keys.lease, "renewal") != vacant


def test_the_history_says_who_was_elected(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    [(_, entry)] = client.xrange(keys.history)
    assert (entry["event"], entry["holder"]) == ("elected", "a")
    assert int(entry["token"]) == record.token
    assert abs(int(entry["at"]) - time.time() * 1000) < 60_000
    assert client.ttl(keys.history) in range(WEEK - 10, WEEK + 1)


def test_the_leader_takes_back_what_was_lost_under_its_token(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    client.delete(keys.lease)
    vacancy = ask(store, renew(record.token))
    assert (vacancy.status, vacancy.record.holder) == ("vacant", "")
    assert (vacancy.record.token, vacancy.record.ttl) == (record.token, 20.0)
    back = ask(store, campaign(vacancy.record.version, token=record.token, keep=True))
    assert back.status == "accepted"
    assert (back.record.holder, back.record.token) == ("a", record.token)
    assert back.record.version != vacancy.record.version
    assert [entry["event"] for _, entry in client.xrange(keys.history)] == ["elected", "restored"]


def test_nothing_but_a_vacancy_of_its_time_is_taken_back(store: StoreUnderTest) -> None:
    held = win(store, "b")
    assert ask(store, campaign(held.version, token=held.token, keep=True)).status == "rejected"


def test_a_vacancy_with_a_higher_token_is_not_taken_back(store: StoreUnderTest) -> None:
    vacancy = ask(store, observe(token=100)).record
    assert ask(store, campaign(vacancy.version, token=99, keep=True)).status == "rejected"
    assert ask(store, campaign(vacancy.version, token=100, keep=True)).status == "accepted"


# Renew


def test_a_renewal_changes_the_version_and_nothing_else(store: StoreUnderTest) -> None:
    record = win(store)
    first, second = ask(store, renew(record.token)), ask(store, renew(record.token))
    assert (first.status, second.status) == ("accepted", "accepted")
    assert len({record.version, first.record.version, second.record.version}) == 3
    assert (second.record.holder, second.record.token) == ("a", record.token)


@pytest.mark.parametrize("other", ["holder", "token"])
def test_only_the_holder_renews_under_its_token(store: StoreUnderTest, other: str) -> None:
    record = win(store)
    request = renew(record.token, "b") if other == "holder" else renew(record.token - 1)
    answer = ask(store, request)
    assert (answer.status, answer.record) == ("rejected", record)


def test_a_resigned_record_is_not_renewed(store: StoreUnderTest) -> None:
    record = win(store)
    ask(store, resign(record.token))
    assert ask(store, renew(record.token)).status == "rejected"


# Resign


def test_a_resignation_is_seen_and_wakes_three(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    answer = ask(store, resign(record.token))
    assert (answer.status, answer.record.resigned) == ("resigned", True)
    assert answer.record.version != record.version
    assert ask(store, observe()).record == answer.record
    assert client.llen(keys.wake) == 3
    assert 0 < client.pttl(keys.wake) <= 60_000
    [_, (_, entry)] = client.xrange(keys.history)
    assert (entry["event"], entry["reason"]) == ("resigned", "resigned")


def test_a_resignation_that_comes_twice_counts_once(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    first, again = ask(store, resign(record.token)), ask(store, resign(record.token))
    assert first == again
    assert client.llen(keys.wake) == 3
    assert client.xlen(keys.history) == 2


@pytest.mark.parametrize("other", ["holder", "token"])
def test_only_the_holder_resigns_under_its_token(store: StoreUnderTest, other: str) -> None:
    record = win(store)
    request = resign(record.token, "b") if other == "holder" else resign(record.token - 1)
    answer = ask(store, request)
    assert (answer.status, answer.record) == ("rejected", record)


def test_a_record_that_another_server_wrote_is_not_resigned(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    client.hset(keys.lease, "epoch", "elsewhere:1")
    assert ask(store, resign(record.token)).status == "rejected"
    assert client.hget(keys.lease, "resigned") == "0"


def test_resigned_on_another_server_does_not_count_as_resigned(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    record = win(store)
    ask(store, resign(record.token))
    client.hset(keys.lease, "epoch", "elsewhere:1")
    assert not ask(store, observe()).record.resigned


def test_resigning_what_is_not_there_writes_nothing(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    assert ask(store, resign(1)).status == "rejected"
    assert not client.exists(keys.lease, keys.wake, keys.history)


def test_a_new_leader_clears_the_wake_list(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    ask(store, resign(win(store).token))
    win(store, "b")
    assert not client.exists(keys.wake)


# Await


def test_a_pause_ends_when_its_time_is_over(store: StoreUnderTest) -> None:
    began = time.monotonic()
    assert store.execute(Await(NOW, 0.2)) == Woken(resigned=False)
    assert 0.15 < time.monotonic() - began < 5


def test_a_resignation_wakes_three_standbys(store: StoreUnderTest) -> None:
    ask(store, resign(win(store).token))
    woken = [store.execute(Await(NOW, timeout)) for timeout in (30.0, 30.0, 30.0, 0.05)]
    assert woken == [Woken(True), Woken(True), Woken(True), Woken(False)]


def test_a_pause_can_be_broken_off(store: StoreUnderTest) -> None:
    began = time.monotonic()
    with pytest.raises((StoreUnavailableError, asyncio.CancelledError)):
        store.break_off(Await(NOW, 20.0), after=0.2)
    assert time.monotonic() - began < 5
    assert ask(store, observe()).status == "seen"
    assert store.execute(Await(NOW, 0.05)) == Woken(resigned=False)


# What the record may hold


@pytest.mark.parametrize("token", ["", "x", "-1", "1e999", "nan", "9007199254740992", "1.5e3"])
def test_a_token_that_is_none_reads_as_0_or_as_a_whole_number(
    store: StoreUnderTest, client: Any, keys: ElectionKeys, token: str
) -> None:
    client.hset(keys.lease, mapping={"holder": "x", "token": token, "ttl": "5000"})
    record = ask(store, observe()).record
    assert record.token == (1500 if token == "1.5e3" else 0)
    assert record.ttl == 5.0


@pytest.mark.parametrize("fields", [{"holder": "x"}, {"token": "7"}, {"other": "y"}])
def test_a_half_filled_record_is_a_record(
    store: StoreUnderTest, client: Any, keys: ElectionKeys, fields: dict[str, str]
) -> None:
    client.hset(keys.lease, mapping=fields)
    seen = ask(store, observe()).record
    assert (seen.holder, seen.token) == (fields.get("holder", ""), int(fields.get("token", 0)))
    assert (seen.ttl, seen.resigned) == (0.0, False)
    assert client.hgetall(keys.lease) == fields
    answer = ask(store, campaign(seen.version))
    assert (answer.status, answer.record.holder) == ("accepted", "a")


def test_a_version_goes_back_byte_for_byte(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.hset(keys.lease, mapping={"holder": b"\xff\xfe", "renewal": b"\x80|\r\n\x00"})
    seen = ask(store, observe()).record
    assert ask(store, campaign(seen.version)).status == "accepted"


def test_a_token_of_2_to_the_53_is_refused_in_words(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.hset(keys.lease, mapping={"holder": "x", "token": "9007199254740991"})
    seen = ask(store, observe()).record
    assert seen.token == 2**53 - 1
    with pytest.raises(StoreRefusedError, match=r"2\^53.*delete the key") as caught:
        store.execute(campaign(seen.version))
    assert keys.lease in str(caught.value)
    assert client.hget(keys.lease, "holder") == "x"


def test_a_key_of_another_type_is_refused_in_words(
    store: StoreUnderTest, client: Any, keys: ElectionKeys
) -> None:
    client.set(keys.lease, "something else")
    for request in (observe(), campaign("v"), renew(1), resign(1)):
        with pytest.raises(StoreRefusedError, match="not this package's; delete it"):
            store.execute(request)
    assert client.get(keys.lease) == "something else"


# Servers and connections


def test_a_server_that_forgot_the_scripts_gets_them_again(
    make_store: MakeStore, valkey_server: Server, keys: ElectionKeys
) -> None:
    store, client = make_store(valkey_server.url), valkey_server.client()
    record = win(store)
    client.script_flush()
    client.config_resetstat()
    assert ask(store, renew(record.token)).status == "accepted"
    assert ask(store, renew(record.token)).status == "accepted"
    stats: Any = client.info("commandstats")
    assert stats["cmdstat_eval"]["calls"] == 1
    assert stats["cmdstat_evalsha"]["calls"] == 2


def test_nothing_is_sent_twice_when_the_server_goes_away(
    make_store: MakeStore, valkey_server: Server
) -> None:
    store = make_store(valkey_server.url)
    record = win(store)
    valkey_server.kill()
    with pytest.raises(StoreUnavailableError, match="no answer from Redis"):
        store.execute(renew(record.token))
    with pytest.raises(StoreUnavailableError):
        store.execute(Await(NOW, 0.1))


def test_a_server_that_hangs_is_given_up_in_time(
    make_store: MakeStore, valkey_server: Server
) -> None:
    store = make_store(valkey_server.url)
    record = win(store)
    valkey_server.pause()
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        store.execute(renew(record.token))
    assert time.monotonic() - began < LIMIT + 1
    valkey_server.resume()


def test_a_restarted_server_has_another_epoch(make_store: MakeStore, server: Server) -> None:
    store = make_store(server.url)
    before = ask(store, observe()).record
    server.restart_empty()
    with contextlib.suppress(StoreUnavailableError):  # on the connection to the old process
        store.execute(observe())
    assert ask(store, observe()).record.epoch != before.epoch


def test_a_replica_is_refused_in_words(
    make_store: MakeStore, start_server: Callable[..., Server], server: Server
) -> None:
    record = win(make_store(server.url))
    replica = start_server(server.kind, replica_of=server)
    store = make_store(replica.url)
    for request in (observe(), campaign(record.version), renew(record.token), resign(1)):
        with pytest.raises(StoreRefusedError, match="this Redis is a read-only replica"):
            store.execute(request)


def test_a_promoted_replica_has_an_epoch_of_its_own(
    make_store: MakeStore, start_server: Callable[..., Server], server: Server
) -> None:
    record = win(make_store(server.url))
    replica = start_server(server.kind, replica_of=server)
    replica.promote()
    copied = ask(make_store(replica.url), observe()).record
    assert (copied.holder, copied.token) == (record.holder, record.token)
    assert copied.epoch != record.epoch
    assert copied.version != record.version


def test_a_wrong_password_is_refused_in_words_and_not_shown(
    make_store: MakeStore, start_server: Callable[..., Server]
) -> None:
    server = start_server(password="right")
    for url, match in (
        (server.url.replace("right", "hush-hush"), "refuses the user name or password"),
        (server.url.replace(":right@", ""), "password"),
    ):
        with pytest.raises(StoreRefusedError, match=match) as caught:
            make_store(url).execute(observe())
        assert "hush-hush" not in str(caught.value)
    assert ask(make_store(server.url), observe()).status == "seen"


@pytest.mark.parametrize("right", ["info", "evalsha", "hset"])
def test_a_user_without_a_right_is_told_so(
    make_store: MakeStore, server: Server, right: str
) -> None:
    server.client().execute_command(
        "ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", f"-{right}"
    )
    store = make_store(server.url.replace("redis://", "redis://limited:pw@"))
    with pytest.raises(StoreRefusedError, match="lacks a right that the election needs"):
        store.execute(observe())


def test_a_user_without_the_keys_is_told_so(make_store: MakeStore, server: Server) -> None:
    server.client().execute_command(
        "ACL", "SETUSER", "limited", "on", ">pw", "~other:*", "&*", "+@all"
    )
    store = make_store(server.url.replace("redis://", "redis://limited:pw@"))
    with pytest.raises(StoreRefusedError, match="lacks a right that the election needs"):
        store.execute(observe())


def test_a_server_without_memory_keeps_its_election(make_store: MakeStore, server: Server) -> None:
    """Each write deletes the record first, and a script that began to write may go on."""
    store = make_store(server.url)
    client: Any = server.client()
    record = win(store)
    client.config_set("maxmemory", "1")
    assert ask(store, renew(record.token)).status == "accepted"
    assert win(store, "b").token > record.token
    for request in (resign(ask(store, observe()).record.token, "b"), observe(confirm=True)):
        with pytest.raises(StoreRefusedError, match="out of memory and refuses writes"):
            store.execute(request)


def test_a_server_that_cannot_save_is_named_as_such(make_store: MakeStore, server: Server) -> None:
    store = make_store(server.url)
    client: Any = server.client()
    record = win(store)
    (server.folder / "dump.rdb").mkdir()  # in the way of the file of that name
    client.config_set("save", "3600 1")
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    with pytest.raises(StoreRefusedError, match="cannot save to disk"):
        store.execute(renew(record.token))


# Replicas that confirm


@pytest.fixture
def pair(start_server: Callable[..., Server], server: Server) -> tuple[Server, Server]:
    """A master and its replica."""
    return server, start_server(server.kind, replica_of=server)


def test_a_replica_confirms_campaign_renewal_and_witness(
    make_store: MakeStore, pair: tuple[Server, Server]
) -> None:
    store = make_store(pair[0].url, wait_replicas=1, confirm_timeout=1.5)
    look = ask(store, observe(confirm=True))
    won = ask(store, campaign(look.record.version))
    renewed = ask(store, renew(won.record.token))
    assert [look.confirmed, won.confirmed, renewed.confirmed] == [True, True, True]


def test_a_replica_that_stands_still_confirms_nothing(
    make_store: MakeStore, pair: tuple[Server, Server]
) -> None:
    patient = make_store(pair[0].url, wait_replicas=1, confirm_timeout=1.5)
    store = make_store(pair[0].url, wait_replicas=1, confirm_timeout=0.2)
    look = ask(patient, observe(confirm=True))
    assert look.confirmed
    # Redis up to 7.0 counts all that was written before the last command of the connection: so
    # all connections have to be there, and all of that confirmed, before the write in question.
    # Otherwise a WAIT on the wrong one would go unnoticed.
    assert ask(store, observe()).record == look.record
    store.execute(Await(NOW, 0.01))
    info = pair[0].client().info
    wait_until(
        lambda: info("replication")["slave0"]["offset"] == info("replication")["master_repl_offset"]
    )
    pair[1].pause()
    won = ask(store, campaign(look.record.version))
    assert won.status == "accepted"
    assert not won.confirmed, f"confirmed={won.confirmed} by a replica that stands still"
    assert not ask(store, renew(won.record.token)).confirmed
    assert not ask(store, observe(confirm=True)).confirmed
    pair[1].resume()
    assert ask(patient, renew(won.record.token)).confirmed


def test_more_replicas_than_there_are_never_confirm(
    make_store: MakeStore, pair: tuple[Server, Server]
) -> None:
    store = make_store(pair[0].url, wait_replicas=2, confirm_timeout=0.1)
    won = ask(store, campaign(ask(store, observe()).record.version))
    assert (won.status, won.confirmed) == ("accepted", False)


def test_an_error_in_the_flight_with_wait_is_told(
    make_store: MakeStore, shared_server: ExternalServer, client: Any, keys: ElectionKeys
) -> None:
    store = make_store(shared_server.url, wait_replicas=1, confirm_timeout=0.1)
    client.set(keys.lease, "something else")
    with pytest.raises(StoreRefusedError, match="not this package's"):
        store.execute(renew(1))


def test_a_forgotten_script_is_sent_again_with_wait(
    make_store: MakeStore, pair: tuple[Server, Server]
) -> None:
    store = make_store(pair[0].url, wait_replicas=1, confirm_timeout=1.5)
    won = ask(store, campaign(ask(store, observe()).record.version))
    pair[0].client().script_flush()
    again = ask(store, renew(won.record.token))
    assert (again.status, again.confirmed) == ("accepted", True)
