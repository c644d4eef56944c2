"""What beats publish twice, workers run once: real beats, real workers, real brokers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.celery.periodic_workers import Run, Workers
from tests.support.network.proxy import Proxy
from tests.support.processes import Children, wait_until
from tests.support.processes.child import Child
from tests.support.servers import Server, installed_kinds
from tests.support.servers.rabbitmq import rabbitmq_urls

STEP = 0.25
SCHEDULE = f"""{{
    name: {{"task": "shop.work", "schedule": {STEP}, "kwargs": {{"entry": name}}}}
    for name in ("one", "two")
}}"""
DROPPED = "Dropped a second publication of periodic run"


@dataclass
class Scene:
    """Two beats that reach the broker by a link, and two workers that reach it without."""

    link: Proxy
    workers: Workers
    each_worker: list[Child]
    beats: list[Beat]

    def dropped(self) -> int:
        return sum(DROPPED in line for worker in self.each_worker for line in worker.lines)

    def has_dropped(self, count: int) -> bool:
        return self.dropped() >= count

    def has_published_again(self, count: int) -> bool:
        lines = [beat.lines("The broker accepts messages again") for beat in self.beats]
        return sum(map(len, lines)) >= count

    def leader(self) -> Beat:
        return leader_of(lambda: self.beats, 30)

    def wait_for_more_runs(self, count: int = 8) -> None:
        self.workers.wait_for_runs(len(self.workers.runs()) + count, timeout=30)


@pytest.fixture(params=["redis", *rabbitmq_urls()], ids=lambda url: url.split(":")[0])
def scene(request: pytest.FixtureRequest, children: Children, tmp_path: Path) -> Iterator[Scene]:
    kind = installed_kinds()[0]
    with Server(kind) as store, Server(kind) as own:
        broker = own.url if request.param == "redis" else request.param
        workers = Workers(children, tmp_path, broker, leader_url=store.url)
        with workers.app.connection_for_read() as connection:
            host, port = connection.hostname, connection.port or connection.default_port
        with Proxy(port, host) as link:
            folder = tmp_path / "beat"
            folder.mkdir()
            url = broker.replace(f"{host}:{port}", f"{link.host}:{link.port}")
            settings = {**workers.settings, "broker_url": url}
            write_app(folder, url, SCHEDULE, **settings)
            each_worker = [workers.start("-c", "2") for _ in range(2)]
            beats = [Beat(children, folder, name=f"beat {number}") for number in range(2)]
            yield Scene(link, workers, each_worker, beats)
            children.close()
            workers.close()


def check(runs: list[Run]) -> None:
    """No occurrence ran twice, and none is missing: the ranges of each entry touch."""
    assert [run for run, times in Counter(each.id for each in runs).items() if times > 1] == []
    # Both entries have the same moments.
    ranges = Counter(tuple(map(int, (run.covers or "").split(","))) for run in runs)
    ordered = sorted(ranges)
    step = round(STEP * 1_000_000)
    assert [pair for pair in itertools.pairwise(ordered) if pair[1][0] - pair[0][1] != step] == []


@pytest.mark.timeout(120)
def test_a_broker_connection_cut_between_write_and_reply_publishes_twice_and_executes_once(
    scene: Scene, measured: Callable[[str], None]
) -> None:
    scene.leader()
    scene.wait_for_more_runs()
    cuts = 4
    for number in range(cuts):
        # A leader that is uncertain looks whether a worker has accepted the run already. While
        # none takes anything it has to publish again.
        for worker in scene.each_worker:
            worker.pause()
        assert scene.link.cut_after_request(b"leader_publication").wait(10)
        wait_until(partial(scene.has_published_again, number + 1), 30, "a second publication")
        for worker in scene.each_worker:
            worker.resume()
        wait_until(partial(scene.has_dropped, number + 1), 30, "a dropped message")
        scene.wait_for_more_runs()
    scene.leader().terminate()
    scene.wait_for_more_runs()
    dropped = scene.dropped()
    assert dropped >= cuts
    runs = scene.workers.runs()
    measured(f"workers: {cuts} cuts, {dropped} messages dropped, {len(runs)} runs, none twice")
    check(runs)
