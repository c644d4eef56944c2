"""Whether the broker is the Redis of somebody else: told by a value, never by a URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import exceptions as redis_errors

from celery_safe_leader._dispatch.outcomes import Collected, Sent
from celery_safe_leader._publishing import broker_session
from celery_safe_leader._publishing.publisher import Publisher
from tests.integration.publishing.collected import build, collect, lists_of, needs_batches
from tests.support.celery.periodic import make_app, new_queue, yes
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server
from tests.support.servers.rights import url_of

pytestmark = needs_batches

PublisherOf = Callable[[Any], Publisher]
PREFIX = {"broker_transport_options": {"global_keyprefix": "shop:"}}
SAME: dict[str, Callable[[Server], str]] = {
    "as it is": lambda server: server.url,
    "by name": lambda server: server.url.replace("127.0.0.1", "localhost"),
    "without database": lambda server: server.url.removesuffix("/0"),
    "slashes": lambda server: server.url.removesuffix("0") + "/0",
    "unix socket": lambda server: f"redis+socket://{server.socket_path}",
    "unix socket and database": lambda server: (
        f"redis+socket://{server.socket_path}?virtual_host=0"
    ),
}


def left_by(publisher: Publisher, seen_by: Any) -> tuple[bool, bool]:
    """Leave a probe; return whether somebody else sees it, and the same run_id."""
    assert publisher.why_not_transactional() == ""
    run_id = publisher.leave_probe("{leader:k}:beat:probe", "random", 60)
    return seen_by.get("{leader:k}:beat:probe") == "random", run_id == run_id_of(seen_by)


def database(server: Server, number: int) -> Any:
    client: Any = server.client()
    client.execute_command("SELECT", number)
    return client


def run_id_of(client: Any) -> str:
    return str(client.info("server")["run_id"])


@pytest.mark.parametrize("options", [{}, PREFIX], ids=["", "prefix"])
@pytest.mark.parametrize("spelling", SAME)
def test_the_same_database_shows_the_probe_however_it_is_spelled(
    broker_server: Server, publisher_of: PublisherOf, spelling: str, options: dict[str, Any]
) -> None:
    publisher = publisher_of(make_app(SAME[spelling](broker_server), new_queue(), **options))
    client = broker_server.client()
    assert left_by(publisher, client) == (True, True)
    assert 0 < client.ttl("{leader:k}:beat:probe") <= 60
    assert client.keys("*") == ["{leader:k}:beat:probe"]


@pytest.mark.parametrize(
    "url",
    [
        lambda server: server.url.removesuffix("0") + "1",
        lambda server: f"redis+socket://{server.socket_path}?virtual_host=1",
    ],
    ids=["tcp", "unix socket"],
)
def test_another_database_of_the_server_does_not_show_it(
    broker_server: Server, publisher_of: PublisherOf, url: Callable[[Server], str]
) -> None:
    app = make_app(url(broker_server), new_queue())
    publisher = publisher_of(app)
    assert left_by(publisher, broker_server.client()) == (False, True)
    assert left_by(publisher, database(broker_server, 1)) == (True, True)
    message = build(app)
    assert isinstance(collect(publisher, message)[0], Collected)
    assert isinstance(publisher.publish([message], yes)[0], Sent)
    assert list(lists_of(broker_server, 1)) == [app.conf.task_default_queue.encode()]


def test_another_server_does_not_show_it(
    broker_server: Server, start_server: Callable[..., Server], publisher_of: PublisherOf
) -> None:
    publisher = publisher_of(make_app(broker_server.url, new_queue()))
    assert left_by(publisher, start_server().client()) == (False, False)


def test_a_replica_shows_it_and_is_another_process(
    broker_server: Server, start_server: Callable[..., Server], publisher_of: PublisherOf
) -> None:
    replica = start_server(broker_server.kind, replica_of=broker_server).client()
    publisher = publisher_of(make_app(broker_server.url, new_queue()))
    left_by(publisher, replica)
    wait_until(lambda: replica.get("{leader:k}:beat:probe") == "random", 10, "the copy")
    assert left_by(publisher, replica)[1] is False


def test_a_broker_that_is_a_replica_refuses_it(
    broker_server: Server, start_server: Callable[..., Server], publisher_of: PublisherOf
) -> None:
    replica = start_server(broker_server.kind, replica_of=broker_server)
    publisher = publisher_of(make_app(replica.url, new_queue()))
    assert publisher.why_not_transactional() == ""
    with pytest.raises(redis_errors.ReadOnlyError):
        publisher.leave_probe("probe", "random", 60)


def restricted(server: Server, *rights: str) -> str:
    client: Any = server.client()
    client.execute_command("ACL", "SETUSER", "few", "reset", "on", ">pw", "~*", "&*", *rights)
    return url_of(server, "few")


def test_where_info_is_denied_there_is_no_run_id(
    broker_server: Server, publisher_of: PublisherOf
) -> None:
    publisher = publisher_of(make_app(restricted(broker_server, "+@all", "-info"), new_queue()))
    assert publisher.leave_probe("probe", "random", 60) == ""
    assert broker_server.client().get("probe") == "random"


def test_where_writing_is_denied_it_raises(
    broker_server: Server, publisher_of: PublisherOf
) -> None:
    publisher = publisher_of(make_app(restricted(broker_server, "+@all", "-set"), new_queue()))
    with pytest.raises(redis_errors.NoPermissionError):
        publisher.leave_probe("probe", "random", 60)
    assert publisher.why_not_transactional() == ""


def test_a_probe_needs_an_answer(
    broker_server: Server, start_proxy: Callable[[Server], Proxy], publisher_of: PublisherOf
) -> None:
    proxy = start_proxy(broker_server)
    publisher = publisher_of(make_app(proxy.url(), new_queue()))
    assert publisher.why_not_transactional() == ""
    number = publisher.connection_number
    proxy.refuse()
    proxy.cut()
    with pytest.raises((redis_errors.ConnectionError, OSError)):
        publisher.leave_probe("probe", "random", 60)
    proxy.accept()
    assert publisher.leave_probe("probe", "random", 60) == run_id_of(broker_server.client())
    assert publisher.connection_number > number


# The number


def test_the_number_changes_with_each_new_connection_and_with_nothing_else(
    broker_server: Server, publisher_of: PublisherOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(broker_server.url, new_queue())
    publisher, message = publisher_of(app), build(app)
    assert publisher.connection_number == 0
    publisher.leave_probe("probe", "random", 60)
    collect(publisher, message)
    first = publisher.connection_number
    assert first > 0
    for _ in range(3):
        publisher.why_not_transactional()
        publisher.leave_probe("probe", "random", 60)
        collect(publisher, message)
        publisher.publish([message], yes)
    assert publisher.connection_number == first
    publisher.forget_declarations()
    publisher.leave_probe("probe", "random", 60)
    assert publisher.connection_number > first


def test_a_connection_that_redis_py_replaces_unasked_is_counted(
    broker_server: Server, publisher_of: PublisherOf
) -> None:
    app = make_app(broker_server.url, new_queue())
    publisher, message = publisher_of(app), build(app)
    publisher.publish([message], yes)
    number, client = publisher.connection_number, broker_server.client()
    client.client_kill_filter(_type="normal", skipme=True)
    assert isinstance(publisher.publish([message], yes)[0], Sent)
    assert publisher.connection_number > number


def test_an_idle_connection_is_renewed_for_what_asks_the_broker_and_not_for_what_does_not(
    broker_server: Server, publisher_of: PublisherOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(broker_server.url, new_queue())
    publisher, message = publisher_of(app), build(app)
    collect(publisher, message)
    number = publisher.connection_number
    monkeypatch.setattr(broker_session, "_IDLE", -1.0)
    assert publisher.why_not_transactional() == ""
    assert isinstance(collect(publisher, message)[0], Collected)
    assert publisher.connection_number == number
    other = build(app, 2, options={"queue": "other"})
    assert isinstance(collect(publisher, other)[0], Collected)
    renewed = publisher.connection_number
    assert renewed > number
    publisher.leave_probe("probe", "random", 60)
    assert publisher.connection_number > renewed


def test_the_greeting_that_redis_py_makes_is_made_still(
    start_server: Callable[..., Server], publisher_of: PublisherOf
) -> None:
    server = start_server(password="secret")
    publisher = publisher_of(make_app(server.url.removesuffix("0") + "3", new_queue()))
    publisher.leave_probe("probe", "random", 60)
    assert database(server, 3).get("probe") == "random"
