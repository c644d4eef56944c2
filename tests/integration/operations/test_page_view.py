"""What a page about a key shows and does, before any HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_safe_leader._ledger.codec import (
    Claim,
    LastRun,
    encode_claim,
    encode_entry,
    encode_run,
)
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._operations.page.entry_pages import PageQuery
from celery_safe_leader._operations.page.page_actions import act
from celery_safe_leader._operations.page.page_view import PageReader, problem_of
from celery_safe_leader._operations.target import Target
from celery_safe_leader._schedules.moments import SECOND_US
from celery_safe_leader._store.connection.client import describe, make_client
from celery_safe_leader._store.keys import LedgerKeys
from celery_safe_leader.errors import StoreError
from tests.integration.operations.commands import HOSTILE
from tests.integration.operations.test_candidates_shown import HOLDER, Crowd
from tests.support.network.ports import free_port
from tests.support.servers import ExternalServer, Server
from tests.support.servers.rights import printed, user_with

MOMENT = 1_790_000_000 * SECOND_US
TOKEN = 1_790_000_000_000


def target_at(url: str, key: str) -> Target:
    def open_client(name: str) -> Any:
        return make_client(url, {}, connect_timeout=3.0, read_timeout=3.0, key=name)

    return Target(key, describe(url), open_client)


@pytest.fixture
def target(shared_server: ExternalServer, key: str) -> Target:
    return target_at(shared_server.url, key)


@pytest.fixture
def crowd(shared_server: ExternalServer, key: str) -> Crowd:
    crowd = Crowd(shared_server, key)
    crowd.write()
    return crowd


def write_runs(client: Any, key: str, *entries: str, moment: int = MOMENT) -> None:
    run = encode_run(LastRun(moment, 3, moment, "f"))
    fields = {encode_entry(entry): run for entry in entries}
    names = LedgerKeys(key)
    sentinel = b"1 g 1 whole/m beat"
    client.hset(names.runs, mapping={SENTINEL: sentinel, **fields})
    client.hset(names.pending, SENTINEL, sentinel)


def write_claim(client: Any, key: str, entry: str, moment: int) -> None:
    value = encode_claim(Claim(entry, f"task-of-{entry}", moment, moment, "f", TOKEN))
    client.hset(LedgerKeys(key).pending, encode_entry(entry), value)


def test_all_that_is_known_is_shown(crowd: Crowd, target: Target) -> None:
    client, key = crowd.client, target.key
    now_us = crowd.now_us()
    write_runs(client, key, "poll", "report")
    write_claim(client, key, "poll", MOMENT + SECOND_US)
    write_claim(client, key, "report", MOMENT - SECOND_US)
    due = [[now_us - 5 * SECOND_US, "poll"], [now_us + 3600 * SECOND_US, "report"]]
    crowd.say(HOLDER, token=TOKEN, work={"published": 12, "next": due}, scheduler="LeaderScheduler")
    crowd.say("b:7:x", ago=2.0, error="no answer from Redis", error_age=4.0)
    crowd.tell("elected", ago=60, token=TOKEN)
    crowd.tell("paused", ago=30, holder="ann", reason="move", token=TOKEN)
    crowd.tell("resumed", ago=20, holder="ann", token=TOKEN)
    view = PageReader(target).read()
    (card,) = view.elections
    assert (card.role, card.state, card.is_led) == ("beat", "held", True)
    assert card.leader == f"{HOLDER}, token {TOKEN}"
    assert HOLDER in card.headline
    assert [(each.id, each.state) for each in card.candidates] == [
        (HOLDER, "leader"),
        ("b:7:x", "standby"),
    ]
    assert "no answer from Redis" in card.candidates[1].trouble[0]
    assert card.standbys == "1 standby"
    assert card.timeline.startswith("<svg")
    assert len(card.history) == 1
    assert len(card.history[0]) == len(card.history_head)
    assert [(each.what, each.by, each.reason) for each in view.actions] == [
        ("resumed", "ann", ""),
        ("paused", "ann", "move"),
    ]
    entries = {each.entry: each for each in view.entries.lines}
    assert list(entries) == ["poll", "report"]
    assert entries["poll"].last == "2026-09-21 14:13:20"
    assert entries["poll"].late.startswith("5."), "its moment has passed"
    assert entries["report"].late == ""
    assert entries["report"].next != "?"
    (claim,) = view.unsettled.lines
    assert (claim.entry, claim.token, claim.task_id) == ("poll", str(TOKEN), "task-of-poll")
    assert view.leaders == f"Beats: {HOLDER}, token {TOKEN}"
    assert view.pause == ""


def test_without_a_record_it_is_said_what_may_be_wrong(target: Target) -> None:
    view = PageReader(target).read()
    assert view.elections == ()
    assert "no record" in view.nobody
    assert view.leaders == view.nobody


def test_many_entries_come_in_pages_and_each_comes_once(crowd: Crowd, target: Target) -> None:
    names = [f"entry-{number:05}" for number in range(3000)]
    write_runs(crowd.client, target.key, *names)
    reader, query = PageReader(target), PageQuery()
    seen: list[str] = []
    while True:
        page = reader.read(query).entries
        shown = [each.entry for each in page.lines]
        assert shown == sorted(shown)
        assert len(shown) < 1000, "never all at once"
        assert page.is_first == (not seen)
        seen += shown
        if not page.next_cursor:
            break
        query = PageQuery("", page.next_cursor)
    assert sorted(set(seen)) == names
    assert len(seen) < len(names) + 300, "Redis may return a few twice"


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("poll", ["app.poll", "poll-orders"]),
        ("poll*", ["poll-orders"]),
        ("?pp.poll", ["app.poll"]),
        ("[a]", ["x[a]y"]),
        ("a\\b", ["a\\b"]),
        ("nothing", []),
    ],
)
def test_a_search_finds_parts_of_names(
    crowd: Crowd, target: Target, search: str, found: list[str]
) -> None:
    write_runs(crowd.client, target.key, "app.poll", "poll-orders", "x[a]y", "a\\b", "other")
    page = PageReader(target).read(PageQuery.of({"search": search})).entries
    assert [each.entry for each in page.lines] == found


@pytest.mark.parametrize("cursor", ["", "-1", "x", "9" * 21, "１", "0 1"])
def test_what_is_no_cursor_is_the_beginning(cursor: str) -> None:
    assert PageQuery.of({"cursor": cursor}).cursor == "0"


def test_who_asks_often_costs_redis_one_look_a_second(crowd: Crowd, target: Target) -> None:
    reader = PageReader(target)
    first = reader._status()
    assert reader._status() is first
    reader.forget()
    assert reader._status() is not first


def test_while_redis_is_away_one_look_is_for_all_who_wait() -> None:
    target = target_at(f"redis://127.0.0.1:{free_port()}/0", "shop")
    tries: list[str] = []

    def open_client(name: str) -> Any:
        tries.append(name)
        return target.open_client(name)

    reader = PageReader(replace(target, open_client=open_client))
    for _ in range(3):
        with pytest.raises(StoreError):
            reader.read()
    assert len(tries) == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_made_plain(crowd: Crowd, target: Target, text: str) -> None:
    write_runs(crowd.client, target.key, text)
    write_claim(crowd.client, target.key, text, MOMENT + SECOND_US)
    crowd.write(holder=text)
    crowd.say(text, token=TOKEN, error=text, error_age=1.0, node=text, host=text)
    crowd.tell("elected", ago=60, token=TOKEN, holder=text)
    crowd.tell("paused", ago=30, holder=text, reason=text)
    crowd.tell(text, ago=20, holder=text, reason=text)
    view = PageReader(target).read()
    (card,) = view.elections
    shown = [card.headline, *card.details, card.leader, card.timeline, view.leaders]
    shown += [view.entries.lines[0].entry, view.unsettled.lines[0].entry, view.actions[0].by]
    shown += [card.candidates[0].id, card.candidates[0].where, *card.candidates[0].trouble]
    assert not any(each in whole for whole in shown for each in "\x1b\x07\r\t")
    assert "<script" not in card.timeline
    assert all(len(whole) < 600 for whole in shown if whole is not card.timeline)


def test_actions_do_what_the_commands_do(crowd: Crowd, target: Target) -> None:
    write_runs(crowd.client, target.key, "poll")
    answer = act(target, "pause", {"for": "15m", "reason": "move"}, "ann")
    assert (answer.is_done, "is PAUSED until" in answer.text) == (True, True)
    view = PageReader(target).read()
    assert "by ann" in view.pause
    assert "paused" in view.leaders
    assert [(each.by, each.reason) for each in view.actions] == [("ann", "move")]
    assert act(target, "resume", {}, "ann").is_done
    assert act(target, "resume", {}, "").text.endswith("Nothing was changed.")
    wrong = act(target, "pause", {"for": "soon"}, "ann")
    assert (wrong.is_done, wrong.is_unknown, "is not a length" in wrong.text) == (
        False,
        False,
        True,
    )
    for words, said in (
        ({"role": "cook"}, "allowed are beat and worker"),
        ({"to": "nobody"}, "no candidate nobody takes part"),
        ({"role": "worker"}, "nobody leads"),
    ):
        answer = act(target, "resign", words, "ann")
        assert (answer.is_done, said in answer.text) == (False, True), answer.text


def test_a_viewer_sees_all_and_may_do_nothing(valkey_server: Server) -> None:
    crowd = Crowd(valkey_server, "shop")
    crowd.write()
    write_runs(crowd.client, "shop", "poll")
    crowd.tell("elected", ago=60, token=TOKEN)
    crowd.say(HOLDER, token=TOKEN)
    viewer = target_at(user_with(valkey_server, printed("shop")[1]), "shop")
    view = PageReader(viewer).read()
    assert [each.entry for each in view.entries.lines] == ["poll"]
    assert (view.missing, view.entries.refused, view.unsettled.refused) == ("", "", "")
    assert len(view.elections[0].candidates) == 1
    for name in ("pause", "resume", "resign"):
        answer = act(viewer, name, {}, "ann")
        assert (answer.is_done, answer.is_unknown) == (False, True), answer.text
        assert "right" in answer.text or "permission" in answer.text, answer.text
    blind = target_at(user_with(valkey_server, [*printed("shop")[1], b"-hscan"]), "shop")
    view = PageReader(blind).read()
    assert "+hscan" in view.entries.refused
    assert "+hscan" in view.elections[0].standbys


def test_an_error_says_which_server_and_which_right(valkey_server: Server) -> None:
    url = user_with(valkey_server, [*printed("shop")[1], b"-hmget", b"-hgetall"])
    for target, is_right, said in (
        (target_at(url, "shop"), True, "leader acl` prints the rights"),
        (
            target_at(f"redis://u:secret@127.0.0.1:{(port := free_port())}/0", "shop"),
            False,
            str(port),
        ),
    ):
        with pytest.raises(StoreError) as raised:
            PageReader(target).read()
        problem = problem_of(target, raised.value)
        assert (problem.is_right, said in problem.text) == (is_right, True), problem
        assert "secret" not in problem.text
