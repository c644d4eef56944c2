"""Beats and workers answer health checks: alive, ready, leading. And tell systemd."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import SCHEDULER, Beat, leader_of, write_app
from tests.support.celery.embedded import WorkerWithBeat
from tests.support.network.ports import free_port
from tests.support.processes import Child, Children, wait_until
from tests.support.servers import Server
from tests.unit.runtime.test_systemd import Manager

MIXED = """
from celery.beat import Scheduler
from celery_safe_leader.schedulers import LeaderSchedulerMixin

class Mixed(LeaderSchedulerMixin, Scheduler):
    pass
"""
WORKER = """
import celery_safe_leader
celery_safe_leader.install(app)
"""
TTL = 1.0
"""Seconds; of two beats."""
SCHEDULE = '{"tick": {"task": "shop.work", "schedule": 0.5}}'


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


def _connection(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=10)


def ask(where: str | int, page: str) -> tuple[int, dict[str, Any]]:
    """Return status and body; 0 if nobody answers."""
    client = UnixConnection(where) if isinstance(where, str) else _connection(where)
    try:
        client.request("GET", page)
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException):
        return 0, {}
    finally:
        client.close()


def wait_for(where: str | int, page: str, status: int) -> dict[str, Any]:
    def asked() -> dict[str, Any] | None:
        found, body = ask(where, page)
        return body if found == status else None

    found = wait_until(asked, 60, lambda: f"{page} {status}, and it is {ask(where, page)}")
    assert found is not None
    return found


@pytest.mark.parametrize("scheduler", ["celery_safe_leader.LeaderScheduler", "app.Mixed"])
def test_of_two_beats_one_leads_until_it_is_stopped(
    children: Children, tmp_path: Path, valkey_server: Server, scheduler: str
) -> None:
    """Both are started by one settings file: a unix socket each."""
    leave_resigned(valkey_server.url, "shop", "beat")
    write_app(
        tmp_path, valkey_server.url, SCHEDULE, more=MIXED,
        leader_ttl=TTL, leader_http=str(tmp_path / "%r-%p.sock"),
    )  # fmt: skip
    beats = [Beat(children, tmp_path, name=f"{n}", scheduler=scheduler) for n in (1, 2)]
    sockets = {beat.name: str(tmp_path / f"beat-{beat.pid}.sock") for beat in beats}
    first = leader_of(lambda: beats, 60)
    (second,) = (beat for beat in beats if beat is not first)
    for beat in beats:
        assert wait_for(sockets[beat.name], "/livez", 200)["alive"]
        body = wait_for(sockets[beat.name], "/readyz", 200)
        assert (body["pid"], body["role"], body["election"]) == (beat.pid, "beat", "shop:beat")
    body = wait_for(sockets[first.name], "/leader", 200)
    assert (body["leads"], 0 < body["remaining"] <= 1) == (True, True)
    assert ask(sockets[second.name], "/leader")[0] == 503

    if scheduler == SCHEDULER:
        _compare_metrics(sockets[first.name], sockets[second.name], valkey_server)

    first.child.pause()
    wait_for(sockets[second.name], "/leader", 200)
    # Sent after its deadline: whenever it answers, it is not 200.
    client = UnixConnection(sockets[first.name])
    client.request("GET", "/leader")
    first.child.resume()
    answer = client.getresponse()
    assert (answer.status, json.loads(answer.read())["leads"]) == (503, False)
    client.close()
    second.terminate()
    assert not os.path.exists(sockets[second.name])


def scraped(where: str | int) -> tuple[str, dict[str, float]]:
    """Return the metrics of a process: as text, and by name and labels of their own."""
    client = UnixConnection(where) if isinstance(where, str) else _connection(where)
    with contextlib.closing(client):
        client.request("GET", "/metrics")
        answer = client.getresponse()
        text = answer.read().decode()
    assert answer.status == 200, text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = [v for k, v in sample.labels.items() if k not in ("role", "election")]
            found["/".join([sample.name.removeprefix("celery_safe_leader_"), *own])] = sample.value
    return text, found


def _compare_metrics(leads: str, stands_by: str, server: Server) -> None:
    client: Any = server.client()

    def agrees() -> bool:
        # Between two runs: what is counted is what the queue holds.
        before = client.llen("celery")
        _, found = scraped(leads)
        return bool(
            before
            and before
            == client.llen("celery")
            == found.get("runs_published_total/transactional")
            == found["run_lateness_seconds_count"]
        )

    wait_until(agrees, 30, lambda: scraped(leads)[0])
    _, first = scraped(leads)
    _, second = scraped(stands_by)
    assert (first["is_leader"], second["is_leader"]) == (1, 0)
    assert (first["tenures_total"], second["tenures_total"]) == (1, 0)
    assert (first["paused"], first["unsettled_runs"]) == (0, 0)
    assert first["entries"] == second["entries"] == 2
    assert first["ledger_load_seconds_count"] == 1
    assert "paused" not in second
    assert 0 < first["lease_remaining_seconds"] <= TTL
    wait_until(lambda: scraped(leads)[1]["renewal_seconds_count"] > 0, 30)


@pytest.mark.long
def test_promtool_accepts_what_is_scraped(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    tool = shutil.which("promtool")
    assert tool is not None, "promtool is not installed: make setup-long"
    leave_resigned(valkey_server.url, "shop", "beat")
    path = str(tmp_path / "beat.sock")
    write_app(tmp_path, valkey_server.url, SCHEDULE, leader_http=path)
    Beat(children, tmp_path)
    wait_for(path, "/leader", 200)
    text, _ = scraped(path)
    done = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_readiness_goes_with_redis_and_livez_does_not(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    port = free_port()
    leave_resigned(valkey_server.url, "shop", "beat")
    write_app(tmp_path, valkey_server.url, SCHEDULE, leader_http=f"127.0.0.1:{port}")
    Beat(children, tmp_path)
    wait_for(port, "/leader", 200)
    valkey_server.stop()
    body = wait_for(port, "/readyz", 503)
    assert body["reason"].startswith("Redis has not answered for")
    assert ask(port, "/leader")[0] == 503
    assert ask(port, "/livez")[0] == 200


@pytest.mark.parametrize(
    "pool",
    [
        "prefork",
        "gevent",
        pytest.param("threads", marks=pytest.mark.long),
        pytest.param("solo", marks=pytest.mark.long),
    ],
)
def test_a_worker_answers_for_itself_and_its_beat(
    children: Children, tmp_path: Path, valkey_server: Server, pool: str
) -> None:
    port = free_port()
    write_app(
        tmp_path, valkey_server.url, SCHEDULE, more=WORKER, leader_http=f"127.0.0.1:{port}",
        beat_scheduler="celery_safe_leader.LeaderScheduler",
    )  # fmt: skip
    leave_resigned(valkey_server.url, "shop", "worker")
    words = ["celery", "-A", "app", "worker", "-P", pool, "-c", "1", "-l", "INFO"]
    words += ["-B"] * (pool == "prefork")
    child = children.module(*words, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    body = wait_for(port, "/leader", 200)
    assert (body["pid"], body["role"], body["election"]) == (child.pid, "worker", "shop:worker")
    assert ask(port, "/livez")[0] == 200
    assert ask(port, "/readyz")[0] == 200
    _, found = scraped(port)
    assert (found["is_leader"], found["duplicates_dropped_total"]) == (1, 0)
    assert "cannot be answered" not in child.output


def test_a_worker_shows_what_its_embedded_beats_have_counted(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    path = str(tmp_path / "worker.sock")
    elsewhere = "{'tick': {'task': 'shop.work', 'schedule': 1.0, 'options': {'queue': 'unread'}}}"
    write_app(
        tmp_path, valkey_server.url, elsewhere, more=WORKER, leader_http=path,
        beat_scheduler=SCHEDULER,
    )  # fmt: skip
    leave_resigned(valkey_server.url, "shop", "worker")
    words = ["celery", "-A", "app", "worker", "-c", "1", "-l", "INFO", "-B"]
    child = children.module(*words, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    beat = WorkerWithBeat(child)
    first = beat.wait_beat()
    wait_for(path, "/leader", 200)
    client: Any = valkey_server.client()

    def queued(pid: int) -> int:
        origins = [json.loads(each)["headers"]["origin"] for each in client.lrange("unread", 0, -1)]
        return sum(origin.startswith(f"gen{pid}@") for origin in origins)

    def agrees(pid: int, least: int) -> bool:
        # Between two runs: the beat passes its counts on twice a second.
        before = queued(pid)
        _, found = scraped(path)
        return (
            before == queued(pid) >= least
            and found.get("runs_published_total/transactional") == before
            and found["run_lateness_seconds_count"] == before
        )

    wait_until(lambda: agrees(first, 2), 30, lambda: f"{queued(first)}; {scraped(path)[0]}")
    _, found = scraped(path)
    assert (found["is_leader"], found["entries"], found["paused"]) == (1, 2, 0)
    wait_until(lambda: scraped(path)[1]["run_overdue_seconds"] == 0, 30)
    assert found["ledger_load_seconds_count"] == 1
    os.kill(first, signal.SIGKILL)
    # While there is no beat, nothing is said of its schedule.
    wait_until(lambda: "entries" not in scraped(path)[1], 30)
    assert scraped(path)[1]["run_lateness_seconds_count"] >= 2
    second = beat.wait_beat(2)
    wait_until(lambda: agrees(second, 1), 60, lambda: f"{queued(second)}; {scraped(path)[0]}")
    assert listeners_of(path) == {child.pid}
    assert child.stop() == 0


def listeners_of(path: str) -> set[int]:
    """Return the processes that have the socket which listens at a path."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return holders({f"socket:[{row[6]}]" for row in rows if row[7:] == [path] and row[5] == "01"})


@pytest.mark.long
def test_two_beats_and_two_workers_of_one_settings_file_share_a_host(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    """By sockets with their pids each answers; of one port, one of them after the other."""
    for address in (str(tmp_path / "%r-%p.sock"), f"127.0.0.1:{free_port()}"):
        for role in ("beat", "worker"):
            leave_resigned(valkey_server.url, "shop", role)
        write_app(tmp_path, valkey_server.url, SCHEDULE, more=WORKER, leader_http=address)
        env = {"PYTHONPATH": str(tmp_path)}
        pools = ("prefork", "gevent")
        words = ["celery", "-A", "app", "worker", "-c", "2", "-l", "INFO", "-P"]
        processes = {
            child.pid: (child, role)
            for child, role in [
                *((Beat(children, tmp_path, name=f"{n}").child, "beat") for n in (1, 2)),
                *((children.module(*words, p, env=env, cwd=tmp_path), "worker") for p in pools),
            ]
        }
        if address.startswith("/"):
            _check_that_each_answers(address, processes)
        else:
            _check_that_one_answers(int(address.rpartition(":")[2]), processes)
        for child, _ in processes.values():
            assert not child.running or child.stop() == 0, child.output
            assert "Traceback" not in child.output


def _check_that_each_answers(address: str, processes: dict[int, tuple[Child, str]]) -> None:
    where = {
        pid: address.replace("%r", role).replace("%p", str(pid))
        for pid, (_, role) in processes.items()
    }
    for pid, (_, role) in processes.items():
        body = wait_for(where[pid], "/readyz", 200)
        assert (body["pid"], body["role"], body["election"]) == (pid, role, f"shop:{role}")

    def leaders() -> list[str]:
        return sorted(
            role for pid, (_, role) in processes.items() if ask(where[pid], "/leader")[0] == 200
        )

    wait_until(lambda: leaders() == ["beat", "worker"], 30, lambda: f"{leaders()}")
    assert {pid: listeners_of(path) for pid, path in where.items()} == {p: {p} for p in where}


def _check_that_one_answers(port: int, processes: dict[int, tuple[Child, str]]) -> None:
    left = dict(processes)
    while left:
        body = wait_for(port, "/livez", 200)
        child, role = left.pop(body["pid"])
        assert body["role"] == role
        for other, _ in left.values():
            # It goes on as without an address, and says so.
            other.wait_for_line("Address already in use", 30)
        assert child.stop() == 0, child.output


@pytest.mark.long
def test_pool_processes_that_begin_later_do_not_hold_the_address(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    port = free_port()
    write_app(
        tmp_path, valkey_server.url, SCHEDULE, more=WORKER, leader_http=f"127.0.0.1:{port}",
        beat_scheduler=SCHEDULER,
    )  # fmt: skip
    leave_resigned(valkey_server.url, "shop", "worker")
    words = ["celery", "-A", "app", "worker", "-c", "1", "-l", "INFO", "-B"]
    words.append("--max-tasks-per-child=1")
    child = children.module(*words, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    wait_for(port, "/leader", 200)
    wait_until(lambda: child.output.count("succeeded in") >= 3, 60, lambda: child.output)
    assert listeners(port) == {child.pid}


def listeners(port: int) -> set[int]:
    """Return the processes that have the socket which listens at a port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return holders(
        {
            f"socket:[{row[9]}]"
            for row in rows
            if row[3] == "0A" and int(row[1].partition(":")[2], 16) == port
        }
    )


def holders(inodes: set[str]) -> set[int]:
    """Return the processes that have one of some sockets."""
    assert inodes
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) in inodes:
                found.add(int(link.parts[2]))
    return found


def test_systemd_is_told_by_a_beat(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    manager = Manager(str(tmp_path / "notify"))
    leave_resigned(valkey_server.url, "shop", "beat")
    write_app(tmp_path, valkey_server.url, SCHEDULE, more=WORKER, leader_ttl=1.0)
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    beat = Beat(children, tmp_path, env=env)
    wait_until(lambda: any("leads (token" in each for each in manager.read()), 60, beat.name)
    manager.wait_for("WATCHDOG=1", 3)
    beat.terminate()
    manager.wait_for("STOPPING=1")
    assert manager.messages[0].startswith("READY=1\nSTATUS=shop:beat: ")
    manager.close()


@pytest.mark.long
def test_systemd_is_told_by_a_worker_and_not_by_its_pool(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    manager = Manager(str(tmp_path / "notify"))
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    write_app(tmp_path, valkey_server.url, SCHEDULE, more=WORKER, leader_ttl=1.0)
    words = ["celery", "-A", "app", "worker", "-c", "1", "-l", "INFO"]
    env["PYTHONPATH"] = str(tmp_path)
    worker = children.module(*words, env=env, cwd=tmp_path)
    manager.wait_for("WATCHDOG=1", 3)
    assert worker.stop() == 0
    manager.wait_for("STOPPING=1")
    ready = [each for each in manager.messages if each.startswith("READY=1")]
    assert len(ready) == 1, "pool processes say nothing"
    manager.close()
