"""What a real beat says at 3 a.m.: wrong settings, and a Redis that is down or says no."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from kombu.messaging import Producer

from tests.support.celery.beats import Beat, write_app
from tests.support.celery.inbox import Inbox, gaps
from tests.support.processes import Children
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server, installed_kinds

TICK = '{"tick": {"task": "shop.work", "schedule": 0.25, "kwargs": {"entry": "tick"}}}'
LEASE = "{leader:shop}:beat:lease"
SECRET = "hunter2-secret"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(installed_kinds()[0]) as server:
        yield server


@pytest.fixture
def open_inbox() -> Iterator[Callable[[str], Inbox]]:
    """Open the queue at a broker: ``open_inbox(server.url)``."""
    with ExitStack() as inboxes:
        yield lambda broker: inboxes.enter_context(Inbox(broker))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"broker_url": f"amqp://guest:{SECRET}@127.0.0.1:5672//", "result_backend": "rpc://"},
            "leader_url is not set, and neither the broker (amqp://127.0.0.1:5672//) nor the "
            "result backend (rpc) is Redis or Valkey",
        ),
        (
            {"leader_url": f"memcached://:{SECRET}@127.0.0.1:11211"},
            "leader_url is a URL with the scheme 'memcached'; it must be the URL of one Redis or "
            "Valkey server, of Sentinels or of nodes of a cluster, starting with redis, valkey,",
        ),
        ({"leader_ttl": 0}, "leader_ttl is 0"),
        ({"leader_ttl": -1}, "leader_ttl is -1"),
        ({"leader_ttl": float("nan")}, "leader_ttl is nan"),
        ({"leader_ttl": 1500}, "leader_ttl is 1500 s; it must be at most 300 s"),
        ({"leader_ttl": "10"}, "leader_ttl is '10' (a str); it must be"),
        ({"leader_wait": 0}, "leader_wait is 0"),
        ({"leader_wait": float("nan")}, "leader_wait is nan"),
        (
            {"leader_tll": 3},
            "leader_tll is not a setting of celery-safe-leader; did you mean leader_ttl?",
        ),
        (
            {"leader_missed_runs": "never"},
            "leader_missed_runs is 'never'; it must be 'coalesce', 'skip' or 'all'",
        ),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_ends_beat_with_a_sentence_about_it(
    settings: dict[str, Any], sentence: str, children: Children, tmp_path: Path
) -> None:
    write_app(tmp_path, "redis://127.0.0.1:1/0", TICK, **settings)
    # nan has no literal.
    app = tmp_path / "app.py"
    app.write_text(app.read_text().replace(": nan", ": float('nan')"))
    beat = Beat(children, tmp_path)
    assert beat.child.wait(20) == 1
    last = beat.child.lines[-1]
    assert sentence in last, beat.child.output
    assert SECRET not in beat.child.output


def test_a_wrong_option_of_an_entry_ends_beat_with_a_sentence_about_it(
    children: Children, tmp_path: Path
) -> None:
    options = '{"leader": {"missed_runs": "some"}}'
    schedule = f'{{"tick": {{"task": "shop.work", "schedule": 1.0, "options": {options}}}}}'
    write_app(tmp_path, "redis://127.0.0.1:1/0", schedule)
    beat = Beat(children, tmp_path)
    assert beat.child.wait(20) == 1
    last = beat.child.lines[-1]
    for part in ("'tick'", "missed_runs", "'some'", "coalesce, skip, all"):
        assert part in last, beat.child.output


def test_banner_and_log_say_who_leads_where_and_for_how_long_without_a_password(
    start_server: Callable[..., Server],
    children: Children,
    tmp_path: Path,
    open_inbox: Callable[[str], Inbox],
) -> None:
    server = start_server(password=SECRET)
    write_app(tmp_path, server.url, TICK)
    inbox = open_inbox(server.url)
    beat = Beat(children, tmp_path)
    beat.child.wait_for_line("Loaded the ledger", 30)
    inbox.wait_for(1)
    banner = beat.child.output
    assert "election -> shop:beat (not started)" in banner
    assert f"server -> redis://127.0.0.1:{server.port}/0 (broker_url)" in banner
    joined = f"at redis://127.0.0.1:{server.port}/0 (broker_url) as "
    assert joined in beat.child.output
    assert "ttl -> 0.6 seconds, wait 0.1 seconds" in banner
    beat.terminate()
    told = [line.split("] ", 1)[1] for line in beat.child.lines if line.startswith("[20")]
    told = [line for line in told if not line.startswith("Scheduler: Sending due task tick ")]
    begins = [
        "beat: Starting...",
        "Taking part in the election shop:beat at redis://127.0.0.1:",
        "Standing by for shop:beat: Redis knows of no leader.",
        "Elected leader of shop:beat: this beat dispatches now (token ",
        "Loaded the ledger of shop in ",
        (
            "Due runs of shop are published and recorded in one script (transactional)"
            if hasattr(Producer, "batch")  # kombu 5.7
            else "Due runs of shop are claimed, published and committed (write-ahead): kombu "
        ),
        "Demoted: resigned as leader of shop:beat (token ",
    ]
    assert [a[: len(b)] for a, b in zip(told, begins, strict=True)] == begins
    assert SECRET not in beat.child.output


def test_redis_that_is_down_at_the_start_is_said_and_waited_for(
    start_server: Callable[..., Server],
    children: Children,
    tmp_path: Path,
    open_inbox: Callable[[str], Inbox],
) -> None:
    broker, server = start_server(), start_server()
    server.stop()
    write_app(tmp_path, broker.url, TICK, leader_url=server.url)
    inbox = open_inbox(broker.url)
    beat = Beat(children, tmp_path)
    line = beat.child.wait_for_line("Election shop:beat:", 30).text
    assert "ERROR" in line
    assert f"redis://127.0.0.1:{server.port}/0" in line
    assert "trying again" in line
    time.sleep(1.5)
    assert inbox.sent() == []
    assert len(beat.lines("ERROR")) == 1, "an error that goes on is said once a minute"
    server.start()
    back = time.monotonic()
    first = inbox.wait_for(4, 30, since=back)[0]
    assert first.at > back
    assert beat.lines("answers again")
    assert "Traceback" not in beat.child.output


def test_a_wrong_password_is_said_without_it_and_tried_again(
    start_server: Callable[..., Server], children: Children, tmp_path: Path
) -> None:
    server = start_server(password="right")
    write_app(
        tmp_path,
        f"redis://:right@127.0.0.1:{server.port}/0",
        TICK,
        leader_url=f"redis://:{SECRET}@127.0.0.1:{server.port}/0",
    )
    beat = Beat(children, tmp_path)
    line = beat.child.wait_for_line("Election shop:beat:", 30).text
    assert "password" in line.lower()
    assert f"redis://127.0.0.1:{server.port}/0" in line
    server.client().config_set("requirepass", SECRET)
    beat.child.wait_for_line("Elected leader", 30)
    assert SECRET not in beat.child.output
    assert "Traceback" not in beat.child.output


def test_a_key_of_another_type_is_named_and_beat_leads_once_it_is_gone(
    server: Server, children: Children, tmp_path: Path
) -> None:
    client = server.client()
    client.set(LEASE, "somebody else's")
    write_app(tmp_path, server.url, TICK)
    beat = Beat(children, tmp_path)
    line = beat.child.wait_for_line("Election shop:beat:", 30).text
    assert LEASE in line
    assert "WRONGTYPE" in line
    client.delete(LEASE)
    beat.child.wait_for_line("Elected leader", 30)
    assert "Traceback" not in beat.child.output
    client.flushall()


def test_a_read_only_replica_is_named_and_beat_leads_once_it_is_promoted(
    start_server: Callable[..., Server], children: Children, tmp_path: Path
) -> None:
    broker = start_server()
    replica = start_server(replica_of=broker)
    write_app(tmp_path, broker.url, TICK, leader_url=replica.url)
    beat = Beat(children, tmp_path)
    line = beat.child.wait_for_line("Election shop:beat:", 30).text
    assert "replica" in line
    assert f"redis://127.0.0.1:{replica.port}/0" in line
    replica.promote()
    beat.child.wait_for_line("Elected leader", 30)
    assert "Traceback" not in beat.child.output


BAD_ENTRIES = """{
    "tick": {"task": "shop.work", "schedule": 0.25, "kwargs": {"entry": "tick"}},
    "unserializable": {"task": "shop.work", "schedule": 0.25, "args": (object(),)},
    "lazy": {"task": "shop.work", "schedule": 0.25, "args": (BeatLazyFunc(no_stock),)},
    "own-class": {"task": "shop.work", "schedule": Moody(0.25)},
}"""
BAD_CODE = """
def no_stock():
    raise RuntimeError("the stock cannot be read")

class Moody(schedule):
    def is_due(self, last_run_at):
        raise RuntimeError("not in the mood")

from celery.beat import BeatLazyFunc
"""


def test_entries_that_fail_are_named_and_the_others_miss_no_run(
    server: Server, children: Children, tmp_path: Path, open_inbox: Callable[[str], Inbox]
) -> None:
    write_app(
        tmp_path, server.url, "{}", more=f"{BAD_CODE}\napp.conf.beat_schedule = {BAD_ENTRIES}"
    )
    inbox = open_inbox(server.url)
    beat = Beat(children, tmp_path)
    sent = inbox.wait_for(12, 30, entry="tick")
    assert gaps(sent, 0.25) == []
    assert len(inbox.sent()) == len(inbox.sent("tick"))
    errors = beat.lines("ERROR")
    for entry, why in (
        ("'unserializable'", "not JSON serializable"),
        ("'lazy'", "the stock cannot be read"),
        ("'own-class'", "not in the mood"),
    ):
        assert any(entry in line and why in line for line in errors), (entry, errors)
    assert not [line for line in errors if "'tick'" in line]
    assert "Traceback" not in beat.child.output


def test_a_second_sigterm_while_the_first_is_served_ends_beat_all_the_same(
    server: Server, children: Children, tmp_path: Path
) -> None:
    write_app(tmp_path, server.url, TICK)
    beat = Beat(children, tmp_path)
    beat.child.wait_for_line("Loaded the ledger", 30)
    beat.child.signal(signal.SIGTERM)
    beat.child.signal(signal.SIGTERM)
    assert beat.child.wait(5) == 0
    wait_until(lambda: server.client().hget(LEASE, "resigned") == "1", 30, "the resignation")
