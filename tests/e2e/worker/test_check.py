"""A leader-only task that begins just before leadership ends notices it at once."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from celery import Celery

from tests.support.celery.workers import Worker, leader_of, write_worker_app
from tests.support.network.proxy import Proxy
from tests.support.processes import Children, wait_until
from tests.support.servers import Server

TASKS = """
import json

from celery_safe_leader import LeadershipLostError, current_leadership, leader_only

now = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)

@app.task(name="looks")
@leader_only
def looks():
    leadership = current_leadership()
    store.rpush("began", leadership.token)
    highest = well = 0.0
    while True:
        before, remaining = now(), leadership.remaining()
        asked = now()
        try:
            leadership.check()
        except LeadershipLostError:
            raised = now()
            break
        # A little early, since the clock was read before; the latest is the closest.
        highest, well = max(highest, before + remaining), asked
        time.sleep(0.001)
    seen = [highest, well, raised, leadership.lost.is_set(), leadership.remaining()]
    store.rpush("seen", json.dumps(seen))
"""
OTHERS = ("threads", "solo", "gevent")
POOLS = ["prefork", *[pytest.param(pool, marks=pytest.mark.long) for pool in OTHERS]]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("pool", POOLS)
def test_check_raises_from_the_deadline_on_and_not_before(
    pool: str,
    children: Children,
    tmp_path: Path,
    valkey_server: Server,
    measured: Callable[[str], None],
) -> None:
    """How soon after it is measured by ``make bench``."""
    with Proxy(valkey_server.port) as link, redis.Redis.from_url(valkey_server.url) as store:
        name = uuid.uuid4().hex[:8]
        write_worker_app(
            tmp_path,
            valkey_server.url,
            valkey_server.url,
            more=TASKS,
            leader_url=link.url(),
            leader_queue=f"{name}.leader.shop",
        )
        worker = Worker(children, tmp_path, "-P", pool, "-c", "6", name=name)
        leader_of([worker])
        with Celery(broker=valkey_server.url, set_as_current=False) as producer:
            queue = f"{name}.leader.shop"
            # The first delivery may take a second: so long does the transport wait on the others.
            producer.send_task("plain", queue=queue)
            wait_until(lambda: store.llen("plain"), 30, "the queue to be consumed")
            link.black_hole()
            # Some begin early, some late, and the last ones perhaps too late.
            for _ in range(6):
                producer.send_task("looks", queue=queue)
                time.sleep(0.1)
        worker.child.wait_for_line("Demoted")
        wait_until(
            lambda: store.llen("seen") == store.llen("began") > 0, 30, lambda: worker.child.output
        )
        seen = [json.loads(mark) for mark in store.lrange("seen", 0, -1)]
    # All saw one deadline, since nothing was renewed; those that looked often came closest to it.
    deadline = max(highest for highest, *_ in seen)
    assert deadline > 0
    for _, well, raised, lost, remaining in seen:
        assert raised >= deadline - 0.001
        # Asked after the deadline, it never answered that all is well.
        assert well <= deadline + 0.001
        assert lost
        assert remaining == 0
    late = sorted(1000 * (raised - deadline) for _, _, raised, *_ in seen)
    measured(f"check() in {pool}: raised {late[0]:.1f} to {late[-1]:.1f} ms after the deadline")
