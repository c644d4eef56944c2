"""Both stores for a user who may not run INFO: what was seen counts on its connection only."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from celery_safe_leader._core.messages import ReplyStatus
from celery_safe_leader._store.commands import Send, Step
from celery_safe_leader.errors import StoreRefusedError, StoreUnavailableError
from tests.contract.conftest import StoreUnderTest
from tests.contract.requests import ask, campaign, observe, renew, resign, win
from tests.support.servers import Server

MakeStore = Callable[..., StoreUnderTest]


def limited(server: Server) -> str:
    """Make a user, and return the server's URL for it."""
    rights = ("on", ">pw", "~*", "&*", "+@all", "-info")
    server.client().execute_command("ACL", "SETUSER", "limited", *rights)
    return server.url.replace("redis://", "redis://limited:pw@")


def cut(server: Server, *stores: StoreUnderTest) -> None:
    """End all connections of that user, as a failover does; the stores have noticed it."""
    client: Any = server.client()
    client.execute_command("CLIENT", "KILL", "USER", "limited")
    for store in stores:
        with contextlib.suppress(StoreUnavailableError):  # a loop that stands sees no end
            store.execute(resign(0, "nobody"))


@pytest.fixture
def make(make_store: MakeStore, server: Server) -> Callable[[], StoreUnderTest]:
    """Make stores without the right."""
    url = limited(server)
    return lambda: make_store(url)


def test_the_version_stays_on_one_connection_and_changes_with_it(
    make: Callable[[], StoreUnderTest], server: Server
) -> None:
    store, leader = make(), make()
    won = win(leader)
    seen = ask(store, observe()).record
    assert (seen.holder, seen.token) == ("a", won.token)
    assert seen.version != won.version
    assert ask(store, observe()).record == seen
    cut(server, store, leader)
    assert ask(store, campaign(seen.version, "b")).status is ReplyStatus.REJECTED
    anew = ask(store, observe()).record
    assert anew.version != seen.version
    assert anew.epoch != seen.epoch
    # A leader goes on leading over any connection.
    assert ask(leader, renew(won.token)).status is ReplyStatus.ACCEPTED


def test_a_resignation_counts_for_who_saw_the_record_before_it(
    make: Callable[[], StoreUnderTest], server: Server
) -> None:
    store, leader = make(), make()
    won = win(leader)
    before = ask(store, observe()).record
    assert not before.given_up
    assert ask(leader, resign(won.token)).status is ReplyStatus.RESIGNED
    after = ask(store, observe()).record
    assert (after.epoch, after.given_up, after.resigned) == (before.epoch, True, False)


def test_a_leader_cannot_resign_what_it_wrote_over_another_connection(
    make: Callable[[], StoreUnderTest], server: Server
) -> None:
    leader = make()
    won = win(leader)
    cut(server, leader)
    assert ask(leader, resign(won.token)).status is ReplyStatus.REJECTED
    assert ask(leader, renew(won.token)).status is ReplyStatus.ACCEPTED
    assert ask(leader, resign(won.token)).status is ReplyStatus.RESIGNED


def test_a_replica_is_refused_in_words(
    make_store: MakeStore, start_server: Callable[..., Server], server: Server
) -> None:
    store = make_store(limited(start_server(server.kind, replica_of=server)))
    for request in (observe(), campaign("v"), renew(1), resign(1)):
        with pytest.raises(StoreRefusedError, match="this Redis is a read-only replica"):
            store.execute(request)


def test_a_reply_over_a_connection_made_under_the_request_does_not_count(
    make: Callable[[], StoreUnderTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = make()
    ask(store, observe())
    inner = store._store
    perform = inner._perform

    def cut_then_perform(step: Step) -> Any:
        if not isinstance(step, Send):
            return perform(step)
        pool = inner._client.connection_pool
        ended = pool.disconnect()
        if not inspect.isawaitable(ended):
            return perform(step)

        async def then() -> Any:
            await ended
            return await perform(step)

        return then()

    monkeypatch.setattr(inner, "_perform", cut_then_perform)
    with pytest.raises(StoreUnavailableError, match="connection was replaced"):
        store.execute(observe())
    monkeypatch.undo()
    assert ask(store, observe()).status is ReplyStatus.SEEN
