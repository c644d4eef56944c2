"""Lines of MONITOR are read as the server wrote them."""

from __future__ import annotations

import base64
import json

import pytest

from tests.soak.pushes import Pushed, messages, read_push
from tests.support.celery.chaos import Execution

HEADERS = {
    "leader_occurrence": "o1",
    "leader_covers": "1000,1020",
    "leader_publication": "once-7f",
    "leader_token": 7,
}


def message(**headers: object) -> str:
    body = base64.b64encode(json.dumps([[], {"entry": "tick"}, {}]).encode()).decode()
    properties = {"delivery_info": {"exchange": "", "routing_key": "celery"}}
    return json.dumps({"body": body, "headers": {**HEADERS, **headers}, "properties": properties})


def line(*arguments: str, by: str = "127.0.0.1:5", database: int = 0) -> bytes:
    quoted = " ".join(json.dumps(argument) for argument in arguments)
    return f"+1700000000.250000 [{database} {by}] {quoted}".encode()


def seen(raw: bytes) -> list[Pushed]:
    push = read_push(raw)
    return [] if push is None else list(messages(push))


@pytest.mark.parametrize("command", ["LPUSH", "lpush", "RPUSH"])
def test_a_message_is_read_from_its_push(command: str) -> None:
    assert seen(line(command, "celery", message(), database=1)) == [
        Pushed(1, "celery", False, Execution("tick", "o1", 1000, 1020, "once-7f", 7, 1700000000.25))
    ]


def test_all_messages_of_one_push_of_a_script_are_read() -> None:
    raw = line("lpush", "celery", message(), message(leader_occurrence="o2"), by="lua")
    push = read_push(raw)
    assert push is not None
    assert push.by == "lua"
    assert [found.run.occurrence for found in messages(push)] == ["o1", "o2"]


def test_the_publication_says_which_way_it_went() -> None:
    (once,), (other,) = (
        seen(line("LPUSH", "celery", message(leader_publication=nonce)))
        for nonce in ("once-7f", "7f")
    )
    assert once.transactional
    assert not other.transactional


def test_a_message_that_a_worker_gave_back_is_told_from_a_publication() -> None:
    assert [m.restored for m in seen(line("RPUSH", "celery", message(redelivered=True)))] == [True]


@pytest.mark.parametrize(
    "raw",
    [
        b"+OK",
        line("BRPOP", "celery", "1"),
        line("HSET", "unacked", "tag", message()),
        line("LPUSH", "{leader:shop}:beat:ask", "wake"),
        line("LPUSH", "celery", json.dumps({"headers": {"id": "by hand"}, "properties": {}})),
    ],
)
def test_what_is_not_a_message_of_an_entry_is_left_out(raw: bytes) -> None:
    assert seen(raw) == []


def test_bytes_that_the_server_escapes_come_back() -> None:
    push = read_push(rb'+1.5 [0 lua] "lpush" "a\"\\b" "\x00\xff\n\r\t\a\b c"')
    assert push is not None
    assert push.key == 'a"\\b'
    assert push.values == (b"\x00\xff\n\r\t\a\b c",)
