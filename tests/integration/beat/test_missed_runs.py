"""What is told of runs that were missed: each once, also if the entry is looked at many times."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.integration.beat.driven_leaders import DrivenLeaders, Leader
from tests.support.processes.waiting import wait_until

EVERY = 0.5
TOLD = re.compile(r"Entry '(\w+)': (\d+) missed runs coalesce into one, (\d+) are too late to run")


@pytest.fixture
def leader(stage: DrivenLeaders) -> Leader:
    late = {"options": {"leader": {"max_lateness": 2 * EVERY}}}
    skip = {"options": {"leader": {"missed_runs": "skip"}}}
    several = {"options": {"leader": {"missed_runs": "all", "max_lateness": 2 * EVERY}}}
    entries = {
        "coalesce": stage.entry("coalesce", 0.0, EVERY),
        "late": stage.entry("late", 0.0, EVERY, **late),
        "skip": stage.entry("skip", 0.0, EVERY, **skip),
        "several": stage.entry("several", 0.0, EVERY, **several),
    }
    return stage.leader(stage.app(**entries))


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, int]]:
    """Return entry, coalesced and dropped of each line."""
    found = map(TOLD.fullmatch, (record.getMessage() for record in caplog.records))
    return [(each[1], int(each[2]), int(each[3])) for each in found if each]


def published(stage: DrivenLeaders) -> Counter[str]:
    names = (
        re.search(r"'entry': '(\w+)'", each.headers["kwargsrepr"]) for each in stage.messages()
    )
    return Counter(name[1] for name in names if name)


def moments(stage: DrivenLeaders, entry: str) -> list[int]:
    """Return for which moments messages of an entry were published."""
    sent = [each for each in stage.messages() if f"'{entry}'" in each.headers["kwargsrepr"]]
    return [each.covers[1] for each in sent]


def run_until_all_ran_again(stage: DrivenLeaders, leader: Leader, before: Counter[str]) -> None:
    def have_all() -> bool:
        leader.run_for(0.05)
        now = published(stage)
        return all(now[name] > count for name, count in before.items())

    wait_until(have_all, 30, lambda: f"{before} -> {published(stage)}")


def test_each_missed_run_is_told_once_however_long_a_pause_is(
    stage: DrivenLeaders, leader: Leader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "celery_safe_leader.beat")
    names = list(leader.app.conf.beat_schedule)
    run_until_all_ran_again(stage, leader, Counter(dict.fromkeys(names, 0)))
    before, counts = published(stage), leader.dispatcher._events.counts.missed
    last = {name: moments(stage, name)[-1] for name in names}
    counts.clear()
    caplog.clear()
    assert stage.pause(1)
    leader.run_for(8 * EVERY)
    # Nothing is lost yet of these: when the pause ends, one run stands for all.
    assert "coalesce" not in {name for name, _, _ in told(caplog)}
    assert published(stage) == before
    assert stage.pause(1, resumed=True)
    run_until_all_ran_again(stage, leader, before)
    coalesced, dropped = Counter[str](), Counter[str]()
    for name, together, late in told(caplog):
        coalesced[name] += together
        dropped[name] += late
    for name in names:
        ran = [moment for moment in moments(stage, name) if moment > last[name]]
        passed = round((ran[-1] - last[name]) / (EVERY * 1e6))
        assert passed == len(ran) + coalesced[name] + dropped[name], (name, told(caplog))
    assert coalesced["coalesce"] >= 6
    assert not dropped["coalesce"]
    assert dropped["skip"] >= 6
    assert not coalesced["skip"]
    assert dropped["late"] >= 3
    assert dropped["several"] >= 3
    assert counts["too-late"] == sum(dropped.values())
