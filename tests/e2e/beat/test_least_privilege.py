"""Beats and workers as a Redis user that has exactly the printed rights, with INFO and without."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from kombu.messaging import Producer

from celery_safe_leader._publishing.broker_settings import QueueKeys
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.celery.periodic_workers import Workers
from tests.support.processes import Children, wait_until
from tests.support.servers import Server
from tests.support.servers.rights import denials, printed, user_with

SCHEDULE = '{"tick": {"task": "shop.work", "schedule": 0.25}}'
TTL, WAIT = 2.0, 0.4
HAS_BATCHES = hasattr(Producer, "batch")
"""Whether runs are published transactionally at all: kombu before 5.7 cannot collect messages."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("info", [True, False], ids=["exactly", "info-denied"])
@pytest.mark.parametrize("lines", ["both lines", "the first line"])
def test_beats_and_workers_need_no_more_than_the_printed_rights(
    children: Children, tmp_path: Path, valkey_server: Server, info: bool, lines: str
) -> None:
    """With the first line alone, which was all there was once, runs go by write-ahead."""
    candidate, viewer, _ = printed("shop")
    viewing = user_with(valkey_server, viewer)
    limited = user_with(valkey_server, candidate, without="" if info else "info")
    settings = {"leader_url": limited, "leader_ttl": TTL, "leader_wait": WAIT}
    workers = Workers(children, tmp_path, valkey_server.url, **settings)
    queue = workers.queue
    if lines == "both lines":
        user_with(valkey_server, printed("shop", queues=QueueKeys((queue,)))[1])
    folder = tmp_path / "beat"
    folder.mkdir()
    write_app(folder, valkey_server.url, SCHEDULE, **workers.settings)
    consumers = [workers.start("-c", "1") for _ in range(2)]
    beats = [Beat(children, folder, name=f"beat {number}") for number in range(2)]
    first = leader_of(lambda: beats, 30)
    second = next(beat for beat in beats if beat is not first)
    second.child.wait_for_line(f":{first.pid}:")
    workers.wait_for_runs(4, timeout=30)
    wait_until(
        lambda: any("Elected leader" in line for each in consumers for line in each.lines), 30
    )

    told = first.terminate()
    assert leader_of(lambda: beats, 30) is second
    handed_over = second.tenures[-1].start - told
    assert handed_over < TTL, f"by a handover, not by waiting: {handed_over:.3f} s"
    workers.wait_for_runs(len(workers.runs()) + 4, timeout=30)

    looking = {**workers.settings, "leader_url": viewing}
    write_app(folder, valkey_server.url, SCHEDULE, **looking)
    program = ["celery", "-A", "app", "leader", "status"]
    status = children.module(*program, env={"PYTHONPATH": str(folder)}, cwd=folder, name="status")
    assert status.wait(30) == 0, status.output
    assert f":{second.pid}:" in status.output
    way = "transactional" if HAS_BATCHES and lines == "both lines" else "write-ahead"
    assert f"publication: {way}" in status.output

    second.terminate()
    for consumer in consumers:
        consumer.stop()
    runs = Counter(run.id for run in workers.runs())
    assert set(runs.values()) == {1}
    everybody = [*(beat.child for beat in beats), *consumers]
    for child in everybody:
        assert "Traceback" not in child.output
        assert "lacks a right" not in child.output
        warned = [line for line in child.lines if "may not run INFO" in line]
        assert len(warned) == (0 if info else 1), child.output
    for beat in beats:
        fallen = [line for line in beat.child.lines if "Redis does not let one script" in line]
        assert len(fallen) == (HAS_BATCHES and lines != "both lines"), beat.child.output
    allowed = set() if info else {"celery-leader: info"}
    if HAS_BATCHES and lines == "the first line":
        allowed |= {"celery-leader: lpush", f"celery-leader: {queue}"}
    refused = denials(valkey_server.client())
    assert set(refused) <= allowed, refused
