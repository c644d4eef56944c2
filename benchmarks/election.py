"""What the election costs: a look at ``is_leader``, Redis commands, a handover among very many."""

from __future__ import annotations

import json
import resource
import signal
import time
import timeit
from dataclasses import dataclass
from statistics import median

from benchmarks.report import Report
from celery_safe_leader import SafeLeader, create_safe_redis_leader
from tests.support.processes import Child, Children
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server, installed_kinds

__all__ = ["Handover", "cost_of_is_leader", "handovers", "main", "requests", "requests_so_far"]


def cost_of_is_leader(leader: SafeLeader) -> float:
    """Return the seconds of one look: the best of many, since other processes disturb."""
    # Slices of about 2 ms: short enough to fall between two disturbances.
    timer = timeit.Timer("leader.is_leader", globals={"leader": leader})
    return min(timer.repeat(number=1000, repeat=500)) / 1000


def _commands(server: Server) -> dict[str, int]:
    """Return how often each command was called, be it by clients or by scripts."""
    stats = server.client().info("commandstats")
    return {name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in stats.items()}


def requests(server: Server, seconds: float) -> dict[str, int]:
    """Return which commands the election's clients sent within some seconds."""
    before = _commands(server)
    time.sleep(seconds)
    after = _commands(server)
    # Those that scripts send are left out; no script sends one of these.
    names = ("evalsha", "eval", "blpop", "xread", "hgetall", "ping", "wait")
    sent = {name: after.get(name, 0) - before.get(name, 0) for name in names}
    return {name: count for name, count in sent.items() if count}


def requests_so_far(server: Server) -> int:
    """Return how many requests of elections there have been, those that read and wait included."""
    commands = _commands(server)
    return sum(commands.get(name, 0) for name in ("evalsha", "eval", "blpop"))


@dataclass(frozen=True)
class Handover:
    """One handover among many standbys."""

    seconds: float
    """From the leader's stop() to the next leader."""
    server_cpu: float
    """Seconds of the server's processor, from before the handover to one quiet moment after."""
    requests: int
    """Of all candidates, in that time."""


def _server_cpu(server: Server) -> float:
    info = server.client().info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def _told(crowd: list[Child], what: str, after: float) -> float | None:
    """Return when a process of the crowd said something, if it did since."""
    for process in crowd:
        for line in process.timed_lines:
            if f'"{what}"' in line.text and (at := json.loads(line.text)["at"]) >= after:
                return float(at)
    return None


def _wait_told(crowd: list[Child], what: str, after: float) -> float:
    at = wait_until(lambda: _told(crowd, what, after), 20, f"one of the crowd that is {what}")
    assert at is not None
    return at


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(8192, hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))


def handovers(
    server: Server, standbys: int, *, processes: int = 4, repeat: int = 3, wait: float = 30.0
) -> list[Handover]:
    """Hand over among very many candidates, again and again."""
    _allow_many_files()
    key, children = "crowd", Children()
    # Long times: what is measured is the handover, not the renewals and looks of a minute.
    argv = (
        "tests.support.candidates.standbys",
        server.url,
        key,
        str(standbys // processes),
        "60",
        str(wait),
    )
    try:
        with create_safe_redis_leader(redis=server.url, key=key, ttl=1, wait=0.2) as leader:
            leader.wait_until_leader(10)
            crowd = [children.module(*argv, name=f"crowd {n}") for n in range(processes)]
            for process in crowd:
                process.wait_for_line('"ready"', 60)
            time.sleep(1.0)
            began = time.monotonic()
        _wait_told(crowd, "elected", began)
        return [_hand_over(server, crowd) for _ in range(repeat)]
    finally:
        children.close()


def _hand_over(server: Server, crowd: list[Child]) -> Handover:
    before = -1
    while before != (before := requests_so_far(server)):
        time.sleep(1.0)  # a slow machine is not yet done with the one before
    requests, cpu, began = requests_so_far(server), _server_cpu(server), time.monotonic()
    for process in crowd:
        process.signal(signal.SIGUSR1)
    resigned = _wait_told(crowd, "resigned", began)
    elected = _wait_told(crowd, "elected", resigned)
    time.sleep(0.5)
    cpu, requests = _server_cpu(server) - cpu, requests_so_far(server) - requests
    return Handover(elected - resigned, cpu, requests)


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures."""
    seconds = 2 if quick else 6
    with Server(installed_kinds()[0]) as server:
        leader = create_safe_redis_leader(redis=server.url, key="cost", ttl=1.5, wait=0.3)
        leader.elect()
        leader.wait_until_leader(10)
        look = cost_of_is_leader(leader) * 1e6
        report.say(f"Sent by a leader, ttl 1.5 s, in {seconds} s: {requests(server, seconds)}")
        standby = create_safe_redis_leader(redis=server.url, key="cost", ttl=1.5, wait=0.3)
        standby.elect()
        report.say(f"and with a standby, wait 0.3 s: {requests(server, seconds)}\n")
        standby.shutdown()
        leader.shutdown()
        done = handovers(server, 1000, repeat=1 if quick else 3)
    report.at_most("a look at is_leader", look, 2, " µs")
    crowd = "a handover among 1,000 standbys"
    report.at_most(crowd, median(each.seconds for each in done) * 1000, 50, " ms")
    cpu = median(each.server_cpu for each in done) * 1000
    report.at_most(f"{crowd}, the server's processor", cpu, 50, " ms")
