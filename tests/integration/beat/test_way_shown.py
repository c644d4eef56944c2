"""``celery leader status`` shows which way the runs of the present tenure take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import redis
from celery import Celery
from click.testing import CliRunner

from celery_safe_leader import cli
from celery_safe_leader._core.options import Options
from celery_safe_leader._ledger.way import Way, note_way
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.leader import build_leader
from tests.support.servers import Server
from tests.support.servers.kinds import OLDEST, all_kinds
from tests.support.servers.rights import (
    AT_FIRST,
    VIEWER_BEFORE,
    printed,
    user_with,
    words_of,
)

ELECTIONS = [ElectionKeys("shop", "beat"), ElectionKeys("shop", "worker")]
each_election = pytest.mark.parametrize("keys", ELECTIONS, ids=lambda keys: keys.role)


@pytest.fixture(params=all_kinds())
def server(request: pytest.FixtureRequest, start_server: Callable[..., Server]) -> Server:
    """The oldest kind, too: rights are said in other words there."""
    return start_server(request.param)


def status(url: str, keys: ElectionKeys) -> tuple[int, list[str]]:
    """Run the command; return its exit code, and its lines that say who leads and which way."""
    app = Celery("shop", broker=url, set_as_current=False)
    app.conf.update(leader_ttl=1.0, leader_wait=0.2)
    options = ["--role", keys.role]
    found = CliRunner().invoke(cli.leader, ["status", *options], obj=SimpleNamespace(app=app))
    app.close()
    assert found.exception is None or isinstance(found.exception, SystemExit), found.output
    lines = [line.removeprefix(keys.role).strip() for line in found.output.splitlines()]
    kept = [line for line in lines if "(token " in line or line.startswith("publication: ")]
    return found.exit_code, kept


@contextmanager
def leading(server: Server, keys: ElectionKeys) -> Iterator[tuple[int, redis.Redis]]:
    """Lead an election without dispatching anything; give the token, and a client."""
    client = make_client(server.url, connect_timeout=5.0, read_timeout=5.0)
    leader = build_leader(server.url, keys, Options(4.0, 0.2), {})
    leader.elect()
    try:
        assert leader.wait(lambda: leader.is_leader, 30)
        assert leader.fencing_token is not None
        yield leader.fencing_token, client
    finally:
        leader.shutdown()
        client.close()


@each_election
def test_it_is_shown_if_it_is_of_this_tenure(valkey_server: Server, keys: ElectionKeys) -> None:
    with leading(valkey_server, keys) as (token, client):

        def ways() -> list[str]:
            code, (who, *more) = status(valkey_server.url, keys)
            assert code == 0
            assert who.startswith("led by ")
            assert f"(token {token}, ttl 4 s)" in who
            return more

        # Workers publish nothing, unless they have an embedded beat.
        not_noted = ways()
        assert len(not_noted) == (keys.role == "beat")
        assert all("unknown; this leader has noted none" in line for line in not_noted)
        note_way(client, keys, token, Way.WRITE_AHEAD, "broker and ledger are two databases")
        assert ways() == ["publication: write-ahead (broker and ledger are two databases)"]
        note_way(client, keys, token, Way.WRITE_AHEAD, "")
        assert ways() == ["publication: write-ahead"]
        note_way(client, keys, token, Way.TRANSACTIONAL, "all is well")
        assert ways() == ["publication: transactional"]
        for other in (token - 1, token + 1):
            note_way(client, keys, other, Way.TRANSACTIONAL, "")
            assert ways() == not_noted, "of another tenure"
        client.set(keys.publication, b"\xff garbage")
        assert ways() == not_noted


def test_it_is_not_shown_of_whoever_leads_no_more(valkey_server: Server) -> None:
    keys = ELECTIONS[0]
    with leading(valkey_server, keys) as (token, client):
        note_way(client, keys, token, Way.TRANSACTIONAL, "")
    code, lines = status(valkey_server.url, keys)
    assert code == 1
    assert len(lines) == 1
    assert "resigned" in lines[0]


@each_election
def test_a_viewer_of_before_sees_who_leads_and_which_right_is_missing(
    server: Server, keys: ElectionKeys
) -> None:
    def as_viewer(words: list[bytes]) -> tuple[int, list[str]]:
        if server.kind == OLDEST:
            words = [word.replace(b"%R~", b"~") for word in words]
        return status(user_with(server, words), keys)

    now = printed("shop")[1]
    right = f"+get and %R~{keys.publication}"
    with leading(server, keys) as (token, client):
        note_way(client, keys, token, Way.TRANSACTIONAL, "")
        without_key = [word for word in now if not word.endswith(keys.publication.encode())]
        for words in (words_of(AT_FIRST[1]), without_key):
            code, (who, way) = as_viewer(words)
            assert code == 0
            assert f"(token {token}, ttl 4 s)" in who
            assert way == (
                f"publication: unknown; the Redis user needs {right} to see it, and "
                "`celery -A proj leader acl` prints all its rights"
            )
        for words in (words_of(VIEWER_BEFORE), now):
            assert as_viewer(words)[1][1:] == ["publication: transactional"]
