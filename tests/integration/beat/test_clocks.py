"""Wall clocks that are set, on a leader, on Redis, on both."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from celery_safe_leader._beat.election_history import somebody_led_well
from celery_safe_leader._dispatch.health.clock_watch import ClockOffError
from celery_safe_leader._ledger.codec import decode_run
from celery_safe_leader._schedules import moments
from celery_safe_leader._store.keys import ElectionKeys
from tests.integration.beat.driven_leaders import (
    TRANSACTIONAL,
    WRITE_AHEAD,
    DrivenLeaders,
    Queue,
)
from tests.support.celery.inbox import Inbox, gaps
from tests.support.celery.services import BeatService, shop
from tests.support.processes.waiting import PATIENCE, wait_until
from tests.support.servers import Server

STEP = 0.2
TICK = {"task": "shop.work", "schedule": STEP, "kwargs": {"entry": "tick"}}


class WallClock:
    """The pipeline's wall clock: by so many seconds ahead of the real one."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time_ns(self) -> int:
        return time.time_ns() + round(self.ahead * 1e9)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    wall = WallClock()
    monkeypatch.setattr(moments, "time", wall)
    return wall


@pytest.fixture(params=[TRANSACTIONAL, WRITE_AHEAD])
def stage(
    quick_server: Server, key: str, request: pytest.FixtureRequest
) -> Iterator[DrivenLeaders]:
    stage = DrivenLeaders(quick_server, key, request.param)
    yield stage
    for close in stage.closing:
        close()


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "celery_safe_leader.beat")


@pytest.mark.parametrize("step", [-3600.0, -30.0, 20.0, 3600.0])
def test_a_clock_that_is_set_far_off_ends_the_leaders_work_and_writes_no_moment(
    stage: DrivenLeaders, wall: WallClock, step: float
) -> None:
    leader = stage.leader(stage.app(rare=stage.entry("rare", 1800.0, every=86_400.0)))
    leader.run()
    before = stage.runs()
    wall.ahead = step
    for _ in range(2):  # nothing is due by it, or much
        with pytest.raises(ClockOffError) as raised:
            leader.run()
        assert raised.value.offset == pytest.approx(step, abs=2.0)
    assert stage.runs() == before
    assert stage.messages() == []
    wall.ahead = 0.0
    leader.run()


def test_a_leader_that_begins_with_a_wrong_clock_enrols_nothing(
    stage: DrivenLeaders, wall: WallClock
) -> None:
    wall.ahead = -3600.0
    leader = stage.leader(stage.app(new={"task": "shop.work", "schedule": 60.0}))
    with pytest.raises(ClockOffError):
        leader.run()
    assert stage.runs() == {}


def test_a_small_step_is_followed(
    stage: DrivenLeaders, wall: WallClock, caplog: pytest.LogCaptureFixture
) -> None:
    leader = stage.leader(stage.app(soon=stage.entry("soon", 3.0)))
    leader.run()
    wall.ahead = 4.0
    wait_until(lambda: (leader.run(), len(stage.messages()) == 1)[1], PATIENCE)
    assert caplog.text.count("This machine's wall clock was set") == 1


@pytest.mark.parametrize("claimed", [False, True])
def test_what_a_beat_with_a_wrong_clock_ran_and_claimed_an_hour_ahead_is_brought_back(
    stage: DrivenLeaders, key: str, claimed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(stage.broker, key)
    stage.closing.append(queue.close)
    app = stage.app(often=stage.entry("often", 0.5, every=1.0))
    stage.leader(app).run()
    if claimed:
        stage.claim("often", 3600.0)
    else:
        name, raw = "often", stage.runs()["often"]
        moment = decode_run(raw).moment
        ahead = raw.replace(str(moment).encode(), str(moment + 3600 * 1_000_000).encode(), 1)
        stage.client.hset(stage.names.runs, name, ahead)
    leader = stage.leader(app)
    leader.run_for(2.5)
    assert len(queue.wait_for(1)) >= 1
    assert stage.pending() == set()
    said = "The claim is taken back" if claimed else "It continues from now"
    assert caplog.text.count(said) == 1
    assert abs(decode_run(stage.runs()["often"]).moment / 1e6 - time.time()) < 5.0


@pytest.mark.parametrize("way", [TRANSACTIONAL, WRITE_AHEAD])
@pytest.mark.parametrize("step", [-20.0, 20.0])
def test_if_there_is_nobody_better_a_beat_goes_on_by_its_own_clock(
    quick_server: Server,
    key: str,
    wall: WallClock,
    step: float,
    way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = quick_server.url
    broker = url if way == TRANSACTIONAL else url.removesuffix("/0") + "/1"
    wall.ahead = step  # as if Redis's were off the other way
    apps = [shop(broker, key, {"tick": TICK}, leader_url=url) for _ in range(2)]
    with Inbox(broker, queue=key) as inbox, BeatService(apps[0]), BeatService(apps[1]):
        inbox.wait_for(5)
        assert "no other beat does better" in caplog.text
        inbox.wait_for(10, since=time.monotonic())
        raw: Any = quick_server.client().xrange(ElectionKeys(key, "beat").history)
        reasons = [fields["reason"] for _, fields in raw if fields["event"] == "resigned"]
        assert set(reasons) == {"stood_down:clock"}
        assert len(reasons) <= 2  # each at most once: it does not flap
    assert gaps(inbox.sent(), STEP) == []


def test_who_led_well_is_read_from_the_history(quick_server: Server, key: str) -> None:
    client: Any = quick_server.client(decode_responses=False)
    history = ElectionKeys(key, "beat").history

    def tell(event: str, holder: str, token: int, reason: str = "") -> None:
        client.xadd(history, {"event": event, "holder": holder, "token": token, "reason": reason})

    def better() -> bool:
        return somebody_led_well(client, history, "me", 5)

    assert not better()
    tell("elected", "other", 4)
    tell("elected", "me", 5)
    tell("resigned", "me", 5, "stood_down:clock")
    assert not better()
    tell("elected", "other", 6)
    assert better()
    tell("resigned", "other", 6, "stood_down:clock")
    assert not better()
    tell("elected", "me", 7)
    assert not better()
    tell("elected", "third", 8)
    tell("resigned", "third", 8, "resigned")
    assert better()
    client.delete(history)
    client.set(history, "not a stream")
    assert not better()
    client.delete(history)


def test_a_known_offset_that_is_mended_leaves_nothing_in_the_future(
    stage: DrivenLeaders, wall: WallClock
) -> None:
    wall.ahead = 20.0
    leader = stage.leader(stage.app(often={"task": "shop.work", "schedule": 0.5}))
    leader.dispatcher._watch.accept(20.0)
    wait_until(lambda: (leader.run(), stage.messages())[1], PATIENCE)
    wall.ahead = 0.0
    sent = len(stage.messages())
    wait_until(lambda: (leader.run(), len(stage.messages()) > sent + 1)[1], 10.0)
    assert leader.dispatcher._watch.known == 0
