"""The whole on the oldest server that is here: Redis 6.2, where its wheel can be installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery.contrib.testing.worker import start_worker

import celery_safe_leader
from tests.support.celery.services import BeatService, shop
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server
from tests.support.servers.kinds import all_kinds


@pytest.mark.parametrize("kind", all_kinds()[-1:])
def test_beats_hand_over_and_a_worker_executes_what_both_send(
    start_server: Callable[..., Server], kind: str, key: str
) -> None:
    server = start_server(kind)
    schedule = {"tick": {"task": "shop.work", "schedule": 0.2, "kwargs": {"entry": "tick"}}}
    apps = [
        shop(server.url, key, schedule, result_backend="cache+memory://", leader_dedup_window=7200)
        for _ in range(2)
    ]
    celery_safe_leader.install(apps[0])

    def ran() -> int:
        return int(worker.stats()["total"].get("shop.work", 0))

    with (
        BeatService(apps[0]) as first,
        start_worker(apps[0], pool="solo", perform_ping_check=False, queues=[key]) as worker,
        BeatService(apps[1]) as second,
    ):
        before = ran()  # by workers of this process
        wait_until(lambda: (first.leads or second.leads) and ran() >= before + 3, 30, "three runs")
        leading, other = (first, second) if first.leads else (second, first)
        leading.close()
        other.wait_leading()
        before = ran()
        wait_until(lambda: ran() >= before + 3, 30, "three more runs")
        counters: dict[str, Any] = worker.stats()["leader_publications"]
    # Each was let in, none twice.
    assert (counters["unchecked"], counters["dropped"]) == (0, 0)
    assert counters["once"] >= 6
