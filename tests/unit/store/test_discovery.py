"""Who is asked where a server is, in which order, and what is made of the replies. No IO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import redis

from celery_safe_leader._store.connection.arguments import CLASSES
from celery_safe_leader._store.connection.client import make_async_client, make_client
from celery_safe_leader._store.connection.cluster import SlotMaster, pop_cluster_nodes
from celery_safe_leader._store.connection.discovery import Finder, Locator
from celery_safe_leader._store.connection.sentinel import (
    SentinelGroup,
    Sentinels,
    pop_sentinel_group,
)
from celery_safe_leader._store.connection.urls import Address, parse_url
from celery_safe_leader.errors import ConfigurationError

A, B, C = ("a", 1), ("b", 2), ("c", 3)
DOWN = redis.ConnectionError("refused")
KEY = "{leader:shop}:lease"
SLOT = SlotMaster([A], KEY).slot


def search(finder: Finder, replies: Mapping[Address, Any]) -> tuple[Address, list[Address]]:
    """Search with given replies; return what was found, and who was asked."""
    asked: list[Address] = []
    questions = finder.search()
    try:
        question = next(questions)
        while True:
            asked.append(question.address)
            reply = replies.get(question.address, DOWN)
            if callable(reply):
                reply = reply(question.command)
            failed = isinstance(reply, Exception)
            question = questions.throw(reply) if failed else questions.send(reply)
    except StopIteration as found:
        return found.value, asked


def sentinels(least: int = 0) -> Sentinels:
    return Sentinels(SentinelGroup("mymaster", (A, B, C), least, {}))


def test_the_first_sentinel_that_answers_is_asked_first_from_then_on() -> None:
    finder = sentinels()
    replies = {B: [b"10.0.0.1", b"7000"], C: [b"10.0.0.9", b"7009"]}
    assert search(finder, replies) == (("10.0.0.1", 7000), [A, B])
    assert search(finder, replies) == (("10.0.0.1", 7000), [B])


def test_a_sentinel_whose_master_was_none_is_asked_last() -> None:
    finder = sentinels()
    replies = {node: [b"m", str(node[1]).encode()] for node in (A, B, C)}
    assert search(finder, replies)[0] == ("m", 1)
    finder.distrust()
    assert search(finder, replies)[0] == ("m", 2)
    finder.distrust()
    finder.distrust()
    assert search(finder, replies)[0] == ("m", 1)


@pytest.mark.parametrize(
    "reply", [None, [], [b"m"], [b"m", b"port"], b"m", 7, redis.ResponseError("NOAUTH")]
)
def test_a_sentinel_that_does_not_name_a_master_is_passed_over(reply: Any) -> None:
    assert search(sentinels(), {A: reply, B: [b"m", b"1"]}) == (("m", 1), [A, B])


def test_no_sentinel_names_a_master() -> None:
    with pytest.raises(redis.ConnectionError) as refused:
        search(sentinels(), {B: None})
    assert str(refused.value) == (
        "no Sentinel names a master: a:1: refused; b:2: knows no master named 'mymaster'; "
        "c:3: refused"
    )


def test_a_sentinel_that_knows_too_few_others_is_not_believed() -> None:
    def answers(others: str) -> Any:
        state = [b"name", b"mymaster", b"num-other-sentinels", others.encode()]
        return lambda command: state if command[1] == "MASTER" else [b"m", others.encode()]

    replies = {A: answers("1"), B: answers("2")}
    assert search(sentinels(least=2), replies)[0] == ("m", 2)
    assert search(sentinels(least=0), replies)[0] == ("m", 1)


def test_nobody_else_is_asked_when_an_answer_could_come_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(
        "celery_safe_leader._store.connection.discovery.time.monotonic", lambda: now
    )
    everybody = tuple((f"h{number}", number) for number in range(1, 9))
    limit = 10.0
    locator = Locator(Sentinels(SentinelGroup("mymaster", everybody, 0, {})), object, {}, limit)
    questions = locator._questions(locator._latest)
    next(questions)
    now += 2 * limit / 5  # the longest that one may take: a part to connect, and one for the reply
    questions.send(redis.TimeoutError("silent"))
    now += 2 * limit / 5
    with pytest.raises(redis.TimeoutError, match="no time is left to ask another"):
        questions.send(redis.TimeoutError("silent"))
    assert now - 1000.0 <= limit


def slots(master: Address, first: int = 0, last: int = 16383, *more: Any) -> list[Any]:
    host, port = master
    return [[first, last, [host.encode(), port, b"id"], [b"r", 9, b"id"]], *more]


def test_the_master_of_the_slot_is_found_and_all_nodes_are_learned() -> None:
    finder = SlotMaster([A, B], KEY)
    others = [[0, SLOT - 1, [b"x", 1, b"id"]], [SLOT, SLOT, [b"y", 2, b"id"], [b"z", 3, b"id"]]]
    assert search(finder, {B: others}) == (("y", 2), [A, B])
    # The one that answered first, then those that the user named, then the others.
    with pytest.raises(redis.ConnectionError, match="no node names the slot's master"):
        search(finder, {})
    assert search(finder, {("z", 3): slots(C)}) == (C, [B, A, ("x", 1), ("y", 2), ("z", 3)])


def test_a_node_is_where_it_was_asked_if_it_has_no_name() -> None:
    finder = SlotMaster([A], KEY)
    assert search(finder, {A: [[0, 16383, [b"", 7, b"id"]]]})[0] == ("a", 7)
    assert search(finder, {A: [[0, 16383, [None, 8, b"id"]]]})[0] == ("a", 8)


@pytest.mark.parametrize(
    "reply", [None, [], [[0, 1]], [[0, 16383]], b"OK", [[0, 1, [b"x", 1, b"i"]]],
              [[0, 16383, [b"?", 1, b"i"]]], redis.ResponseError("no cluster")]
)  # fmt: skip
def test_a_node_that_does_not_name_a_master_is_passed_over(reply: Any) -> None:
    assert search(SlotMaster([A, B], KEY), {A: reply, B: slots(C)}) == (C, [A, B])


def test_a_redirection_is_followed_once() -> None:
    finder = SlotMaster([A], KEY)
    finder.redirect(C)
    assert search(finder, {A: slots(B)}) == (C, [])
    assert search(finder, {A: slots(B)}) == (B, [A])


def test_all_keys_of_an_election_have_the_slot_of_their_tag() -> None:
    assert SlotMaster([A], "{leader:shop}:beat:history").slot == SLOT
    assert SlotMaster([A], "leader:shop").slot == SLOT


def test_options_for_sentinels_are_taken_out() -> None:
    options = {
        "master_name": "m",
        "min_other_sentinels": 1,
        "sentinel_kwargs": {"password": "p"},
        "client_name": "x",
    }
    group = pop_sentinel_group(
        parse_url("sentinel://a:1;sentinel://b:2"), options, "leader_options"
    )
    assert group == SentinelGroup("m", (A, B), 1, {"password": "p"})
    assert options == {"client_name": "x"}


def test_options_of_redbeat_for_sentinels() -> None:
    options: dict[str, Any] = {"sentinels": [("b", 2), ["c", "3"]], "service_name": "s"}
    url = parse_url("redis-sentinel://a:1/0")
    assert pop_sentinel_group(url, dict(options), "o") == SentinelGroup("s", (B, C), 0, {})
    assert pop_sentinel_group(url, {}, "o") == SentinelGroup("master", (A,), 0, {})


class _Node:
    host, port = "c", 3


def test_options_of_redbeat_for_a_cluster() -> None:
    url = parse_url("redis-cluster://a:1")
    nodes: list[Any] = [{"host": "b", "port": 2}, _Node()]
    options = {"cluster": True, "startup_nodes": nodes, "client_name": "x"}
    assert pop_cluster_nodes(url, options, "o") == (B, C)
    assert options == {"client_name": "x"}
    assert pop_cluster_nodes(url, {}, "o") == (A,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "master_name of o is not set; it must be the name by which the Sentinels know the "
             "master"),
        ({"master_name": 7}, "master_name of o is 7; it must be the name by which the Sentinels "
                             "know the master"),
        ({"master_name": "m", "min_other_sentinels": -1},
         "min_other_sentinels of o is -1; it must be a whole number, 0 or more"),
        ({"master_name": "m", "sentinel_kwargs": "secret"},
         "sentinel_kwargs of o is of type str; it must be a dict"),
    ],
)  # fmt: skip
def test_bad_options_for_sentinels_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        pop_sentinel_group(parse_url("sentinel://a"), options, "o")
    assert str(refused.value) == message


@pytest.mark.parametrize("nodes", ["a:1", [("a",)], [{"host": "a"}], [("a", "x")], [7], [(7, 7)]])
def test_bad_nodes_are_refused(nodes: Any) -> None:
    with pytest.raises(ConfigurationError, match="a list of pairs of a host and a port"):
        pop_cluster_nodes(parse_url("redis-cluster://a"), {"startup_nodes": nodes}, "o")


@pytest.mark.parametrize("make", [make_client, make_async_client])
def test_those_who_are_asked_are_logged_in_to_as_the_url_says(make: Any) -> None:
    limits = {"connect_timeout": 1.0, "read_timeout": 9.0, "key": KEY}
    tls = {"ssl_ca_certs": "/ca"}
    client = make("rediss+cluster://u:p@a:1", tls, **limits)
    pool = client.connection_pool
    assert issubclass(pool.connection_class, CLASSES[make is make_async_client]["rediss"])
    node = pool.connection_kwargs["locator"]._connection(B)
    assert isinstance(node, CLASSES[make is make_async_client]["rediss"])
    assert (node.host, node.port, node.username, node.password) == ("b", 2, "u", "p")
    client = make("sentinel://u:p@a:1/3", {"master_name": "m", "sentinel_kwargs": tls}, **limits)
    sentinel = client.connection_pool.connection_kwargs["locator"]._connection(B)
    assert (sentinel.username, sentinel.password, sentinel.db) == (None, None, 0)
    for asked in (node, sentinel):
        assert asked.retry._retries == 0
        # Whoever is asked last still answers, or not, within the limit.
        assert asked.socket_connect_timeout == asked.socket_timeout == 0.2


def test_limits_of_the_user_for_sentinels_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    options = {"master_name": "m", "sentinel_kwargs": {"socket_timeout": 99}}
    make_client("sentinel://a", options, connect_timeout=1.0, read_timeout=9.0, key=KEY)
    assert "sentinel_kwargs of options: ignored socket_timeout" in caplog.text
