"""``leader resign`` with real beats, workers and ``worker -B``: only the leader acts, and soon."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._core.leader_request import ResignRequest, encode_request
from celery_safe_leader._runtime.clock import host_in_ids
from celery_safe_leader._store.keys import ElectionKeys
from tests.integration.operations.commands import Found, invoke
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.celery.embedded import Crew
from tests.support.celery.workers import Worker, write_worker_app
from tests.support.processes import Children, wait_until
from tests.support.servers import Server

SCHEDULE = '{"tick": {"task": "shop.work", "schedule": 0.2}}'
HOST = host_in_ids()
TTL, WAIT = 30.0, 0.4
"""The lease outlasts every test: what happens within it was asked for."""

MIXED = """
from celery.beat import Scheduler
from celery_safe_leader.schedulers import LeaderSchedulerMixin

class Mixed(LeaderSchedulerMixin, Scheduler):
    pass
"""


class ResignStage:
    """Beats in an election whose leases are long."""

    def __init__(self, children: Children, folder: Path, server: Server, scheduler: str) -> None:
        self.server = server
        self._children, self._folder, self._scheduler = children, folder, scheduler
        leave_resigned(server.url, "shop", "beat")
        settings = {"leader_ttl": TTL, "leader_wait": WAIT}
        write_app(folder, server.url, SCHEDULE, more=MIXED, **settings)
        self.beats: list[Beat] = []

    def start(self) -> Beat:
        name = f"beat {len(self.beats) + 1}"
        beat = Beat(self._children, self._folder, name=name, scheduler=self._scheduler)
        self.beats.append(beat)
        return beat

    def start_two(self) -> tuple[Beat, Beat]:
        first = self.start()
        leader_of(lambda: [first], 60)
        second = self.start()
        second.wait_standing_by()
        self.wait_for_more()
        return first, second

    def queued(self) -> int:
        client: Any = self.server.client()
        return int(client.llen("celery"))

    def wait_for_more(self) -> None:
        before = self.queued()
        wait_until(lambda: self.queued() > before, 60, self.said)

    def said(self) -> str:
        return "\n".join(f"{beat.name}:\n{beat.child.output}" for beat in self.beats)

    def resign(self, *words: str) -> Found:
        return invoke(self.server.url, "shop", "resign", "--by", "ann", *words)


MakeStage = Callable[..., ResignStage]


@pytest.fixture
def make_stage(children: Children, tmp_path: Path, valkey_server: Server) -> MakeStage:
    def make(scheduler: str = "celery_safe_leader.LeaderScheduler") -> ResignStage:
        return ResignStage(children, tmp_path, valkey_server, scheduler)

    return make


@pytest.mark.parametrize(
    "scheduler", ["celery_safe_leader.LeaderScheduler", "app:Mixed"], ids=["ours", "mixin"]
)
def test_another_beat_leads_within_the_lease(make_stage: MakeStage, scheduler: str) -> None:
    stage = make_stage(scheduler)
    first, second = stage.start_two()
    found = stage.resign("--json")
    assert found.code == 0, found.output
    told = found.json
    assert (told["role"], told["token"]) == ("beat", first.tenures[0].token)
    assert f":{first.pid}:" in told["resigned"]
    assert f":{second.pid}:" in told["elected"]
    assert told["answered_after"] <= told["elected_after"]
    assert leader_of(lambda: stage.beats, 60, other_than=first) is second
    assert told["new_token"] == second.tenures[-1].token
    stage.wait_for_more()
    assert first.child.running
    history: Any = stage.server.client().xrange(ElectionKeys("shop", "beat").history)
    assert ("resigned", "requested by ann") in [
        (fields["event"], fields["reason"]) for _, fields in history
    ]
    # It takes part again, and lets others go first for a moment only.
    wait_until(lambda: f":{first.pid}:" in stage.resign("--json").json["elected"], 60, stage.said)
    assert "Traceback" not in stage.said()


def test_a_beat_that_is_alone_leads_again(make_stage: MakeStage) -> None:
    stage = make_stage()
    only = stage.start()
    leader_of(lambda: [only], 60)
    found = stage.resign()
    assert found.code == 0, found.output
    assert "Nobody else stands by: it was elected again" in found.output
    stage.wait_for_more()


def test_the_one_that_is_named_leads_next_unless_it_stands_still(make_stage: MakeStage) -> None:
    stage = make_stage()
    first, second = stage.start_two()
    third = stage.start()
    third.wait_standing_by()
    for target in (third, second, third):
        found = stage.resign("--to", f"{HOST}:{target.pid}", "--json")
        assert found.code == 0, found.output
        assert f":{target.pid}:" in found.json["elected"]
        assert found.json["elected"] == found.json["asked_for"]
    wait_until(lambda: third.leads, 60, stage.said)
    again = stage.resign("--to", f"{HOST}:{third.pid}:")
    assert (again.code, "holds the lease already" in again.output) == (0, True)
    # It was seen not long ago, and is dead by now: the others wait for it only once.
    second.child.pause()
    found = stage.resign("--to", f"{HOST}:{second.pid}")
    second.child.resume()
    assert found.code == 1, found.output
    assert "was asked for and did not take over" in found.output
    wait_until(lambda: first.leads or third.leads, 60, stage.said)
    stage.wait_for_more()
    assert "Traceback" not in stage.said()


def test_two_that_ask_at_once_end_one_tenure(make_stage: MakeStage) -> None:
    stage = make_stage()
    first, second = stage.start_two()
    keys = ElectionKeys("shop", "beat")
    request = encode_request(ResignRequest(first.tenures[0].token, 2**52, "ann"))
    client = stage.server.client()
    client.rpush(keys.ask, request, request)
    wait_until(lambda: second.leads, 60, stage.said)
    wait_until(lambda: client.llen(keys.ask) == 0, 60, stage.said)
    stage.wait_for_more()
    assert "Traceback" not in stage.said()
    assert [len(beat.tenures) for beat in stage.beats] == [1, 1], stage.said()


def test_a_leader_that_stands_still_does_not_answer_and_does_not_act_later(
    make_stage: MakeStage,
) -> None:
    stage = make_stage()
    first, _ = stage.start_two()
    token = first.tenures[0].token
    first.child.pause()
    found = stage.resign()
    first.child.resume()
    assert found.code == 2
    assert "did not act on it within 5 s" in found.output
    assert "Nothing was changed" in found.output
    wait_until(lambda: first.lines("a request came too late; ignored"), 60, stage.said)
    stage.wait_for_more()
    assert [tenure.token for tenure in first.tenures] == [token]


def test_what_means_another_tenure_or_nothing_is_ignored(make_stage: MakeStage) -> None:
    stage = make_stage()
    only = stage.start()
    leader_of(lambda: [only], 60)
    token = only.tenures[0].token
    client, keys = stage.server.client(), ElectionKeys("shop", "beat")
    values: list[Any] = [
        encode_request(ResignRequest(token - 1, 2**52, "ann")),
        b"\xff\x00garbage",
        b'{"ask": "dance", "token": 1}',
        b"[" * 100_000,
        b'{"ask": "resign", "token": "1", "expires": 9, "by": "a"}',
    ]
    for value in values:
        client.rpush(keys.ask, value)
    wait_until(lambda: client.llen(keys.ask) == 0, 60, stage.said)
    stage.wait_for_more()
    assert [tenure.token for tenure in only.tenures] == [token]
    assert len(only.lines("a request means another tenure; ignored")) == 1
    assert len(only.lines("a request to the leader cannot be read")) >= 1
    assert "Traceback" not in stage.said()


def test_nobody_can_resign_where_nobody_leads(make_stage: MakeStage) -> None:
    stage = make_stage()
    found = stage.resign()
    assert found.code == 1
    assert "nobody leads shop, so nobody can resign" in found.output
    assert stage.server.client().llen(ElectionKeys("shop", "beat").ask) == 0


def test_a_worker_hands_over_to_another(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    leave_resigned(valkey_server.url, "shop", "worker")
    url = valkey_server.url
    write_worker_app(tmp_path, url, url, leader_ttl=TTL, leader_wait=WAIT, worker_pool="solo")
    first = Worker(children, tmp_path, name="first")
    wait_until(lambda: first.leads, 60, lambda: first.child.output)
    second = Worker(children, tmp_path, name="second")
    second.child.wait_for_line("Standing by for", 60)
    found = invoke(url, "shop", "resign", "--by", "ann")
    assert found.code == 1
    assert "resign --role worker`. Nothing was asked" in found.output
    found = invoke(url, "shop", "resign", "--by", "ann", "--role", "worker")
    assert found.code == 0, found.output
    assert found.output.startswith("worker ")
    assert "was elected after" in found.output
    wait_until(lambda: second.consumes and second.leads, 60, lambda: second.child.output)
    wait_until(lambda: not first.consumes, 60, lambda: first.child.output)
    assert first.child.running

    def back() -> bool:
        found = invoke(url, "shop", "resign", "--role", "worker", "--json")
        assert found.code == 0, found.output
        return f":{first.pid}:" in found.json["elected"]

    # For a moment it let the other one go first.
    wait_until(back, 60, lambda: first.child.output)
    wait_until(lambda: first.consumes and first.leads, 60, lambda: first.child.output)


def test_a_worker_with_a_beat_hands_over_with_its_beat(
    tmp_path: Path, valkey_server: Server
) -> None:
    leave_resigned(valkey_server.url, "shop", "worker")
    with Crew(tmp_path, valkey_server.url, {"tick": 0.5}, leader_ttl=TTL, leader_wait=WAIT) as crew:
        crew.start_crew(2)
        first = crew.dispatching(60)
        before = crew.token()
        found = invoke(valkey_server.url, "shop", "resign")
        assert found.code == 0, found.output
        crew.dispatching(60, other_than=[first])
        crew.wait_run(time.time(), other_than=before, timeout=60)
