"""Late runs are built while Redis publishes those before them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from celery_safe_leader._dispatch import outbox
from celery_safe_leader._dispatch.outbox import Outbox
from celery_safe_leader._dispatch.rounds import Rounds
from celery_safe_leader._dispatch.ways.publication import Transactional
from celery_safe_leader._ledger import packed_commands
from tests.integration.beat.driven_leaders import TRANSACTIONAL, DrivenLeaders, Queue, ticked
from tests.integration.publishing.collected import needs_batches
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

COUNT = 10
"""Entries that are late."""

pytestmark = [
    needs_batches,
    pytest.mark.parametrize("stage", [TRANSACTIONAL], indirect=True),
]


@pytest.fixture(autouse=True)
def _groups_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_safe_leader._dispatch.rounds._LATE_TOGETHER", 4)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done, in its order: "built", "sent" and "read" (scripts and their first replies)."""
    steps: list[str] = []

    def note(holder: Any, name: str, word: str, *, before: bool = False) -> None:
        call = getattr(holder, name)

        def noting(*args: Any, **more: Any) -> Any:
            if before:
                steps.append(word)
            result = call(*args, **more)
            if not before:
                steps.append(word)
            return result

        monkeypatch.setattr(holder, name, noting)

    note(Outbox, "build_early", "built")
    note(packed_commands, "_join", "sent")
    note(packed_commands, "_reply", "read", before=True)
    return steps


def late(stage: DrivenLeaders, count: int = COUNT) -> dict[str, dict[str, Any]]:
    return {f"e{n}": stage.entry(f"e{n}", -1.0) for n in range(count)}


def once_each(queue: Queue, count: int = COUNT) -> bool:
    sent = Counter(each.headers["kwargsrepr"] for each in queue.sent())
    return sent == {f"{{'entry': 'e{n}'}}": 1 for n in range(count)}


def test_the_next_group_is_built_before_the_reply_is_read(
    stage: DrivenLeaders, queue: Queue, steps: list[str]
) -> None:
    leader = stage.leader(stage.app(warm=stage.entry("warm", -1.0)))
    wait_until(lambda: ticked(leader) and queue.sent("warm"))
    leader.app.conf.beat_schedule.update(late(stage))
    steps.clear()
    leader.run()
    queue.wait_for(1 + COUNT)
    publication = steps[steps.index("built") :]
    assert "".join(step[0] for step in publication[: 4 + 1 + 4 + 1]) == "bbbbsbbbbr"
    assert "sbbr" in "".join(step[0] for step in publication)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_is_raised_meanwhile_costs_no_run_and_doubles_none(
    stage: DrivenLeaders,
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    build, built = Rounds._build_due, []

    def fail(self: Rounds) -> Any:
        found = build(self)
        built.append(found)
        if len(built) == 3:
            self._waiting.clear()  # as if it had not come so far
            raise error
        return found

    monkeypatch.setattr(Rounds, "_build_due", fail)
    leader = stage.leader(stage.app(**late(stage)))
    raised = []

    def goes_on() -> bool:
        try:
            leader.run()
        except error:
            raised.append(error)
            leader.dispatcher.start_over()
        return once_each(queue)

    wait_until(goes_on)
    leader.run_for(0.2)
    assert once_each(queue)
    assert raised == [error]
    assert stage.pending() == set()


def test_what_is_built_before_an_outage_counts_from_its_publication(
    stage: DrivenLeaders,
    queue: Queue,
    start_proxy: Callable[[Server], Proxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both what had no reply, and what was built, and its command made, while that was awaited."""
    kept_back = 0.05
    monkeypatch.setattr(outbox, "_KEPT_BACK_US", kept_back * 1e6)
    proxy = start_proxy(stage.server)
    stage.ledger = proxy.url()
    leader = stage.leader(stage.app(warm=stage.entry("warm", -1.0)))
    wait_until(lambda: ticked(leader) and queue.sent("warm"))
    options = {"options": {"expires": 60}}
    leader.app.conf.beat_schedule.update(
        {name: entry | options for name, entry in late(stage).items()}
    )
    publish, is_first = Transactional.publish, iter([True])

    def publish_into_nothing(self: Transactional, runs: Any, may_write: Any) -> None:
        if next(is_first, False):
            proxy.black_hole()
        publish(self, runs, may_write)

    monkeypatch.setattr(Transactional, "publish", publish_into_nothing)
    wait_until(lambda: (leader.run(), leader.is_unanswered())[1])
    assert len(leader.built()) == 4
    again = time.time()
    proxy.heal()
    wait_until(lambda: ticked(leader) and len(queue.sent()) >= 1 + COUNT)
    for name in late(stage):
        [sent] = queue.sent(f"{name}'")
        expires = datetime.fromisoformat(sent.headers["expires"]).timestamp()
        assert expires >= again + options["options"]["expires"] - kept_back
