"""What `expires` and `countdown` count from, and runs that would go out expired."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from celery_safe_leader._dispatch.outcomes import Failed
from tests.integration.beat.driven_leaders import (
    DrivenLeaders,
    Leader,
    Queue,
    Sent,
    ticked,
)
from tests.support.celery.stock_beat import stock_messages
from tests.support.processes.waiting import PATIENCE, wait_until

LONG = 1800.0


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "celery_safe_leader.beat")


def the_run(leader: Leader, queue: Queue, name: str = "run") -> Sent:
    wait_until(lambda: ticked(leader) and queue.sent(name), PATIENCE)
    [sent] = queue.sent(name)
    return sent


def of(sent: Sent, header: str) -> float:
    """Return a time of a message in seconds after the due moment of its run."""
    when = datetime.fromisoformat(sent.headers[header])
    return when.timestamp() - sent.covers[1] / 1e6


@pytest.mark.parametrize("kind", ["composed", "called"])
def test_a_late_run_has_as_long_as_one_that_is_on_time(
    stage: DrivenLeaders, queue: Queue, kind: str
) -> None:
    """It was due half an hour ago, and expires after a minute."""
    more = {"eta": None} if kind == "composed" else {"unknown_option": 1}
    options = {"expires": 60, "countdown": 30, **({} if kind == "composed" else more)}
    run = stage.entry("run", -LONG, options=options)
    before = time.time()
    [by_stock] = stock_messages({"run": run}, 1)
    sent = the_run(stage.leader(stage.app(run=run)), queue)
    for headers in (by_stock["headers"], sent.headers):
        expires, eta = (datetime.fromisoformat(headers[each]) for each in ("expires", "eta"))
        assert expires.timestamp() >= before + 60
        assert (expires - eta).total_seconds() == pytest.approx(30, abs=1)


def test_counted_from_its_moment_a_late_run_is_missed_and_named(
    stage: DrivenLeaders, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"expires": 60, "leader": {"expires_from": "due"}}
    late = {"late": stage.entry("late", -LONG, options=options)}
    soon = {"soon": stage.entry("soon", 0.2, options={**options, "countdown": 5})}
    leader = stage.leader(stage.app(**late, **soon))
    sent = the_run(leader, queue, "soon")
    assert of(sent, "expires") == pytest.approx(60, abs=0.001)
    wait_until(lambda: ticked(leader) and "'late'" in caplog.text, PATIENCE)
    assert queue.sent("late") == []
    [text] = [r.getMessage() for r in caplog.records if "'late'" in r.getMessage()]
    assert text.startswith("periodic task 'late' (shop.work) is missed: it expired 17")
    assert "before it could be published. Nobody would run it; the entry continues" in text
    # It is recorded, and nothing is owed.
    assert stage.pending() == set()
    last = leader.scheduler._roster.entries["late"].last_run
    assert last is not None
    assert last.count == 1


def test_the_setting_counts_where_the_entry_says_nothing(
    stage: DrivenLeaders, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    app = stage.app(
        late=stage.entry("late", -LONG, options={"expires": 60}),
        own=stage.entry(
            "own", -LONG, options={"expires": 60, "leader": {"expires_from": "publication"}}
        ),
    )
    app.conf.leader_expires_from = "due"
    leader = stage.leader(app)
    the_run(leader, queue, "own")
    wait_until(lambda: ticked(leader) and "'late' (shop.work) is missed" in caplog.text, PATIENCE)
    assert queue.sent("late") == []


@pytest.mark.parametrize("expires", [0, -5, datetime(2026, 1, 1, tzinfo=timezone.utc)], ids=str)
def test_what_is_expired_however_it_counts_is_missed(
    stage: DrivenLeaders, queue: Queue, expires: Any, caplog: pytest.LogCaptureFixture
) -> None:
    old = {"run": stage.entry("run", 0.1, options={"expires": expires})}
    leader = stage.leader(stage.app(**old, tick=stage.entry("tick", 0.3)))
    the_run(leader, queue, "tick")
    assert queue.sent("run") == []
    assert "periodic task 'run' (shop.work) is missed" in caplog.text


def test_a_claimed_run_counts_from_the_attempt_that_arrives(
    stage: DrivenLeaders, queue: Queue
) -> None:
    app = stage.app(run=stage.entry("run", 3600.0, 4 * 3600.0, options={"expires": 60}))
    first = stage.leader(app)
    first.run()
    # Claimed by a leader that died; whoever settles it publishes it a little later.
    stage.claim("run", -LONG)
    before = time.time()
    sent = the_run(
        stage.leader(
            stage.app(run=stage.entry("run", 3600.0, 4 * 3600.0, options={"expires": 60}))
        ),
        queue,
    )
    assert of(sent, "expires") + sent.covers[1] / 1e6 >= before + 60


def test_what_is_composed_again_after_an_outage_counts_anew(
    stage: DrivenLeaders, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same message is given to the broker twice, the second time a second later."""
    app = stage.app(run=stage.entry("run", 0.1, options={"expires": 60}))
    leader = stage.leader(app)
    publisher = leader.dispatcher._publisher
    fails = [True]
    for method in ("collect", "publish"):
        original = getattr(publisher, method)

        def fussy(batch: Any, *args: Any, original: Any = original) -> Any:
            if fails and batch:
                return [Failed(OSError("away"), reached=False)] * len(batch)
            return original(batch, *args)

        monkeypatch.setattr(publisher, method, fussy)
    due = time.time() + 0.1
    wait_until(lambda: ticked(leader) and time.time() > due + 1.0, PATIENCE)
    fails.clear()
    sent = the_run(leader, queue)
    assert of(sent, "expires") >= 60.9
    assert timedelta(seconds=of(sent, "expires")) < timedelta(seconds=60 + PATIENCE)
