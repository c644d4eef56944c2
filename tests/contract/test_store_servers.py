"""Both stores and servers that are away, full, replicas, or not for us; replicas that confirm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from celery_safe_leader._core.messages import Await, ReplyStatus
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreRefusedError, StoreUnavailableError
from tests.contract.conftest import StoreUnderTest
from tests.contract.requests import NOW, ask, campaign, observe, renew, resign, win
from tests.support.processes.waiting import wait_until
from tests.support.servers import ExternalServer, Server

MakeStore = Callable[..., StoreUnderTest]
WEEK = 7 * 24 * 3600


def test_a_server_that_forgot_the_scripts_gets_them_again(
    make_store: MakeStore, valkey_server: Server, keys: ElectionKeys
) -> None:
    store, client = make_store(valkey_server.url), valkey_server.client()
    record = win(store)
    client.script_flush()
    client.config_resetstat()
    assert ask(store, renew(record.token)).status is ReplyStatus.ACCEPTED
    assert ask(store, renew(record.token)).status is ReplyStatus.ACCEPTED
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
    # It hangs until it is told otherwise, so whatever comes back was given up.
    with pytest.raises(StoreUnavailableError) as given_up:
        store.execute(renew(record.token))
    assert "no answer from Redis" in str(given_up.value)
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
    assert ask(make_store(server.url), observe()).status is ReplyStatus.SEEN


@pytest.mark.parametrize("right", ["evalsha", "hset"])
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
    assert ask(store, renew(record.token)).status is ReplyStatus.ACCEPTED
    assert win(store, "b").token > record.token
    for request in (resign(ask(store, observe()).record.token, "b"), observe(confirm=True)):
        with pytest.raises(StoreRefusedError, match="out of memory and refuses writes"):
            store.execute(request)


def test_a_server_without_memory_elects_over_a_hash_of_others(
    make_store: MakeStore, server: Server, keys: ElectionKeys
) -> None:
    store = make_store(server.url)
    client: Any = server.client()
    client.hset(keys.lease, mapping={"other": "y"})
    client.config_set("maxmemory", "1")
    seen = ask(store, observe()).record
    assert ask(store, observe()).record == seen, "it stands still"
    token = win(store).token
    client.hdel(keys.lease, "renewal")
    assert ask(store, renew(token)).status is ReplyStatus.ACCEPTED


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
    assert won.status is ReplyStatus.ACCEPTED
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
    assert (won.status, won.confirmed) == (ReplyStatus.ACCEPTED, False)


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
    assert (again.status, again.confirmed) == (ReplyStatus.ACCEPTED, True)
