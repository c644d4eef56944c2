"""What is told of runs that were missed: each once, also if the entry is looked at many times."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from celery_safe_leader._ledger.codec import decode_run
from celery_safe_leader._publishing.declarations import Declarations
from tests.integration.beat.driven_leaders import (
    WRITE_AHEAD,
    DrivenLeaders,
    Leader,
)
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

EVERY = 0.5
POLICIES: dict[str, dict[str, Any]] = {
    "coalesce": {},
    "late": {"max_lateness": 3 * EVERY},
    "skip": {"missed_runs": "skip"},
    "several": {"missed_runs": "all", "max_lateness": 3 * EVERY},
    "limited": {"missed_runs": "all", "limit": 2},
}
TOLD = re.compile(r"Entry '(\w+)': (\d+) missed runs coalesce into one, (\d+) are too late to run")


def with_policies(stage: DrivenLeaders, due_in: float = 0.0) -> Leader:
    entries = {
        name: stage.entry(name, due_in, EVERY, options={"leader": dict(own)})
        for name, own in POLICIES.items()
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
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "celery_safe_leader.beat")
    leader = with_policies(stage)
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


class Account:
    """What is said of the runs of one leader, and what became of them."""

    def __init__(
        self,
        leader: Leader,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self._leader, self._stage, self._caplog = leader, leader._stage, caplog
        self.missed: Counter[tuple[str, str]] = Counter()
        """Entry and reason -> how many runs `run_missed` told of."""
        caplog.set_level("INFO", "celery_safe_leader.beat")
        events = leader.dispatcher._events
        tell = events.missed

        def missed(entry: str, token: int, count: int, reason: str) -> None:
            self.missed[entry, reason] += count
            tell(entry, token, count, reason)

        monkeypatch.setattr(events, "missed", missed)

    def of(self, entry: str, reason: str = "") -> int:
        """Return how many runs of an entry were missed, by all reasons or one."""
        each = self.missed.items()
        return sum(n for (name, why), n in each if name == entry and reason in ("", why))

    def coalesced(self, entry: str) -> int:
        """Return of how many runs of an entry it was said that another one stands for them."""
        return sum(together for name, together, _ in told(self._caplog) if name == entry)

    def assert_even(self, *, over: int = 0) -> None:
        """Check that each moment up to an entry's last run was published, or told of once.

        Args:
            over: How many may have been both.
        """
        wait_until(lambda: (self._leader.run(), not self._stage.pending())[1], 30)
        self._leader.dispatcher.finish()
        sent = published(self._stage)
        for name, entry in self._leader.app.conf.beat_schedule.items():
            start = entry["last_run_at"].timestamp() * 1e6
            last = decode_run(self._stage.runs()[name]).moment
            passed = round((last - start) / (EVERY * 1e6))
            accounted = sent[name], self.coalesced(name), self.of(name)
            said = (name, passed, accounted, told(self._caplog), self.missed)
            assert passed <= sum(accounted) <= passed + over, said
        assert self._leader.dispatcher._events.counts.missed.total() == self.missed.total()


def run_on(stage: DrivenLeaders, leader: Leader, name: str) -> None:
    """Go on until an entry has run a few times more."""
    enough = len(moments(stage, name)) + 3
    wait_until(lambda: (leader.run(), len(moments(stage, name)) >= enough)[1], 30)


def test_what_a_claimed_run_stands_for_is_told_though_the_broker_was_away(
    quick_server: Server,
    key: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = DrivenLeaders(quick_server, key, WRITE_AHEAD)
    leader = with_policies(stage, -6 * EVERY)
    account = Account(leader, caplog, monkeypatch)
    away = True

    def ensure(*_: object) -> None:
        if away:
            raise ConnectionResetError("gone")

    monkeypatch.setattr("celery_safe_leader._publishing.sender.supports_batches", lambda _: False)
    monkeypatch.setattr(Declarations, "ensure", ensure)
    try:
        wait_until(lambda: (leader.run(), set(POLICIES) <= stage.pending())[1], 30)
        # Whoever settles the claims could not tell of it any more.
        assert account.coalesced("coalesce") >= 6
        assert account.of("skip", "too-late") >= 6
        leader.run_for(2 * EVERY)
        away = False
        run_on(stage, leader, "coalesce")
        account.assert_even()
    finally:
        for close in stage.closing:
            close()


@pytest.mark.parametrize("reason", ["given-up", "expired"])
def test_a_run_that_is_given_up_in_a_pause_counts_once(
    stage: DrivenLeaders,
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = {"args": (object(),)} if reason == "given-up" else {"options": {"expires": -5}}
    entries = {"bad": stage.entry("bad", 0.0, EVERY, **more), "a": stage.entry("a", 0.0, EVERY)}
    leader = stage.leader(stage.app(**entries))
    account = Account(leader, caplog, monkeypatch)
    run_on(stage, leader, "a")
    assert account.of("bad", reason) >= 2
    assert stage.pause(1)
    leader.run_for(0.1)
    before = account.of("bad", reason)
    leader.run_for(6 * EVERY)
    assert account.of("bad", reason) == before
    assert stage.pause(1, resumed=True)
    run_on(stage, leader, "a")
    account.assert_even()
    assert account.coalesced("bad") >= 4
    said = leader.dispatcher.summary(0)
    counted, other = ("given_up", "missed") if reason == "given-up" else ("missed", "given_up")
    assert (said[counted], said[other]) == (account.of("bad", reason), 0)


@pytest.mark.parametrize("then", ["repeated", "refused", "executed, then refused"])
def test_runs_without_a_reply_add_up_with_what_they_stand_for(
    stage_by_proxy: DrivenLeaders,
    proxy: Proxy,
    then: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, leader = stage_by_proxy, with_policies(stage_by_proxy)
    account = Account(leader, caplog, monkeypatch)
    run_on(stage, leader, "coalesce")
    assert stage.pause(1)
    leader.run_for(3 * EVERY)
    assert stage.pause(1, resumed=True)
    if then.startswith("executed"):
        proxy.cut_after_request(b"coalesce")
    else:
        proxy.black_hole()
    wait_until(lambda: (leader.run(), leader.is_unanswered())[1])
    if then.endswith("refused"):
        # Nobody knows then what became of them: the ledger says so when it is read again.
        stage.client.config_set("maxmemory", 1)
        proxy.heal()
        leader.run_for(0.5)
        stage.client.config_set("maxmemory", 0)
    proxy.heal()
    run_on(stage, leader, "coalesce")
    account.assert_even()
    assert account.coalesced("coalesce") >= 2


def test_a_run_without_a_reply_that_is_too_late_is_missed_for_one_reason(
    stage_by_proxy: DrivenLeaders,
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = stage_by_proxy
    strict = stage.entry("strict", 0.0, EVERY, options={"leader": {"max_lateness": EVERY}})
    leader = stage.leader(stage.app(strict=strict, a=stage.entry("a", 0.0, EVERY)))
    account = Account(leader, caplog, monkeypatch)
    run_on(stage, leader, "a")
    proxy.black_hole()
    wait_until(lambda: (leader.run(), leader.is_unanswered())[1])
    leader.run_for(2 * EVERY)
    stage.client.config_set("maxmemory", 1)
    proxy.heal()
    leader.run_for(0.5)
    stage.client.config_set("maxmemory", 0)
    run_on(stage, leader, "a")
    account.assert_even()
    assert leader.dispatcher.summary(0)["missed"] == account.missed.total()


def test_what_was_told_as_too_late_is_not_told_again_by_another_policy(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = stage.entry("a", 0.0, EVERY)
    leader = stage.leader(stage.app(a=entry))
    account = Account(leader, caplog, monkeypatch)
    run_on(stage, leader, "a")
    assert stage.pause(1)
    leader.scheduler._roster.entries["a"].max_lateness_us = 0
    wait_until(lambda: (leader.run(), account.of("a") >= 4)[1], 30)
    leader.scheduler.update_from_dict({"a": {**entry, "kwargs": {"entry": "a", "more": 1}}})
    assert stage.pause(1, resumed=True)
    run_on(stage, leader, "a")
    # An entry is looked at a little early: also of the run that stands for all, and of the next,
    # it may have been said before that they are too late.
    account.assert_even(over=2)
