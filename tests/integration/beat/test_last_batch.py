"""A leader that is about to end finishes the batch under way, and begins no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.beat.driven_leaders import WRITE_AHEAD, DrivenLeaders, Queue
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server


@pytest.fixture
def stage(quick_server: Server, key: str) -> Iterator[DrivenLeaders]:
    stage = DrivenLeaders(quick_server, key, WRITE_AHEAD)
    yield stage
    for close in reversed(stage.closing):
        close()


def test_what_is_claimed_when_it_is_told_to_end_is_published_and_committed(
    stage: DrivenLeaders, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(stage.broker, key)
    stage.closing.append(queue.close)
    names = [f"due-{number}" for number in range(5)]
    one = stage.entry("due", 0.1)  # all are due at the same moment, and go out together
    due = {name: {**one, "kwargs": {"entry": name}} for name in names}
    leader = stage.leader(stage.app(**due))
    write = leader.dispatcher._ledger.write

    def write_and_end(commits: Any, claims: Any, **options: Any) -> Any:
        written = write(commits, claims, **options)
        if claims:
            leader.is_ending = lambda: True
        return written

    monkeypatch.setattr(leader.dispatcher._ledger, "write", write_and_end)
    wait_until(lambda: (leader.run(), leader.is_ending())[1], 30)
    leader.dispatcher.finish()
    assert stage.pending() == set()
    assert sorted(sent.headers["kwargsrepr"] for sent in queue.wait_for(5)) == [
        f"{{'entry': '{name}'}}" for name in names
    ]


def test_no_batch_begins_when_it_is_about_to_end(stage: DrivenLeaders, key: str) -> None:
    leader = stage.leader(stage.app(due=stage.entry("due", -1.0)))
    leader.is_ending = lambda: True
    for _ in range(3):
        leader.run()
    assert stage.pending() == set()
    assert stage.messages() == []
    leader.is_ending = lambda: False
    wait_until(lambda: (leader.run(), stage.messages())[1], 30)
